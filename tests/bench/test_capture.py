"""Capturing: what is recorded, what is kept of it, and that it is written whatever ends the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from eventide.bench import (
    Definition,
    SafetensorsInput,
    TraceSet,
    TracingConfig,
    apply,
    capture,
    disable_apply,
    disable_tracing,
    enable_apply,
    enable_tracing,
)
from eventide.bench.capture_policy import Filter
from eventide.bench.check import check
from eventide.errors import BenchError, UsageError

from .records import DEFINITION, changed

ATTENTION: dict[str, Any] = {
    "name": "paged",
    "op_type": "gqa_paged",
    "axes": {
        "batch": {"type": "var"},
        "len_indptr": {"type": "var"},
        "num_indices": {"type": "var"},
        "dim": {"type": "const", "value": 4},
    },
    "inputs": {
        "q": {"shape": ["batch", "dim"], "dtype": "float32"},
        "kv_indptr": {"shape": ["len_indptr"], "dtype": "int32"},
        "kv_indices": {"shape": ["num_indices"], "dtype": "int32"},
        "sm_scale": {"shape": None, "dtype": "float32"},
    },
    "outputs": {"output": {"shape": ["batch", "dim"], "dtype": "float32"}},
    "constraints": ["len_indptr == batch + 1", "num_indices == kv_indptr[-1].item()"],
    "reference": "def run(q, kv_indptr, kv_indices, sm_scale):\n    return q\n",
}


@pytest.fixture
def data(tmp_path: Path) -> Iterator[TraceSet]:
    disable_apply()
    made = TraceSet(root=tmp_path / "data")
    made.add_definition(Definition.model_validate(ATTENTION))
    made.add_definition(Definition.model_validate(DEFINITION))
    yield made
    disable_tracing()


def call(lengths: list[int]) -> tuple[Any, ...]:
    """Arguments of a batch with these key-value lengths."""
    indptr = np.cumsum([0, *lengths]).astype(np.int32)
    return np.ones((len(lengths), 4), np.float32), indptr, np.arange(indptr[-1], dtype=np.int32), 0.5


def identity(q: Any, kv_indptr: Any, kv_indices: Any, sm_scale: Any, output: Any = None) -> Any:
    """What the program computes."""
    return q


def test_what_is_recorded(data: TraceSet) -> None:
    tracer = enable_tracing(data, TracingConfig(dump="int", filter="all"))
    traced = capture("paged")(identity)
    assert traced.__name__ == "identity"
    args = call([3, 5])
    assert traced(*args) is args[0]
    traced(args[0], args[1], sm_scale=args[3], kv_indices=args[2])
    traced(*args, np.zeros((2, 4), np.float32))  # destination passing: outputs are no inputs
    args[1][:] = 0  # the contents of the moment of the call count
    assert tracer.recorded == {"paged": 3} and disable_tracing() == 3
    again = TraceSet.load(data.root or "")
    assert len(again.workloads["paged"]) == 3 and len({t.uuid for t in again.workloads["paged"]}) == 3
    for trace in again.workloads["paged"]:
        assert trace.axes == {"batch": 2, "len_indptr": 3, "num_indices": 8}
        assert [i.type for i in trace.inputs.values()] == ["random", "safetensors", "safetensors", "scalar"]
        stored = trace.inputs["kv_indptr"]
        assert isinstance(stored, SafetensorsInput)
        assert stored.path == f"blob/workloads/gqa_paged/paged/paged_{trace.uuid}.safetensors"
        contents = load_file(again.blob_file(stored))
        assert contents["kv_indptr"].tolist() == [0, 3, 8] and contents["kv_indices"].dtype == np.int32
    assert check(data.root or "").problems == []


@pytest.mark.parametrize(
    ("dump", "kinds"),
    [
        ("none", ["random", "random", "random", "scalar"]),
        ("dump_int", ["random", "safetensors", "safetensors", "scalar"]),
        ("all", ["safetensors", "safetensors", "safetensors", "scalar"]),
        (["q"], ["safetensors", "random", "random", "scalar"]),
    ],
)
def test_dump_policies(data: TraceSet, dump: Any, kinds: list[str]) -> None:
    enable_tracing(data, TracingConfig(dump=dump))
    capture("paged")(identity)(*call([1]))
    disable_tracing()
    assert [i.type for i in data.workloads["paged"][0].inputs.values()] == kinds


CALLS = [[3, 5], [3, 5], [4, 4], [8], [2, 2], [9, 9], [9, 9]]


@pytest.mark.parametrize(
    ("filter_", "k", "kept"),
    [
        ("all", 1, [0, 1, 2, 3, 4, 5, 6]),
        ("none", 1, []),
        ("first", 5, [0]),
        ("keep_first_k", 3, [0, 1, 2]),
        ("first_k_by_axes", 1, [0, 3, 4, 5]),  # the first three have the same shapes
        ("first_k_by_axes", 2, [0, 1, 3, 4, 5, 6]),
        ("attention", 1, [0, 3, 4, 5]),  # by mean length: 4, 8, 2, 9
    ],
)
def test_filters(filter_: str, k: int, kept: list[int]) -> None:
    decide = Filter(TracingConfig(filter=filter_, k=k))
    found = []
    for i, lengths in enumerate(CALLS):
        q, indptr, indices, _ = call(lengths)
        axes = {"batch": len(lengths), "len_indptr": len(indptr), "num_indices": len(indices)}
        if decide.keeps(axes, {"q": q, "kv_indptr": indptr}):
            found.append(i)
    assert found == kept


def test_the_attention_filter_rounds_and_falls_back_to_axes() -> None:
    decide = Filter(TracingConfig(filter="attention"))
    assert decide.keeps({"n": 1}, {"kv_indptr": np.array([0, 100, 200])})
    assert not decide.keeps({"n": 2}, {"kv_indptr": np.array([0, 100, 200])})
    assert decide.keeps({"n": 2}, {"kv_indptr": np.array([0, 100, 203])})  # mean 101.5 is another length
    assert decide.keeps({"n": 1}, {"x": 1}) and not decide.keeps({"n": 1}, {"x": 2})


def test_settings_by_definition(data: TraceSet) -> None:
    enable_tracing(data, {"paged": TracingConfig(filter="none")})
    capture("paged")(identity)(*call([1]))
    capture("scale_h8")(lambda x, alpha: x)(np.ones((2, 8), np.float32), 2)
    disable_tracing()
    assert len(data.workloads["paged"]) == 0
    assert data.workloads["scale_h8"][0].inputs["alpha"].model_dump() == {"type": "scalar", "value": 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TracingConfig(dump="some"), "dump must be one of all, none, int or a list of inputs, got 'some'"),
        (lambda: TracingConfig(filter="odd"), "filter must be one of all, none, first"),
        (lambda: TracingConfig(k=0), "k must be at least 1, got 0"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_bad_places(data: TraceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="dump names 'zz', which is no input of paged"):
        enable_tracing(data, {"paged": TracingConfig(dump=["zz"])})
    with pytest.raises(BenchError, match="has no definition 'zz'"):
        enable_tracing(data, {"zz": TracingConfig()})
    with pytest.raises(UsageError, match="needs a data set with a folder"):
        enable_tracing(TraceSet())
    monkeypatch.delenv("FIB_DATASET_PATH", raising=False)
    with pytest.raises(UsageError, match="needs a data set: give one, or set FIB_DATASET_PATH"):
        enable_tracing()


def test_a_call_that_does_not_fit_is_counted_and_passed_on(data: TraceSet, caplog: pytest.LogCaptureFixture) -> None:
    tracer = enable_tracing(data)
    traced = capture("scale_h8")(lambda *args: "result")
    for args in ((np.ones((2, 9), np.float32), 2), (1,), ("text", 2), (np.ones((2, 8), np.int8), 1.0)):
        assert traced(*args) == traced(*args) == "result"
    assert sum(tracer.skipped.values()) == 8 and not tracer.recorded
    assert len(caplog.records) == 4  # each reason once


def test_off_is_nothing(data: TraceSet) -> None:
    disable_tracing()
    assert capture("paged")(identity) is identity
    enable_tracing(data)
    assert capture("not there")(identity) is identity
    assert capture("paged")(identity) is not identity


def test_a_resolver(data: TraceSet) -> None:
    tracer = enable_tracing(data)
    traced = capture(lambda x, alpha: f"scale_h{x.shape[1]}")(lambda x, alpha: x)
    traced(np.ones((2, 8), np.float32), 2.0)
    traced(np.ones((2, 9), np.float32), 2.0)
    assert tracer.recorded == {"scale_h8": 1}


def test_apply_records_too(data: TraceSet) -> None:
    tracer = enable_tracing(data)
    x = np.ones((2, 8), np.float32)
    for on in (False, True):
        if on:
            enable_apply(data)
        decorated = apply("scale_h8")(lambda x, alpha: x)
        decorated(x[: 1 + on], 2.0)
        apply("scale_h8", (np.ones((5 + on, 8), np.float32), 2.0), fallback=lambda x, alpha: x)
    disable_apply()
    assert tracer.recorded == {"scale_h8": 4}


def test_array_types_that_numpy_lacks(data: TraceSet) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in ("bfloat16", "float8_e4m3fn"):
        record = changed(changed(DEFINITION, "name", dtype), "inputs.x.dtype", dtype)
        data.add_definition(Definition.model_validate(record))
        enable_tracing(data, TracingConfig(dump="all"))
        capture(dtype)(lambda x, alpha: x)(np.ones((2, 8), getattr(ml_dtypes, dtype)), 1.0)
        assert disable_tracing() == 1
    assert check(data.root or "").problems == []  # the stored types are the definitions'


def test_torch_tensors(data: TraceSet) -> None:
    torch = pytest.importorskip("torch")
    record = changed(changed(DEFINITION, "name", "bf"), "inputs.x.dtype", "bfloat16")
    data.add_definition(Definition.model_validate(record))
    enable_tracing(data, TracingConfig(dump="all"))
    x = torch.arange(32).reshape(8, 4).T.to(torch.bfloat16)  # not contiguous, and a type NumPy lacks
    capture("bf")(lambda x, alpha: x)(x.requires_grad_(), 1.0)
    disable_tracing()
    from safetensors.torch import load_file as load_torch

    stored = data.workloads["bf"][0].inputs["x"]
    assert isinstance(stored, SafetensorsInput)
    assert torch.equal(load_torch(data.blob_file(stored))["x"], x.detach().contiguous())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_regions_are_not_recorded(data: TraceSet) -> None:
    torch = pytest.importorskip("torch")
    tracer = enable_tracing(data)
    traced = capture("scale_h8")(lambda x, alpha: x * alpha)
    compiled = torch.compile(lambda x: traced(x, 2.0) + 1, fullgraph=True, backend="eager")
    assert (compiled(torch.ones(2, 8)) == 3).all() and not tracer.recorded
    traced(torch.ones(2, 8), 2.0)
    assert tracer.recorded == {"scale_h8": 1}


# ---- however the program ends

_PROGRAM = """
import os, signal, sys, time
import numpy as np
from eventide.bench import TracingConfig, capture, enable_tracing
{before}
enable_tracing(sys.argv[1], TracingConfig(filter="all"))
f = capture("scale_h8")(lambda x, alpha: x)
for rows in (1, 2, 3):
    f(np.ones((rows, 8), np.float32), 2.0)
{after}
"""


def _program(data: TraceSet, before: str = "", after: str = "", **env: str) -> tuple[int, str, int]:
    source = str(Path(__file__).parents[2] / "src")
    code = _PROGRAM.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code, str(data.root)],
        env={"PYTHONPATH": source, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr, len(TraceSet.load(data.root or "").workloads["scale_h8"])


@pytest.mark.parametrize(
    ("before", "after", "code", "text"),
    [
        ("", "", 0, ""),
        ("", "raise SystemExit(3)", 3, ""),
        ("", "1 / 0", 1, "ZeroDivisionError"),
        ("", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)", -signal.SIGTERM, ""),
        ("", "os.kill(os.getpid(), signal.SIGINT); time.sleep(20)", -signal.SIGINT, "KeyboardInterrupt"),
        (
            "signal.signal(signal.SIGTERM, lambda *a: (print('mine'), sys.exit(5)))",
            "os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)",
            5,
            "mine",
        ),
        (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "os.kill(os.getpid(), signal.SIGTERM); print('ignored')",
            0,
            "ignored",
        ),
        ("", "os.fork() or sys.exit(0); os.wait()", 0, ""),
    ],
)
def test_it_is_written_however_the_program_ends(data: TraceSet, before: str, after: str, code: int, text: str) -> None:
    ended, output, written = _program(data, before, after)
    assert (ended, written) == (code, 3), output
    assert text in output if text else output == ""


def test_a_signal_in_the_middle_of_writing(data: TraceSet) -> None:
    # the third write is interrupted: all of it is there all the same, once
    before = """
from eventide.bench import TraceSet
real = TraceSet.add_traces
def slow(self, traces, author=None):
    if len(self.workloads["scale_h8"]) == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(self, traces, author)
TraceSet.add_traces = slow
"""
    ended, output, written = _program(data, before)
    assert (ended, written, output) == (-signal.SIGTERM, 3, "")


def test_switched_on_by_the_environment(data: TraceSet) -> None:
    source = str(Path(__file__).parents[2] / "src")
    code = (
        "import numpy as np; from eventide.bench import capture\n"
        "capture('scale_h8')(lambda x, alpha: x)(np.ones((4, 8), np.float32), 2.0)"
    )
    env = {"PYTHONPATH": source, "FIB_ENABLE_TRACING": "1", "FIB_DATASET_PATH": str(data.root)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert len(TraceSet.load(data.root or "").workloads["scale_h8"]) == 1


def test_handlers_are_put_back(data: TraceSet) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    enable_tracing(data)
    enable_tracing(data)
    assert all(signal.getsignal(n) is not before[n] for n in before)
    disable_tracing()
    assert {n: signal.getsignal(n) for n in before} == before


def test_much_is_written_on_the_way(data: TraceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventide.bench import capture_api

    monkeypatch.setattr(capture_api, "_HELD_BYTES", 1000)
    tracer = enable_tracing(data, TracingConfig(dump="all", filter="all"))
    traced = capture("scale_h8")(lambda x, alpha: x)
    for _ in range(3):
        traced(np.ones((20, 8), np.float32), 2.0)  # 640 bytes each
    assert len(TraceSet.load(data.root or "").workloads["scale_h8"]) == 2
    assert tracer.flush() == 1


def test_a_call_costs_little_once_the_filter_is_full(data: TraceSet) -> None:
    enable_tracing(data)
    traced = capture("scale_h8")(lambda x, alpha: x)
    x = np.ones((2, 8), np.float32)
    start = time.perf_counter()
    for _ in range(2000):
        traced(x, 2.0)
    assert (time.perf_counter() - start) / 2000 < 1e-3
    assert os.listdir(data.root or "") == ["definitions"]  # nothing is written before the end
