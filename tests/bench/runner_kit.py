"""A small definition, its workload, and one call that measures a solution's source against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventide.bench import BuildSpec, Definition, Evaluation, Solution, SourceFile, Trace, TraceSet
from eventide.bench.runner import run_benchmark

SIZE = 4096
QUICK: dict[str, Any] = {
    "trials": 1,
    "iterations": 6,
    "min_iterations": 3,
    "warmup_runs": 1,
    "correctness_rounds": 2,
    "timeout_s": 20.0,
    "budget_s": 5.0,
    "cold_cache": False,
}

SCALE = Definition.model_validate(
    {
        "name": "scale_add",
        "op_type": "elementwise",
        "axes": {"n": {"type": "var"}},
        "inputs": {"x": {"shape": ["n"], "dtype": "float32"}, "y": {"shape": ["n"], "dtype": "float32"}},
        "outputs": {"z": {"shape": ["n"], "dtype": "float32"}},
        "reference": "def run(x, y):\n    return x * 2 + y\n",
    }
)

HONEST = "import numpy as np\n\ndef run(x, y, z):\n    np.multiply(x, 2, out=z)\n    z += y\n"


def workload(definition: Definition, uuid: str = "w-1", **axes: int) -> Trace:
    """A workload of random inputs."""
    inputs = {name: {"type": "random"} for name in definition.inputs}
    return Trace.model_validate(
        {"definition": definition.name, "workload": {"axes": axes, "inputs": inputs, "uuid": uuid}}
    )


def solution(
    source: str,
    *,
    name: str = "candidate",
    definition: Definition = SCALE,
    language: str = "python",
    file: str = "main.py",
    returns: bool = False,
    binding: str | None = None,
    extra: dict[str, str] | None = None,
) -> Solution:
    """One source file as a solution."""
    spec = {
        "language": language,
        "target_hardware": ["cpu"],
        "entry_point": f"{file}::run",
        "destination_passing_style": not returns,
        "binding": binding,
    }
    sources = [SourceFile(path=file, content=source)]
    sources += [SourceFile(path=p, content=c) for p, c in (extra or {}).items()]
    return Solution(
        name=name, definition=definition.name, author="tester", spec=BuildSpec.model_validate(spec), sources=sources
    )


def measure(
    candidate: Solution,
    cache: Path,
    *,
    definition: Definition = SCALE,
    work: Trace | None = None,
    root: Path | None = None,
    **settings: Any,
) -> Evaluation:
    """Measure one solution on one workload on the CPU, again if its timing is void, as a busy machine's is now and then; raises
    AssertionError when the run skipped it."""
    work = work or workload(definition, n=SIZE)
    method = settings.pop("sandbox_method", None)
    for folder in (cache, cache / "again"):
        data = TraceSet([definition], [work], [candidate])
        if root is not None:
            data = data.save(root)
        report = run_benchmark(
            data, devices=["cpu"], command_line={**QUICK, **settings}, cache=folder, sandbox_method=method
        )
        assert not report.skipped, report.skipped
        [trace] = report.traces
        assert trace.evaluation is not None
        if root is not None or "timing void" not in reason(trace.evaluation):
            break
    return trace.evaluation


def reason(evaluation: Evaluation) -> str:
    """Why a run did not pass."""
    assert evaluation.eventide is not None
    return evaluation.eventide.reason or ""
