"""A data set with several authors, languages and machines, as a run would leave it; its figures are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventide.bench import Definition, Solution, Trace, TraceSet

from .records import DEFINITION, SOLUTION, changed

HOSTILE = "</script><script>document.title='broken'</script>"


def demo(root: Path | None = None) -> TraceSet:
    """Three definitions, two machines; the author `eve` fails one workload and has a log full of markup."""
    data = TraceSet(root=root)
    for name, hidden in (("scale_h8", 8), ("scale_h4096", 4096), ("scale_h16384", 16384)):
        record = changed(changed(DEFINITION, "name", name), "axes.hidden.value", hidden)
        data.add_definition(Definition.model_validate({**record, "description": f"y = x * alpha, rows of {hidden}."}))
    traces = []
    for definition in data.definitions.values():
        for rows in (1, 16, 256):
            data.add_traces([Trace.model_validate(_trace(definition.name, rows, None, None))])
        for author, language, factor in (
            ("baseline", "python", 1.0),
            ("ada", "cuda", 0.4),
            ("eve", "triton", 0.7),
            ("grace", "cpp", 1.6),
        ):
            name = f"{definition.name}_{author}_{language}"
            data.add_solution(_solution(name, definition.name, author, language))
            for hardware, machine in (("NVIDIA H200", 1.0), ("AMD EPYC", 20.0)):
                for rows in (1, 16, 256):
                    reference = machine * (1 + rows / 64)
                    failed = author == "eve" and rows == 256
                    run = None if failed else (reference * factor * (1 + rows / 512), reference)
                    traces.append(Trace.model_validate(_trace(definition.name, rows, name, run, hardware)))
    data.add_traces(traces)
    return data


def _solution(name: str, definition: str, author: str, language: str) -> Solution:
    record = changed(changed(changed(SOLUTION, "name", name), "definition", definition), "author", author)
    record = changed(record, "spec.language", language)
    content = f"# {name} {HOSTILE}\ndef run(x, alpha, y):\n    y[...] = x * alpha\n"
    return Solution.model_validate(changed(record, "sources.0.content", content))


def _trace(
    definition: str, rows: int, solution: str | None, run: tuple[float, float] | None, hardware: str = ""
) -> dict[str, Any]:
    workload = {
        "axes": {"rows": rows},
        "inputs": {"x": {"type": "random"}, "alpha": {"type": "scalar", "value": 2.0}},
        "uuid": f"{definition}-{rows}",
    }
    trace: dict[str, Any] = {"definition": definition, "workload": workload, "solution": solution}
    if solution is None:
        return trace
    evaluation: dict[str, Any] = {
        "status": "RUNTIME_ERROR",
        "environment": {"hardware": hardware, "libs": {"numpy": "2.0"}},
        "timestamp": "2026-01-01T00:00:00Z",
        "log": f"Traceback: out of range {HOSTILE}",
    }
    if run is not None:
        latency, reference = run
        speedup = reference / latency
        evaluation.update(
            status="PASSED",
            log="",
            correctness={"max_relative_error": 1e-3, "max_absolute_error": 1e-4},
            performance={"latency_ms": latency, "reference_latency_ms": reference, "speedup_factor": speedup},
            eventide={
                "version": 1,
                "timing": {
                    "latency_ms": [latency * 0.97, latency * 1.03],
                    "speedup_factor": [speedup * 0.97, speedup * 1.03],
                    "samples_ms": [[latency] * 5, [latency] * 5],
                    "method": {"clock": "wall clock of the demo", "cold_cache": True},
                },
                "device": {"sm_clock_mhz": 1980.0, "temperature_c": 55.0},
                "roofline": {"flops": 1e9, "tflops": 1.5, "gb_per_s": 4321.0},
            },
        )
    trace["evaluation"] = evaluation
    return trace
