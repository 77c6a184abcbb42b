"""Fixtures of the bench tests: the official data set, where it is beside the repository, and a small one of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventide.bench import Definition, Solution, Trace, TraceSet

from .records import DEFINITION, SOLUTION, TRACE, changed

OFFICIAL = Path(__file__).parents[3] / "shared" / "flashinfer_trace"


@pytest.fixture(scope="session")
def official() -> Path:
    """The official definitions and workloads."""
    if not OFFICIAL.is_dir():
        pytest.skip("../shared/flashinfer_trace is not beside the repository")
    return OFFICIAL


@pytest.fixture
def small(tmp_path: Path) -> TraceSet:
    """A data set on disk: one definition, three workloads, two solutions, four traces."""
    data = TraceSet(root=tmp_path / "data")
    data.add_definition(Definition.model_validate(DEFINITION))
    data.add_solution(Solution.model_validate(SOLUTION))
    data.add_solution(Solution.model_validate(changed(changed(SOLUTION, "name", "scale_slow"), "author", "baseline")))
    workloads = []
    for rows in (1, 3, 9):
        record = changed(changed(TRACE, "workload.axes.rows", rows), "workload.uuid", f"w-{rows}")
        workloads.append(Trace.model_validate(changed(changed(record, "solution", None), "evaluation", None)))
    data.add_traces(workloads)
    traces = []
    for rows, latency, solution in ((1, 1.0, "scale_numpy"), (3, 1.5, "scale_numpy"), (3, 4.0, "scale_slow")):
        record = changed(changed(TRACE, "workload.axes.rows", rows), "workload.uuid", f"w-{rows}")
        record = changed(changed(record, "solution", solution), "evaluation.performance.latency_ms", latency)
        traces.append(Trace.model_validate(changed(record, "evaluation.performance.speedup_factor", 2.0 / latency)))
    failed = changed(changed(TRACE, "workload.uuid", "w-9"), "evaluation.status", "RUNTIME_ERROR")
    failed["evaluation"].update(correctness=None, performance=None, log="Traceback: boom")
    traces.insert(2, Trace.model_validate(changed(failed, "workload.axes.rows", 9)))
    data.add_traces(traces)
    return data
