"""Exported operators: every one of them, valid, and meaning what the operator means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from eventide import ops
from eventide.bench import Definition, SafetensorsInput, TraceSet
from eventide.bench.check import check
from eventide.bench.pack_export import ExportStep, export_program, write_exported
from eventide.bench.pack_reference import run_operator
from eventide.cli import bench
from eventide.errors import UsageError
from eventide.ops import Program, get_op, list_ops


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's operators."""
    root = tmp_path_factory.mktemp("export") / "data"
    assert bench._run(["export", str(root), "--context", "64", "--prefill", "40"]) == 0
    return root


def test_every_operator_is_exported(exported: Path) -> None:
    data = TraceSet.load(exported)
    # operators that other tests have registered are not the package's
    own = {name for name in list_ops() if (Path(ops.__file__).parent / name).is_dir()}
    assert {d.op_type.removeprefix("eventide_") for d in data.definitions.values()} == own
    assert all(len(data.workloads[name]) >= 2 for name in data.definitions)
    assert check(exported).problems == []


def _values(data: TraceSet, definition: Definition, index: int) -> dict[str, Any]:
    trace = data.workloads[definition.name][index]
    rng = np.random.default_rng(0)
    shapes = dict(zip(definition.inputs, definition.get_input_shapes(trace.axes)))
    values: dict[str, Any] = {}
    for name, spec in trace.inputs.items():
        if isinstance(spec, SafetensorsInput):
            values[name] = load_file(data.blob_file(spec))[name]
        else:
            values[name] = (rng.standard_normal(shapes[name] or ()) * 0.1).astype(definition.dtype_of(name))
    return values


def test_every_reference_runs_on_every_workload(exported: Path) -> None:
    data = TraceSet.load(exported)
    for definition in data.definitions.values():
        scope: dict[str, Any] = {}
        exec(definition.reference, scope)
        for index, trace in enumerate(data.workloads[definition.name]):
            values = _values(data, definition, index)
            results = scope["run"](**values)
            results = results if isinstance(results, tuple) else (results,)
            for (name, spec), shape, result in zip(
                definition.outputs.items(), definition.get_output_shapes(trace.axes), results, strict=True
            ):
                assert result.shape == shape and str(result.dtype) == str(spec.dtype), (definition.name, name)
                if name != "part":  # partial results of empty splits are whatever they are
                    assert np.isfinite(result.astype(np.float64)).all(), (definition.name, name)


def test_references_against_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((5, 64), (96, 64)))
    np.testing.assert_allclose(run_operator("linear", {}, {"x": x, "w": w}), x @ w.T, rtol=2e-5, atol=2e-5)
    b = rng.standard_normal((5, 64)).astype(np.float32)
    np.testing.assert_array_equal(run_operator("add", {}, {"a": x, "b": b}), x + b)
    g = rng.standard_normal(64).astype(np.float32)
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * g
    np.testing.assert_allclose(run_operator("rms_norm", {"eps": 1e-6}, {"x": x, "w": g}), expected, rtol=1e-5)


def test_an_updated_operand_is_an_input_and_an_output(exported: Path) -> None:
    data = TraceSet.load(exported)
    name = next(n for n in data.definitions if n.startswith("eventide_rope_append"))
    definition = data.definitions[name]
    assert "k_cache" in definition.inputs and "k_cache_out" in definition.outputs
    assert "k_in" not in definition.inputs  # one tensor with q_in
    values = _values(data, definition, 0)
    before = values["k_cache"].copy()
    scope: dict[str, Any] = {}
    exec(definition.reference, scope)
    after = scope["run"](**values)[0]
    np.testing.assert_array_equal(values["k_cache"], before)  # the input stays
    slots = values["slot"]
    changed = np.flatnonzero((after != before).any(axis=(0, 2)))
    assert set(changed) == set(slots.tolist())


def test_exporting_twice_adds_nothing(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", str(exported), "--context", "64", "--prefill", "40", "--json"]
    assert bench._run(argv) == 0
    assert set(json.loads(capsys.readouterr().out).values()) == {0}
    assert bench._run(["export", str(exported), "--op", "add", "--list"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["definition", "workloads"] and "eventide_add_256_float32" in out


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench._run(["export", str(tmp_path / "d"), "--op", "nothing"]) == UsageError.exit_code
    assert "unknown operator 'nothing'; known are add, attention" in capsys.readouterr().err
    assert bench._run(["export", str(tmp_path / "d"), "--batch", "0"]) == UsageError.exit_code


def test_a_program_of_ones_own(tmp_path: Path) -> None:
    program = Program("mine")
    rows = program.symbol("rows", 1, 64)
    x = program.input("x", (rows, 32), "float32")
    h = program.call("linear", x=x, w=program.weight("w", (64, 32), "float32"))
    program.output(program.call("silu_mul", x=h), "y")
    steps = [ExportStep("three", {"rows": 3}, {}), ExportStep("unfit", {"columns": 3}, {})]
    made = export_program(program, steps)
    # x is a table of the program that the step does not bring, so only the second call has a workload
    assert [(e.definition.op_type, len(e.workloads)) for e in made] == [
        ("eventide_linear", 0),
        ("eventide_silu_mul", 1),
    ]
    assert made[0].definition.var_axes == ["rows"] and get_op("linear").doc
    data = TraceSet(root=tmp_path / "d")
    assert dict(write_exported(data, made)) == {made[0].definition.name: 0, made[1].definition.name: 1}
    assert data.workloads[made[1].definition.name][0].axes == {"rows": 3}
