"""Our verdict on thousands of damaged files beside that of the original package (skipped where it is not installed).

To run it: install flashinfer-bench==0.1.2 into an environment of its own and start pytest there. It is no dependency.
The rule: nothing that the original refuses is accepted, and what it accepts is refused only for a reason listed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import eventide.bench as ours

from .records import DEFINITION, EVALUATION, SOLUTION, TRACE, WORKLOAD, as_json, changed, mutations

original = pytest.importorskip("flashinfer_bench.data", reason="flashinfer-bench is not installed")

STORED = {"type": "safetensors", "path": "p", "tensor_key": "k"}
KINDS = {
    "Definition": {**DEFINITION, "tags": ["t"], "constraints": ["rows > 0"], "description": "d"},
    "Solution": {**SOLUTION, "description": "d"},
    "Workload": {**WORKLOAD, "inputs": {**WORKLOAD["inputs"], "f": STORED}},
    "Evaluation": EVALUATION,
    "Trace": TRACE,
}


def _read(model: Any, text: str) -> BaseModel | None:
    try:
        parsed: BaseModel = model.model_validate_json(text)
    except ValidationError:
        return None
    return parsed


def _stricter_on_purpose(what: str) -> bool:
    """Coercions of the original that the format's text does not allow, and discriminators that it lets be absent."""
    field, _, value = what.partition(" = ")
    if what.startswith("delete ") or value in ("{}", "{'': 1}"):  # an object without its type
        return field.endswith(".type") or not what.startswith("delete ")
    last = field.split(".")[-1]
    numbers = {"value", "rows", "max_relative_error", "max_absolute_error", "latency_ms", "reference_latency_ms",
               "speedup_factor"}  # fmt: skip
    if last in numbers:
        return value in ("True", "1.5") or value == "'text'"
    return last == "destination_passing_style" and value in ("0", "True", "1.5", "'text'")


@pytest.mark.parametrize("kind", list(KINDS))
def test_same_verdicts(kind: str) -> None:
    theirs, mine = getattr(original, kind), getattr(ours, kind)
    both = refused = 0
    for what, record in mutations(KINDS[kind]):
        text = as_json(record)
        accepted_there, accepted_here = _read(theirs, text) is not None, _read(mine, text) is not None
        if accepted_here and not accepted_there:
            pytest.fail(f"{kind}: {what}: accepted here, refused by the original")
        if accepted_there and not accepted_here:
            assert _stricter_on_purpose(what), f"{kind}: {what}: refused here, accepted by the original"
        both += accepted_there == accepted_here
        refused += not accepted_here
    assert both > 100 and refused > 50


# strings that are nearly a number, a path, an entry point, an expression or Python; values at the edges of a type
EDGES: list[Any] = [
    " ", "\n", "\u200b", "\x00", "0", "-1", "1.5", "1e3", "1_000", "0777", "true", "NaN", "nan", "-Infinity", "inf",
    "../x", "/x", "a/../b", "./a", "a/", "a//b", "..", "...", "C:\\x", "a\\b", "a::b", "main.py::run::x", "main.py:::run",
    "main.py::run ", " main.py::run", "main.py::", "::run", "run=1", "class run: pass", "if 1:\n def run(): pass",
    "\tdef run(): pass", "def run():\n\tpass\n        pass", "def run(): return await x", "def run(a,a): pass",
    "return 1\ndef run(): pass", "print 1\ndef run(): pass", "def run(): pass;", "x := 1", "(x := 1)", "rows >", "*a",
    "yield x", "[x for x in y]", "f'{x}'", "\nrows", "rows # c", "(rows\n>0)", "x = 1", "1_0 < rows", "$x", "x.y[0:1]",
    1, -0.0, 8.0, -1.5, 1e308, 2**31, 2**64, 10**40, False, [[]], [""], ["rows"], ["rows", "hidden"], ["Rows"], [True],
    {"type": "const", "value": 3}, {"type": "const"}, {"type": "var", "value": 3}, {"value": 3}, {"type": "scalar", "value": 1},
    STORED, {"shape": [], "dtype": "int8"}, {"dtype": "int8"}, {"hardware": "x"}, {"hardware": ""}, "passed", "TIMEOUT",
    "INCORRECT_NUMERICAL", "PYTHON", "hip", "tvm_ffi", "float64", "uint8", "FLOAT32", "CONST",
]  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_at_the_edges_is_accepted_that_the_original_refuses(kind: str) -> None:
    theirs, mine = getattr(original, kind), getattr(ours, kind)
    fields = {what.partition(" = ")[0] for what, _ in mutations(KINDS[kind]) if " = " in what}
    stricter: set[str] = set()
    for field in sorted(fields):
        for value in EDGES:
            text = as_json(changed(KINDS[kind], field, value))
            accepted_there, accepted_here = _read(theirs, text) is not None, _read(mine, text) is not None
            assert accepted_there or not accepted_here, f"{field} = {value!r}: accepted here, refused by the original"
            if accepted_there and not accepted_here:
                stricter.add(field.split(".")[-1])
    # numbers from text, booleans and fractions; records without their type; a function without a name; paths that lead out
    numbers = {"value", "rows", "max_relative_error", "max_absolute_error", "latency_ms", "reference_latency_ms"}
    assert stricter <= numbers | {"speedup_factor", "hidden", "x", "alpha", "f", "entry_point", "path"}
    assert len(fields) * len(EDGES) > 500


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_original_reads_what_we_write_and_we_read_what_it_writes(kind: str) -> None:
    theirs, mine = getattr(original, kind), getattr(ours, kind)
    record = mine.model_validate(KINDS[kind])
    written_there = theirs.model_validate_json(record.model_dump_json()).model_dump_json()
    assert json.loads(written_there) == json.loads(record.model_dump_json())
    assert mine.model_validate_json(written_there) == record


def test_official_data_is_read_the_same_way() -> None:
    root = Path(__file__).parents[3] / "shared" / "flashinfer_trace"
    if not root.is_dir():
        pytest.skip("the official data set is not beside the repository")
    for path in sorted(root.rglob("definitions/**/*.json")):
        text = path.read_text(encoding="utf-8")
        mine, theirs = ours.Definition.model_validate_json(text), original.Definition.model_validate_json(text)
        assert json.loads(mine.model_dump_json()) == json.loads(theirs.model_dump_json())
        axes = {axis: i + 2 for i, axis in enumerate(mine.var_axes)}
        assert [s and list(s) for s in mine.get_input_shapes(axes)] == [
            s and list(s) for s in theirs.get_input_shapes(axes)
        ]
        assert mine.var_axes_bindings == theirs.var_axes_bindings
    for path in sorted(root.rglob("workloads/**/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            mine_trace, their_trace = ours.Trace.model_validate_json(line), original.Trace.model_validate_json(line)
            assert json.loads(mine_trace.model_dump_json()) == json.loads(their_trace.model_dump_json())


def test_content_hash_without_the_name() -> None:
    import hashlib

    mine, theirs = ours.Solution.model_validate(SOLUTION), original.Solution.model_validate(SOLUTION)
    spec = theirs.spec
    text = "".join(
        [theirs.definition, spec.language.value, spec.entry_point, *spec.dependencies]
        + [part for source in theirs.sources for part in (source.path, source.content)]
    )
    assert mine.content_hash == hashlib.sha1(text.encode()).hexdigest()
    # 0.1.2 puts the name in front
    assert theirs.hash() == hashlib.sha1((theirs.name + text).encode()).hexdigest()


def test_the_original_loads_a_whole_data_set_of_ours(tmp_path: Path) -> None:
    from .demo import demo  # has intervals in `eventide` blocks, which the original does not know

    data = demo(tmp_path / "data")
    theirs = original.TraceSet.from_path(str(tmp_path / "data"))
    assert set(theirs.definitions) == set(data.definitions)
    for field in ("workloads", "solutions", "traces"):
        mine, other = getattr(data, field), getattr(theirs, field)
        assert {k: len(v) for k, v in mine.items()} == {k: len(v) for k, v in other.items()}
    for name in data.definitions:
        best, fastest = data.best_trace(name), theirs.get_best_trace(name, max_abs_error=1.0, max_rel_error=1.0)
        assert best is not None and fastest.solution == best.solution


def test_we_load_a_whole_data_set_of_the_original(tmp_path: Path) -> None:
    data = original.TraceSet(root=tmp_path)
    for kind, record in (("definitions", DEFINITION), ("solutions", SOLUTION)):
        model = original.Definition if kind == "definitions" else original.Solution
        (tmp_path / kind).mkdir()
        original.save_json_file(model.model_validate(record), tmp_path / kind / "one.json")
    data.definitions["scale_h8"] = original.Definition.model_validate(DEFINITION)
    data._solution_by_name["scale_numpy"] = original.Solution.model_validate(SOLUTION)
    bare = {"definition": "scale_h8", "workload": WORKLOAD}
    data.add_workload_traces([original.Trace.model_validate(bare)])
    data.add_traces([original.Trace.model_validate(TRACE)])
    mine = ours.TraceSet.load(tmp_path)
    assert mine.summary().workloads == mine.summary().traces == 1
    assert mine.traces["scale_h8"][0] == ours.Trace.model_validate(TRACE)
    assert mine.get_solution("scale_numpy") == ours.Solution.model_validate(SOLUTION)
