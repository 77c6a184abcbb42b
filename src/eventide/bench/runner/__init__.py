"""The runner: measure solutions in confined processes against a reference that they never see.

    settings.py   counts, tolerances, limits, in layers
    process.py    one confined worker: start, talk, stop, watch, end
    bound.py      a worker bound to a workload's shared memory; one prepared and checked call
    measure.py    correctness rounds, trials, the clocks held against each other
    session.py    one workload: inputs, reference, any number of solutions
    records.py    outcome → Evaluation
    run.py        a whole data set: selection, resume, several devices
    progress.py   bars, and one line a result

`eventide bench run` is `cli.bench_run`.
"""

from __future__ import annotations

from eventide.bench.runner.run import RunReport, Selection, run_benchmark
from eventide.bench.runner.settings import Settings, SettingsLayers

__all__ = ["RunReport", "Selection", "Settings", "SettingsLayers", "run_benchmark"]
