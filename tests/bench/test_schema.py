"""Every rule of the format, each with files that it accepts and files that it rejects (the table in docs/bench.md)."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from eventide.bench import (
    Correctness,
    Definition,
    Evaluation,
    EvaluationStatus,
    Performance,
    Solution,
    Trace,
    Workload,
)

from .records import DEFINITION, DELETE, EVALUATION, SOLUTION, TRACE, WORKLOAD, as_json, changed

NAN, INF = math.nan, math.inf
DTYPES = [
    *("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1"),
    *("int64", "int32", "int16", "int8", "bool"),
]

ACCEPT: list[tuple[type[BaseModel], dict[str, Any], str, Any]] = [
    # definition: names, optional fields
    *[(Definition, DEFINITION, "op_type", v) for v in ("gemm", "anything at all", " ")],
    *[(Definition, DEFINITION, "tags", v) for v in ([], ["a", "a"], ["status:verified"])],
    *[(Definition, DEFINITION, "description", v) for v in (None, "", "text")],
    *[(Definition, DEFINITION, "unknown_field", v) for v in (None, 3, {"deep": []})],
    # axes
    *[(Definition, DEFINITION, "axes.hidden.value", v) for v in (0, 1, 10**12)],
    (Definition, DEFINITION, "axes.hidden.description", "why"),
    (Definition, DEFINITION, "axes.rows.description", None),
    (Definition, DEFINITION, "axes.rows.value", 3),  # an unknown field of a var axis
    (Definition, DEFINITION, "axes.unused", {"type": "var"}),
    # tensors
    *[(Definition, DEFINITION, "inputs.x.dtype", v) for v in DTYPES],
    *[(Definition, DEFINITION, "inputs.x.shape", v) for v in (None, [], ["rows"], ["rows", "rows"])],
    (Definition, DEFINITION, "inputs.x.optional", True),
    *[(Definition, DEFINITION, f, {}) for f in ("inputs", "outputs")],
    # reference
    *[
        (Definition, DEFINITION, "reference", v)
        for v in (
            "def run(): pass",
            "def run(other, names): pass",
            "def helper(f): return f\n@helper\ndef run(x): pass",
            "def run(x): pass\ndef run(x, y): pass",
            "async def other(): pass\ndef run(x): pass",
            "x = '\\d'\ndef run(x): pass",  # an invalid escape only warns
            "import not_installed\ndef run(x): pass",
        )
    ],
    # constraints
    *[
        (Definition, DEFINITION, "constraints", v)
        for v in ([], ["rows > 0"], ["rows == x[-1].item()"], ["undeclared > 3"], ["lambda: 3"], ["rows > 3  # why"])
    ],
    # workload
    *[(Workload, WORKLOAD, "axes.rows", v) for v in (0, 1, 2**40)],
    *[(Workload, WORKLOAD, f, {}) for f in ("axes", "inputs")],
    *[(Workload, WORKLOAD, "inputs.alpha.value", v) for v in (1, 1.5, True, False, -3, "NaN", "Infinity", "-Infinity")],
    (Workload, WORKLOAD, "inputs.x", {"type": "random", "value": 3}),
    *[
        (Workload, WORKLOAD, "inputs.x", {"type": "safetensors", "path": p, "tensor_key": "k"})
        for p in ("./blob/workloads/op/d/d_u.safetensors", "blob/a..b", "f", "a:b", "u::v.safetensors")
    ],
    # solution
    *[(Solution, SOLUTION, "spec.language", v) for v in ("python", "triton", "cpp", "cuda", "tilelang")],
    *[(Solution, SOLUTION, "spec.binding", v) for v in (None, "tvm-ffi", "torch")],
    *[(Solution, SOLUTION, "spec.target_hardware", v) for v in (["cpu"], ["NVIDIA H200", "NVIDIA B200"])],
    *[(Solution, SOLUTION, "spec.dependencies", v) for v in ([], ["cublas"])],
    *[(Solution, SOLUTION, "spec.destination_passing_style", v) for v in (True, False)],
    *[(Solution, SOLUTION, "spec.entry_point", v) for v in ("main.py::run", "main.py::not_defined")],
    (Solution, SOLUTION, "sources.0.content", "not ( python"),
    *[
        (Solution, SOLUTION, "sources", [*SOLUTION["sources"], {"path": p, "content": "x"}])
        for p in ("a/b/c.py", "..hidden", "a..b.py", "...", "./x.py", " ")
    ],
    # trace and evaluation
    *[(Trace, TRACE, "solution", v) for v in (None, DELETE, "name", "")],
    *[(Trace, TRACE, "evaluation", v) for v in (None, DELETE)],
    *[(Evaluation, EVALUATION, "log", v) for v in ("", "text", DELETE)],
    *[(Evaluation, EVALUATION, "timestamp", v) for v in ("2026-01-01", "not a time")],
    *[(Evaluation, EVALUATION, "environment.libs", v) for v in ({}, {"a": "1"}, DELETE)],
    *[
        (Evaluation, EVALUATION, f"correctness.{f}", v)
        for f in ("max_relative_error", "max_absolute_error")
        for v in (0, 0.0, 3, 1e30, NAN, INF, "NaN", "nan", "Infinity", "inf")
    ],
    *[(Evaluation, EVALUATION, "correctness.extra", v) for v in (None, {}, {"cosine": [0.5, {"a": None}]})],
    *[
        (Evaluation, EVALUATION, f"performance.{f}", v)
        for f in ("latency_ms", "reference_latency_ms", "speedup_factor")
        for v in (0, 0.0, 3, INF, "Infinity")
    ],
]

REJECT: list[tuple[type[BaseModel], dict[str, Any], str, Any]] = [
    # definition: required and non-empty
    *[
        (Definition, DEFINITION, f, v)
        for f in ("name", "op_type", "reference")
        for v in (DELETE, None, "", 3, True, ["x"])
    ],
    *[(Definition, DEFINITION, f, v) for f in ("axes", "inputs", "outputs") for v in (DELETE, None, [], "x")],
    *[(Definition, DEFINITION, f, v) for f in ("tags", "constraints") for v in (None, "x", [""], [3], [None], {})],
    (Definition, DEFINITION, "description", 3),
    # axes
    *[(Definition, DEFINITION, "axes.hidden.value", v) for v in (DELETE, None, -1, 1.5, True, "8", 8.0, NAN, [8])],
    *[(Definition, DEFINITION, "axes.hidden.type", v) for v in (DELETE, None, "", "CONST", "dynamic", 1)],
    *[(Definition, DEFINITION, "axes.hidden", v) for v in (None, 8, "const", [])],
    (Definition, DEFINITION, "axes.", {"type": "var"}),
    # tensors
    *[
        (Definition, DEFINITION, "inputs.x.dtype", v)
        for v in (DELETE, None, "", "FLOAT32", "float64", "uint8", "fp16", "float", 32, "torch.float32")
    ],
    *[
        (Definition, DEFINITION, f"{t}.shape", v)
        for t in ("inputs.x", "outputs.y")
        for v in (DELETE, "rows", ["unknown"], [8], [None], [""], {"rows": 1}, 3)
    ],
    *[(Definition, DEFINITION, "inputs.x", v) for v in (None, [], "float32")],
    (Definition, DEFINITION, "inputs.", {"shape": ["rows"], "dtype": "int8"}),
    (Definition, DEFINITION, "inputs.y", {"shape": ["rows"], "dtype": "int8"}),
    (Definition, DEFINITION, "outputs.x", {"shape": ["rows"], "dtype": "int8"}),
    # reference
    *[
        (Definition, DEFINITION, "reference", v)
        for v in (
            "x = 1",
            "async def run(x): pass",
            "run = lambda x: x",
            "class Kernel:\n    def run(self): pass",
            "if True:\n    def run(x): pass",
            "try:\n    def run(x): pass\nfinally:\n    pass",
            "def outer():\n    def run(x): pass",
            "def Run(x): pass",
            "from elsewhere import run",
            "class run: pass",
            "def run(x)\n    pass",
            "def run(x):\nreturn x",
            "\0",
            "\ufeffdef run(x): pass",
            "(" * 5000 + ")" * 5000,
        )
    ],
    # constraints
    *[
        (Definition, DEFINITION, "constraints", [v])
        for v in ("rows >", "rows = 3", " rows > 3", "import os", "rows\n> 3", "*rows", "if rows: 1", "a; b", "\0")
    ],
    # workload
    *[(Workload, WORKLOAD, f, v) for f in ("axes", "inputs") for v in (DELETE, None, [], 3)],
    *[(Workload, WORKLOAD, "uuid", v) for v in (DELETE, None, "", 3)],
    *[(Workload, WORKLOAD, "axes.rows", v) for v in (None, -1, 1.5, True, "3", 3.0, NAN)],
    *[(Workload, WORKLOAD, "inputs.alpha.value", v) for v in (DELETE, None, "x", "1", [1], {})],
    *[(Workload, WORKLOAD, "inputs.x.type", v) for v in (DELETE, None, "", "Random", "zeros")],
    *[(Workload, WORKLOAD, "inputs.x", v) for v in (None, "random", 3, [])],
    *[
        (Workload, WORKLOAD, "inputs.x", {"type": "safetensors", "path": p, "tensor_key": k})
        for p, k in (("", "k"), (None, "k"), ("p", ""), ("p", None), ("/etc/passwd", "k"), ("../out", "k"), (3, "k"))
    ],
    (Workload, WORKLOAD, "inputs.x", {"type": "safetensors", "path": "p"}),
    (Workload, WORKLOAD, "inputs.x", {"type": "safetensors", "tensor_key": "k"}),
    # solution
    *[(Solution, SOLUTION, f, v) for f in ("name", "definition", "author") for v in (DELETE, None, "", 3)],
    *[(Solution, SOLUTION, "spec", v) for v in (DELETE, None, [], "python")],
    *[(Solution, SOLUTION, "spec.language", v) for v in (DELETE, None, "", "Python", "rust", "cutedsl")],
    *[(Solution, SOLUTION, "spec.binding", v) for v in ("", "pybind", "TORCH", "tvm_ffi", 1)],
    *[(Solution, SOLUTION, "spec.target_hardware", v) for v in (DELETE, None, [], "cpu", [3])],
    *[(Solution, SOLUTION, "spec.dependencies", v) for v in (None, [""], "cublas", [3])],
    *[(Solution, SOLUTION, "spec.destination_passing_style", v) for v in (None, "true", 1, 0, "yes")],
    *[
        (Solution, SOLUTION, "spec.entry_point", v)
        for v in (
            DELETE,
            None,
            "",
            "main.py",
            "run",
            "main.py:run",
            "main.py::a::b",
            "main.py::",
            "::run",
            "::",
            "other.py::run",
            "./main.py::run",
            "main.py.run",
        )
    ],
    *[(Solution, SOLUTION, "sources", v) for v in (DELETE, None, [], {}, "x")],
    *[(Solution, SOLUTION, "sources.0.content", v) for v in (DELETE, None, "", 3)],
    *[
        (Solution, SOLUTION, "sources", [*SOLUTION["sources"], {"path": p, "content": "x"}])
        for p in (
            "/abs.py",
            "../up.py",
            "a/../b.py",
            "a/..",
            "..",
            "",
            ".",
            "a/",
            None,
            3,
            "C:\\x.py",
            "a\\..\\b",
            "\\abs",
            "nul\0byte",
            "main.py",
            "./main.py",
        )
    ],
    # trace and evaluation
    *[(Trace, TRACE, "definition", v) for v in (DELETE, None, "", 3)],
    *[(Trace, TRACE, "workload", v) for v in (DELETE, None, [], {})],
    *[(Trace, TRACE, "solution", v) for v in (3, [], {})],
    *[(Trace, TRACE, "evaluation", v) for v in (3, [], {})],
    *[(Evaluation, EVALUATION, "status", v) for v in (DELETE, None, "", "passed", "FAILED", 0)],
    *[(Evaluation, EVALUATION, "environment", v) for v in (DELETE, None, {}, "cpu")],
    *[(Evaluation, EVALUATION, "environment.hardware", v) for v in (DELETE, None, "", 3)],
    *[(Evaluation, EVALUATION, "environment.libs", v) for v in (None, [], {"a": 1}, {"a": None})],
    *[(Evaluation, EVALUATION, "timestamp", v) for v in (DELETE, None, "", 3)],
    *[(Evaluation, EVALUATION, "log", v) for v in (None, 3, ["x"])],
    *[
        (Evaluation, EVALUATION, f"correctness.{f}", v)
        for f in ("max_relative_error", "max_absolute_error")
        for v in (None, -1, -1e-9, -INF, "-Infinity", "x", "0.5", True, [0.0])
    ],
    *[(Evaluation, EVALUATION, "correctness.extra", v) for v in ([], "x", 3)],
    *[
        (Evaluation, EVALUATION, f"performance.{f}", v)
        for f in ("latency_ms", "reference_latency_ms", "speedup_factor")
        for v in (None, -1, NAN, "NaN", -INF, "x", "1.0", True)
    ],
]


def _label(case: tuple[type[BaseModel], dict[str, Any], str, Any]) -> str:
    model, _, path, value = case
    return f"{model.__name__}.{path}={'deleted' if value is DELETE else repr(value)[:40]}"


@pytest.mark.parametrize("case", ACCEPT, ids=_label)
def test_accepts(case: tuple[type[BaseModel], dict[str, Any], str, Any]) -> None:
    model, record, path, value = case
    data = changed(record, path, value)
    from_text = model.model_validate_json(as_json(data))
    from_objects = model.model_validate(data)
    written = from_text.model_dump_json()
    assert model.model_validate_json(written).model_dump_json() == written == from_objects.model_dump_json()
    json.loads(written, parse_constant=pytest.fail)  # what is written is JSON without bare NaN


@pytest.mark.parametrize("case", REJECT, ids=_label)
def test_rejects(case: tuple[type[BaseModel], dict[str, Any], str, Any]) -> None:
    model, record, path, value = case
    data = changed(record, path, value)
    with pytest.raises(ValidationError):
        model.model_validate_json(as_json(data))
    with pytest.raises(ValidationError):
        model.model_validate(data)


@pytest.mark.parametrize("status", list(EvaluationStatus))
@pytest.mark.parametrize("correctness", [True, False])
@pytest.mark.parametrize("performance", [True, False])
def test_status_decides_the_blocks(status: EvaluationStatus, correctness: bool, performance: bool) -> None:
    wanted = {"PASSED": (True, True), "INCORRECT_NUMERICAL": (True, False)}.get(status.value, (False, False))
    data = changed(EVALUATION, "status", status.value)
    for name, present in (("correctness", correctness), ("performance", performance)):
        if not present:
            data[name] = None
    if (correctness, performance) == wanted:
        evaluation = Evaluation.model_validate(data)
        assert (evaluation.status.has_correctness, evaluation.status.has_performance) == wanted
    else:
        with pytest.raises(ValidationError, match=f"status {status.value} (needs|must not have)"):
            Evaluation.model_validate(data)


def test_non_finite_numbers_are_strings_in_files() -> None:
    text = Correctness(max_relative_error=NAN, max_absolute_error=INF, extra={"ratio": NAN}).model_dump_json()
    assert json.loads(text) == {
        "max_relative_error": "NaN",
        "max_absolute_error": "Infinity",
        "extra": {"ratio": "NaN"},
    }
    again = Correctness.model_validate_json(text)
    assert math.isnan(again.max_relative_error) and again.max_absolute_error == INF
    assert json.loads(Performance(latency_ms=INF).model_dump_json())["latency_ms"] == "Infinity"
    workload = changed(WORKLOAD, "inputs.alpha.value", "-Infinity")
    scalar = Workload.model_validate(workload).inputs["alpha"]
    assert scalar.type == "scalar" and scalar.value == -INF
    assert json.loads(scalar.model_dump_json())["value"] == "-Infinity"


def test_scalars_keep_their_kind() -> None:
    for value, kind in ((1, int), (1.0, float), (True, bool)):
        scalar = Workload.model_validate_json(as_json(changed(WORKLOAD, "inputs.alpha.value", value))).inputs["alpha"]
        assert scalar.type == "scalar" and type(scalar.value) is kind
        assert type(json.loads(scalar.model_dump_json())["value"]) is kind


def test_unknown_fields_are_dropped_on_writing_and_no_extension_is_written() -> None:
    data = changed(changed(DEFINITION, "surprise", 1), "inputs.x.optional", True)
    written = json.loads(Definition.model_validate(data).model_dump_json())
    assert "surprise" not in written and "optional" not in written["inputs"]["x"] and "eventide" not in written
    assert "eventide" not in json.loads(Trace.model_validate(TRACE).model_dump_json())["workload"]


def test_axes_bindings_and_shapes() -> None:
    definition = Definition.model_validate(DEFINITION)
    assert definition.const_axes == {"hidden": 8} and definition.var_axes == ["rows"]
    assert definition.var_axes_bindings == {"rows": ("x", 0)}
    assert definition.get_input_shapes({"rows": 3}) == [(3, 8), None]
    assert definition.get_output_shapes({"rows": 0}) == [(0, 8)]
    assert definition.get_axes_values([(5, 8), None]) == {"rows": 5}
    with pytest.raises(ValueError, match="the shape of 'x' needs a value for the axis 'rows'"):
        definition.get_input_shapes()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(5, 8)], "takes 2 inputs, got 1"),
        ([(5, 9), None], "axis 'hidden' is 8, but 'x' has 9"),
        ([(5,), None], "should have 2 dimensions, got 1"),
        ([None, None], "should have 2 dimensions, got a scalar"),
    ],
)
def test_shapes_that_do_not_fit(shapes: list[tuple[int, ...] | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Definition.model_validate(DEFINITION).get_axes_values(shapes)


def test_axis_used_twice_must_agree() -> None:
    definition = Definition.model_validate(changed(DEFINITION, "inputs.x.shape", ["rows", "rows"]))
    assert definition.get_axes_values([(4, 4), None]) == {"rows": 4}
    with pytest.raises(ValueError, match="axis 'rows' is 4, but 'x' has 5"):
        definition.get_axes_values([(4, 5), None])


def test_merge_arguments() -> None:
    definition = Definition.model_validate(DEFINITION)
    assert definition.merge_arguments([1, 2], {}) == [1, 2]
    assert definition.merge_arguments([1], {"alpha": 2}) == [1, 2]
    assert definition.merge_arguments([1], {"y": 3, "alpha": 2}) == [1, 2, 3]
    for args, kwargs, message in (
        ([1], {}, "got 1"),
        ([1, 2, 3, 4], {}, "got 4"),
        ([1, 2], {"x": 3}, "'x' twice"),
        ([1, 2], {"beta": 3}, "no argument 'beta'"),
        ([1], {"y": 3}, "got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            definition.merge_arguments(args, kwargs)


def test_content_hash_is_the_originals() -> None:
    # sha1 of what flashinfer-bench hashes, without the solution's name
    data = changed(changed(SOLUTION, "spec.dependencies", ["d1"]), "definition", "n")
    data["sources"] = [{"path": "main.py", "content": "def run(A):\n return A"}]
    solution = Solution.model_validate(data)
    import hashlib

    parts = "n" + "python" + "main.py::run" + "" + "d1" + "main.py" + "def run(A):\n return A"
    assert solution.content_hash == hashlib.sha1(parts.encode()).hexdigest()
    renamed = Solution.model_validate(changed(changed(data, "name", "other"), "author", "eve"))
    assert renamed.content_hash == solution.content_hash
    for path, value in (("definition", "m"), ("spec.binding", "torch"), ("sources.0.content", "x")):
        assert Solution.model_validate(changed(data, path, value)).content_hash != solution.content_hash


def test_entry_point_parts() -> None:
    solution = Solution.model_validate(SOLUTION)
    assert (solution.entry_file, solution.entry_function) == ("main.py", "run")
    assert solution.entry_source.content.startswith("def run")


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Solution.model_validate(SOLUTION).name = "other"  # type: ignore[misc]


def test_importing_the_schema_needs_pydantic_alone() -> None:
    code = (
        "import sys; import eventide.bench as b; assert 'pydantic' not in sys.modules; b.Definition; "
        "bad = {'numpy', 'torch', 'jinja2', 'rich', 'safetensors', 'ml_dtypes'} & set(sys.modules); assert not bad, bad"
    )
    source = Path(__file__).parents[2] / "src"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source)})


def test_every_public_name_resolves() -> None:
    import eventide.bench as bench

    for name in bench.__all__:
        assert getattr(bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = bench.Nothing
    assert set(bench.__all__) <= set(dir(bench))
