"""Inputs: which source a value comes from, that initialisers keep their promises, and that seeds decide everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from eventide.bench import Definition, TraceSet, Workload
from eventide.bench.inputs import InputPlan, plan_inputs, read_safetensors
from eventide.bench.worker.arrays import TensorInfo, lay_out, numpy_dtype
from eventide.errors import BenchError, SchemaError

from .records import DEFINITION, changed

AXES = {"rows": {"type": "var"}, "total": {"type": "var"}, "vocab_size": {"type": "const", "value": 32}}


def planned(dtype: str, shape: list[str] | None, init: dict[str, Any] | None = None, **more: Any) -> InputPlan:
    """A plan with one input `x` of rows 5, total 17."""
    record: dict[str, Any] = {"name": "d", "op_type": more.pop("op_type", "test"), "axes": AXES}
    record |= {"inputs": {more.pop("name", "x"): {"shape": shape, "dtype": dtype}}}
    record |= {"outputs": {"y": {"shape": ["rows"], "dtype": "float32"}}, "reference": "def run(x):\n    return x\n"}
    definition = Definition.model_validate(record)
    inputs = {name: {"type": "random"} for name in definition.inputs}
    workload: dict[str, Any] = {"axes": {"rows": 5, "total": 17}, "inputs": inputs, "uuid": "w"}
    if init is not None:
        workload["eventide"] = {"version": 1, "init": {"x": init}}
    return plan_inputs(definition, Workload.model_validate(workload))


def drawn(plan: InputPlan, *seed: int) -> Any:
    info = plan.infos[0]
    array = np.empty(info.stored_shape, numpy_dtype(info.dtype))
    plan.fill(seed or (0,), lambda _: array)
    return array


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int64",
        "int32",
        "int16",
        "int8",
        "bool",
        "float4_e2m1",
    ],
)
def test_noise_of_every_type(dtype: str) -> None:
    array = drawn(planned(dtype, ["rows", "vocab_size"]))
    values = array.astype(np.float32)
    assert np.isfinite(values).all() and len(np.unique(values)) > 1
    if dtype == "float32":
        assert abs(values.mean()) < 0.3 and 0.7 < values.std() < 1.3


def test_the_seed_decides_every_bit() -> None:
    plan = planned("float32", ["rows"])
    assert np.array_equal(drawn(plan, 1, 2), drawn(plan, 1, 2))
    assert not np.array_equal(drawn(plan, 1, 2), drawn(plan, 1, 3))


def test_initialisers_keep_their_promises() -> None:
    indptr = drawn(planned("int32", ["rows"], {"kind": "indptr", "total": "total", "min_len": 2}))
    assert indptr[0] == 0 and indptr[-1] == 17 and np.diff(indptr).min() >= 2
    distinct = drawn(planned("int32", ["rows", "vocab_size"], {"kind": "distinct", "high": "vocab_size * 2"}))
    assert all(len(set(row)) == 32 and row.min() >= 0 and row.max() < 64 for row in distinct)
    integers = drawn(planned("int64", ["rows", "vocab_size"], {"kind": "integers", "low": 3, "high": "rows"}))
    assert set(integers.reshape(-1)) == {3, 4}
    lengths = drawn(planned("int32", ["rows"], {"kind": "lengths", "low": 1, "high": 6, "total": "total"}))
    assert lengths.sum() == 17 and lengths.min() >= 1 and lengths.max() <= 6
    rows = drawn(planned("float32", ["rows", "vocab_size"], {"kind": "probabilities"}))
    np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-5)
    assert set(drawn(planned("float32", ["total"], {"kind": "choice", "values": [1, 5]}))) == {1.0, 5.0}
    assert drawn(planned("int32", ["rows"], {"kind": "arange", "start": 2, "step": "rows"})).tolist() == [
        2,
        7,
        12,
        17,
        22,
    ]
    assert (drawn(planned("float32", ["rows"], {"kind": "constant", "value": 4.0})) == 4).all()
    uniform = drawn(planned("float32", ["rows", "vocab_size"], {"kind": "uniform", "low": 2.0, "high": 3.0}))
    assert uniform.min() >= 2 and uniform.max() <= 3
    assert drawn(planned("bool", ["rows"], {"kind": "bernoulli", "p": 1.0})).all()
    normal = drawn(planned("bfloat16", ["rows", "vocab_size"], {"kind": "normal", "mean": 10.0, "std": 0.1}))
    assert 9 < normal.astype(np.float32).mean() < 11


@pytest.mark.parametrize(
    "init",
    [
        {"kind": "integers", "low": 5, "high": 5},
        {"kind": "distinct", "high": 3},
        {"kind": "indptr", "total": 3, "min_len": 2},
        {"kind": "lengths", "low": 1, "high": 2, "total": "total"},
    ],
)
def test_impossible_initialisers_say_so(init: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match=r"^x: .*mend its initialiser"):
        drawn(planned("int32", ["rows"], init))


def test_inputs_of_sampling_operators_mean_something() -> None:
    probs = drawn(planned("float32", ["rows", "vocab_size"], op_type="sampling", name="probs"))
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
    top_k = drawn(planned("int32", ["rows"], op_type="sampling", name="top_k"))
    assert top_k.min() >= 1 and top_k.max() < 32


def test_fixed_inputs_are_permuted_when_nothing_else_varies(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    index = np.arange(5, dtype=np.int32)
    save_file({"x": x, "i": index}, tmp_path / "w.safetensors")
    record = {
        "name": "d",
        "op_type": "test",
        "axes": AXES,
        "inputs": {
            "x": {"shape": ["rows", "vocab_size"], "dtype": "float32"},
            "i": {"shape": ["rows"], "dtype": "int32"},
            "s": {"shape": None, "dtype": "float32"},
        },
        "outputs": {"y": {"shape": ["rows"], "dtype": "float32"}},
        "reference": "def run(x, i, s):\n    return x\n",
    }
    given: dict[str, Any] = {n: {"type": "safetensors", "path": "w.safetensors", "tensor_key": n} for n in "xi"}
    given["s"] = {"type": "scalar", "value": 0.5}
    workload = Workload.model_validate({"axes": {"rows": 5, "total": 1}, "inputs": given, "uuid": "w"})
    definition = Definition.model_validate(record)
    plan = plan_inputs(definition, workload, lambda spec: tmp_path / spec.path)
    arrays: dict[str, Any] = {i.name: np.empty(i.shape, i.dtype) for i in plan.infos if i.shape is not None}
    plan.fill((1,), lambda info: arrays[info.name])
    assert plan.varies and plan.infos[2].value == 0.5
    assert not np.array_equal(arrays["x"], x) and np.array_equal(np.sort(arrays["x"]), np.sort(x))
    assert np.array_equal(arrays["i"], index)
    given["x"] = {"type": "random"}
    plan = plan_inputs(
        definition, Workload.model_validate({**workload.model_dump(), "inputs": given}), lambda s: tmp_path / s.path
    )
    plan.fill((1,), lambda info: arrays[info.name])
    assert np.array_equal(arrays["i"], index)


def test_bad_workloads_name_the_input(tmp_path: Path) -> None:
    save_file({"x": np.zeros((4, 32), np.float32)}, tmp_path / "w.safetensors")
    record: dict[str, Any] = {"name": "d", "op_type": "t", "axes": AXES, "reference": "def run(x):\n    return x\n"}
    record |= {"inputs": {"x": {"shape": ["rows", "vocab_size"], "dtype": "float32"}}, "outputs": {}}
    definition = Definition.model_validate(record)

    def plan(given: dict[str, Any]) -> None:
        workload = Workload.model_validate({"axes": {"rows": 5}, "inputs": given, "uuid": "w-9"})
        plan_inputs(definition, workload, lambda spec: tmp_path / spec.path)

    tensor = {"type": "safetensors", "path": "w.safetensors", "tensor_key": "x"}
    with pytest.raises(BenchError, match="has no input 'x'"):
        plan({})
    with pytest.raises(BenchError, match="got a scalar"):
        plan({"x": {"type": "scalar", "value": 1}})
    with pytest.raises(BenchError, match=r"should be float32 of shape \[5, 32\], got float32 of shape \[4, 32\]"):
        plan({"x": tensor})
    with pytest.raises(BenchError, match="no readable tensor 'absent'"):
        plan({"x": {**tensor, "tensor_key": "absent"}})
    with pytest.raises(BenchError, match="does not exist"):
        plan({"x": {**tensor, "path": "absent.safetensors"}})


def test_reads_the_types_that_numpy_lacks(tmp_path: Path) -> None:
    values = np.float32([1.5, -2.0]).astype(ml_dtypes.bfloat16)
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    assert read_safetensors(tmp_path / "x.safetensors", "x").astype(np.float32).tolist() == [1.5, -2.0]
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(BenchError, match="no readable tensor"):
        read_safetensors(tmp_path / "bad.safetensors", "x")


def test_large_noise_is_drawn_by_the_device() -> None:
    plan = planned("float32", ["rows", "vocab_size"], {"kind": "uniform", "low": 0.0, "high": 2.0}).on_device(1)
    assert plan.infos[0].generate["kind"] == "uniform" and plan.infos[0].generate["high"] == 2.0
    assert not planned("int32", ["rows"], {"kind": "indptr", "total": 3}).on_device(1).infos[0].generate
    assert not planned("float32", ["rows"]).on_device().infos[0].generate


def test_slots_share_no_page() -> None:
    infos = [
        TensorInfo("a", "float32", (3,)),
        TensorInfo("b", "float4_e2m1", (4, 6)),
        TensorInfo("s", "int64", None, 3),
    ]
    placed, size = lay_out(infos, 2)
    assert [p.offsets for p in placed] == [(0, 12288), (4096, 16384), (8192, 20480)] and size == 24576
    assert placed[1].stored_shape == (4, 3)
    with pytest.raises(ValueError, match="must be even"):
        TensorInfo("b", "float4_e2m1", (3,)).num_bytes  # noqa: B018


def test_every_official_workload_without_files_can_be_planned(official: Path) -> None:
    data = TraceSet.load(official)
    planned_count = 0
    for definition in data.definitions.values():
        for trace in data.workloads[definition.name]:
            if all(spec.type != "safetensors" for spec in trace.inputs.values()):
                plan_inputs(definition, trace.workload)
                planned_count += 1
    assert planned_count > 50


def test_scalars_come_as_declared() -> None:
    # compiled code takes doubles and integers in different registers, and a file may say 1 for 1.0
    record = changed(DEFINITION, "inputs.count", {"shape": None, "dtype": "int32"})
    definition = Definition.model_validate(changed(record, "inputs.on", {"shape": None, "dtype": "bool"}))
    given = {"x": {"type": "random"}, "alpha": 2, "count": 3.0, "on": 1}
    inputs = {n: v if isinstance(v, dict) else {"type": "scalar", "value": v} for n, v in given.items()}
    plan = plan_inputs(definition, Workload.model_validate({"axes": {"rows": 2}, "inputs": inputs, "uuid": "u"}))
    values = [i.value for i in plan.infos if i.shape is None]
    assert values == [2, 3, 1] and [type(v) for v in values] == [float, int, bool]
    for wrong in (2.5, "NaN", "Infinity"):
        inputs["count"] = {"type": "scalar", "value": wrong}
        workload = Workload.model_validate({"axes": {"rows": 2}, "inputs": inputs, "uuid": "u"})
        with pytest.raises(BenchError, match="'count' is int32, got"):
            plan_inputs(definition, workload)
