"""Eventide's own CPU tasks as solutions: they build from their own sources alone and compute their references."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from eventide import ops
from eventide.bench import Definition, SafetensorsInput, Solution, Trace, TraceSet
from eventide.bench.check import check
from eventide.bench.pack import unpack
from eventide.bench.pack_reference import run_operator
from eventide.bench.worker import calls
from eventide.cli import bench
from eventide.ops import list_ops

INCLUDE = Path(calls.__file__).parents[1] / "builders" / "include"
WITH_CPU_CODE = [name for name in list_ops() if (Path(ops.__file__).parent / name / "cpu.h").exists()]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TraceSet:
    """The bundled model's operators with their tasks."""
    root = tmp_path_factory.mktemp("tasks") / "data"
    argv = ["export", str(root), "--tasks", "--context", "40", "--prefill", "30", "--batch", "3"]
    assert bench._run(argv) == 0
    return TraceSet.load(root)


def test_every_operator_with_cpu_code_brings_it(tasks: TraceSet) -> None:
    assert check(tasks.root or "").problems == []
    found = set()
    for name in tasks.solution_names:
        solution = tasks.get_solution(name)
        assert solution.eventide is not None and solution.eventide.task is not None
        assert solution.eventide.task.backend == "cpu" and solution.author == "eventide"
        found.add(solution.eventide.task.operator)
        assert {"main.cpp", f"{solution.eventide.task.operator}_args.h"} <= {s.path for s in solution.sources}
    # split attention waits for what the engine decides as it runs: its extents may read tables
    assert set(WITH_CPU_CODE) - found <= {"attention_decode", "attention_merge", "sample_stats"}
    assert {"linear", "attention", "rms_norm", "rope_append", "sample"} <= found


def _arguments(tasks: TraceSet, definition: Definition, trace: Trace) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    values = {}
    for (name, shape), spec in zip(
        zip(definition.inputs, definition.get_input_shapes(trace.axes)), trace.inputs.values()
    ):
        if isinstance(spec, SafetensorsInput):
            values[name] = load_file(tasks.blob_file(spec))[name]
        else:
            values[name] = (rng.standard_normal(shape or ()) * 0.3).astype(definition.dtype_of(name))
    return values


def _pointers(arrays: list[Any]) -> list[Any]:
    kept = [calls.describe(a.ctypes.data, a.shape, str(a.dtype)) for a in arrays]
    return [calls.c_argument(t) for t in kept]


@needs_compiler
@pytest.mark.parametrize("operator", ["add", "attention", "linear", "rope_append", "sample"])
def test_a_task_computes_its_reference(tasks: TraceSet, operator: str, tmp_path: Path) -> None:
    name = next(n for n in tasks.solution_names if n.startswith(f"eventide_{operator}_"))
    solution = tasks.get_solution(name)
    unpack(solution, tmp_path / "s")
    out = tmp_path / "task.so"
    # nothing of Eventide's is on the include path but the bench's own header
    flags = ["-std=c++17", "-O1", "-march=native", "-fPIC", "-shared", "-Wall", f"-I{tmp_path / 's'}", f"-I{INCLUDE}"]
    done = subprocess.run(
        ["g++", *flags, "main.cpp", "-o", str(out)], cwd=tmp_path / "s", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = calls.c_function(str(out), "run")
    definition = tasks.definitions[solution.definition]
    for trace in tasks.workloads[definition.name]:
        given = _arguments(tasks, definition, trace)
        before = {n: a.copy() for n, a in given.items()}
        scope: dict[str, Any] = {}
        exec(definition.reference, scope)
        expected = scope["run"](**given)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outs = [np.zeros(e.shape, e.dtype) for e in expected]
        for _ in range(2):  # what the first call leaves behind must not matter
            run(*_pointers([*given.values(), *outs]))
        for (what, _), mine, theirs in zip(definition.outputs.items(), outs, expected):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5, err_msg=f"{name}: {what}")
        assert all(np.array_equal(before[n], given[n]) for n in given)  # inputs are inputs


def test_packed_weights_mean_the_same() -> None:
    rng = np.random.default_rng(0)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype, step in ((np.float32, 1), (ml_dtypes.bfloat16, 2)):
        x, w = (rng.standard_normal(s).astype(dtype) for s in ((3, 8), (64, 8)))
        packed = w.reshape(2, 32, 8 // step, step).transpose(0, 2, 1, 3)
        packed = packed[..., 0] if step == 1 else packed
        plain = run_operator("linear", {}, {"x": x, "w": w})
        again = run_operator("linear", {}, {"x": x, "w": packed}, panels={"w": (64, 8)})
        np.testing.assert_array_equal(plain, again)


def test_the_original_sees_an_ordinary_solution(tasks: TraceSet) -> None:
    for name in tasks.solution_names:
        text = tasks.get_solution(name).model_dump_json()
        plain = {k: v for k, v in json.loads(text).items() if k != "eventide"}
        assert Solution.model_validate(plain).spec.language == "cpp"
