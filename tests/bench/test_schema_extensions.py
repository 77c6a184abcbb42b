"""The `eventide` block: versioned, checked, and invisible to a reader that does not know it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from eventide.bench import Definition, Evaluation, Initializer, Solution, Trace, Workload

from .records import DEFINITION, EVALUATION, SOLUTION, TRACE, WORKLOAD, changed

BLOCKS: list[tuple[type[Any], dict[str, Any], dict[str, Any]]] = [
    (
        Definition,
        DEFINITION,
        {
            "version": 1,
            "dtypes": {"x": "uint32"},
            "init": {"x": {"kind": "integers", "low": 0, "high": "rows * 4"}},
            "constraints": ["rows % 2 == 0", "x[-1].item() <= rows"],
            "optional": ["x"],
            "flops": "2 * rows * hidden",
            "rtol": 0.01,
        },
    ),
    (
        Solution,
        SOLUTION,
        {
            "version": 1,
            "task": {"operator": "rmsnorm", "backend": "cuda", "tile": {"rows": 1}, "scratch_bytes": 4096},
            "dialect": "cute-dsl",
            "compile_flags": ["-O3"],
            "supports": ["rows <= 64"],
        },
    ),
    (Workload, WORKLOAD, {"version": 1, "seed": 7, "init": {"x": {"kind": "uniform", "low": -1.0, "high": 1.0}}}),
    (
        Evaluation,
        EVALUATION,
        {
            "version": 1,
            "solution_hash": "ab",
            "seed": 3,
            "timing": {
                "samples_ms": [[1.0, 1.1], [1.0, 1.2]],
                "confidence": 0.95,
                "latency_ms": [0.9, 1.1],
                "method": {"clock": "cuda events", "cold_l2": True},
            },
            "device": {"sm_clock_mhz": 1980.0, "throttled": False},
            "roofline": {"flops": 1e9, "bytes": 2e6, "fraction_of_peak": 0.5, "bound": "memory"},
        },
    ),
]


@pytest.mark.parametrize(("model", "record", "block"), BLOCKS, ids=lambda v: getattr(v, "__name__", None))
def test_a_block_survives_writing(model: type[Any], record: dict[str, Any], block: dict[str, Any]) -> None:
    extended = model.model_validate({**record, "eventide": block})
    written = extended.model_dump_json()
    assert model.model_validate_json(written) == extended
    again = json.loads(written)["eventide"]
    assert again["version"] == 1 and all(again[key] is not None for key in block)
    assert None not in again.values()  # what is absent is not written
    plain = {k: v for k, v in json.loads(written).items() if k != "eventide"}
    assert model.model_validate(plain) == model.model_validate(record)  # what the original reads


@pytest.mark.parametrize(("model", "record", "block"), BLOCKS, ids=lambda v: getattr(v, "__name__", None))
@pytest.mark.parametrize(
    "damage", [{"version": 2}, {"version": True}, {"version": "1"}, {"typo": 1}, {"version": None}]
)
def test_a_block_is_strict(
    model: type[Any], record: dict[str, Any], block: dict[str, Any], damage: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=r"version|typo"):
        model.model_validate({**record, "eventide": {**block, **damage}})
    with pytest.raises(ValidationError, match="version"):
        model.model_validate({**record, "eventide": {k: v for k, v in block.items() if k != "version"}})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"dtypes": {"x": "uint8"}}, "carrier float32 has 32"),
        ({"dtypes": {"z": "uint32"}}, "names 'z'"),
        ({"dtypes": {"x": "float32"}}, "dtypes"),
        ({"init": {"y": {"kind": "normal"}}}, "eventide.init names 'y'"),
        ({"init": {"x": {"kind": "fractal"}}}, "fractal"),
        ({"optional": ["y"]}, "optional names 'y'"),
        ({"constraints": ["__import__('os')"]}, "calls __import__"),
        ({"constraints": ["rows >"]}, "not a Python expression"),
        ({"flops": "open('x')"}, "calls open"),
        ({"required_matched_ratio": 0}, "greater than 0"),
    ],
)
def test_a_definition_block_that_contradicts_itself(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Definition.model_validate({**DEFINITION, "eventide": {"version": 1, **extra}})


def test_extended_dtypes_are_what_the_runner_sees() -> None:
    block = {"version": 1, "dtypes": {"x": "uint32"}, "optional": ["x"]}
    definition = Definition.model_validate({**DEFINITION, "eventide": block})
    assert definition.dtype_of("x") == "uint32" and definition.inputs["x"].dtype == "float32"
    assert definition.dtype_of("y") == "float32"
    assert definition.is_optional("x") and not definition.is_optional("alpha")


def test_extensions_inside_a_trace() -> None:
    data = changed(changed(TRACE, "workload.eventide", BLOCKS[2][2]), "evaluation.eventide", BLOCKS[3][2])
    trace = Trace.model_validate_json(json.dumps(data))
    assert trace.workload.eventide is not None and trace.workload.eventide.seed == 7
    assert trace.evaluation is not None and trace.evaluation.eventide is not None
    assert trace.evaluation.eventide.timing is not None
    assert trace.evaluation.eventide.timing.latency_ms == (0.9, 1.1)


INITIALIZER: TypeAdapter[Any] = TypeAdapter(Initializer)


@pytest.mark.parametrize(
    "init",
    [
        {"kind": "normal"},
        {"kind": "uniform", "low": -1, "high": 1},
        {"kind": "integers", "high": "num_pages"},
        {"kind": "distinct", "low": 0, "high": "num_pages"},
        {"kind": "indptr", "total": "num_kv_indices"},
        {"kind": "indptr", "total": 10, "min_len": 1},
        {"kind": "constant", "value": "-Infinity"},
        {"kind": "constant", "value": True},
        {"kind": "arange"},
        {"kind": "probabilities", "temperature": 2.0},
        {"kind": "bernoulli", "p": 0.1},
        {"kind": "choice", "values": [1, 2.5]},
        {"kind": "lengths", "high": "max_len", "total": "total_kv"},
    ],
    ids=lambda init: init["kind"],
)
def test_initialisers(init: dict[str, Any]) -> None:
    value = INITIALIZER.validate_python(init)
    assert value.kind == init["kind"]
    assert INITIALIZER.validate_json(INITIALIZER.dump_json(value)) == value


@pytest.mark.parametrize(
    "init",
    [
        {},
        {"kind": "normal", "sigma": 1},
        {"kind": "integers"},
        {"kind": "integers", "high": 1.5},
        {"kind": "integers", "high": "exec('x')"},
        {"kind": "bernoulli", "p": 2},
        {"kind": "choice", "values": []},
        {"kind": "probabilities", "temperature": 0},
        {"kind": "lengths", "low": 3, "high": 2},
    ],
)
def test_bad_initialisers(init: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        INITIALIZER.validate_python(init)
