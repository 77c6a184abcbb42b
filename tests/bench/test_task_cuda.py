"""The operators' CUDA tasks as solutions: packed and compiled anywhere, measured on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from eventide import ops
from eventide.bench import TraceSet
from eventide.bench.check import check
from eventide.bench.pack_reference import run_operator
from eventide.bench.runner import Selection, run_benchmark
from eventide.cli import bench
from eventide.ops import list_ops

from .runner_kit import QUICK

NEW = ["--dtype", "bfloat16", "--context", "40", "--prefill", "30", "--batch", "3"]
WITH_CUDA_CODE = [name for name in list_ops() if (Path(ops.__file__).parent / name / "cuda.cuh").exists()]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TraceSet:
    """The bundled model's operators with their tasks."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
    root = tmp_path_factory.mktemp("cuda-tasks") / "data"
    assert bench._run(["export", str(root), "--tasks", "cuda", *NEW]) == 0
    return TraceSet.load(root)


def test_every_operator_that_fits_the_model_brings_its_tasks(tasks: TraceSet) -> None:
    assert check(tasks.root or "").problems == []
    found = set()
    for name in tasks.solution_names:
        solution = tasks.get_solution(name)
        assert solution.eventide is not None and solution.eventide.task is not None
        task = solution.eventide.task
        assert (task.backend, str(solution.spec.language), solution.author) == ("cuda", "cuda", "eventide")
        assert task.scratch_bytes and {s.path for s in solution.sources} == {"launch.py", "kernel.cu"}
        compile(solution.entry_source.content, "launch.py", "exec")
        kernel = next(s.content for s in solution.sources if s.path == "kernel.cu")
        assert f"struct {task.operator}_op" in kernel and 'extern "C" __global__' in kernel
        found.add(task.operator)
    # the model's heads have 32 dimensions, which split attention is not made for; the others are for steps of many tokens
    many = {"attention_append", "linear_part", "merge_norm", "linear_residual", "half_norm"}
    assert set(WITH_CUDA_CODE) - found <= {"attention_decode", *many}


def test_weights_in_a_gpus_panels_mean_the_same() -> None:
    rng = np.random.default_rng(0)
    n, k = 24, 64
    x, w = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((3, k), (n, k)))
    packed = np.zeros(n * k, w.dtype)
    for row in range(n):  # `weight_index` of device/cuda/runtime.cuh, element by element
        for c in range(k):
            piece = ((c >> 3) & 3) ^ ((row >> 1) & 3)
            packed[(row >> 3) * 8 * k + (c >> 5) * 256 + (row & 7) * 32 + (piece << 3) + (c & 7)] = w[row, c]
    again = run_operator("linear", {}, {"x": x, "w": packed.reshape(n // 8, k // 32, 8, 32)}, panels={"w": (n, k)})
    np.testing.assert_array_equal(run_operator("linear", {}, {"x": x, "w": w}), again)


def test_a_reference_takes_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x, w = torch.randn(3, 8).bfloat16(), torch.randn(8).bfloat16()
    y = run_operator("rms_norm", {"eps": 1e-6}, {"x": x, "w": w})
    assert y.dtype == torch.bfloat16 and y.shape == (3, 8)
    expected = (x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w.float()).bfloat16()
    torch.testing.assert_close(y, expected)


def test_float32_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench._run(["export", str(tmp_path), "--tasks", "cuda"]) == 2
    assert "--tasks cuda needs --dtype bfloat16" in capsys.readouterr().err


@pytest.mark.gpu
def test_tasks_pass_on_a_gpu(tasks: TraceSet, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    # one solution of each operator
    names = {tasks.definitions[d].op_type: s for s, (d, _) in reversed(tasks.solution_names.items())}
    settings: dict[str, Any] = {**QUICK, "timeout_s": 90.0, "cold_cache": True}
    report = run_benchmark(
        tasks,
        devices=["cuda:0"],
        selection=Selection(solutions=list(names.values()), max_workloads=1),
        command_line=settings,
        cache=tmp_path,
        unsafe=True,
    )
    assert not report.skipped, report.skipped
    for trace in report.traces:
        result = trace.evaluation
        assert result is not None and result.eventide is not None
        time = f"{1e3 * result.performance.latency_ms:.1f} us" if result.performance else result.eventide.reason
        print(trace.solution, result.status, time)
    assert all(t.passed for t in report.traces) and len(report.traces) == len(names)
    assert {"eventide_linear", "eventide_attention", "eventide_rms_norm"} <= set(names)
