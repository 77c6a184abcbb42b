"""TraceSet: loading, laziness, rules that span files, writing, and the official data set."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventide.bench import Definition, SafetensorsInput, Solution, Trace, TraceSet
from eventide.errors import BenchError, SchemaError

from .records import DEFINITION, SOLUTION, TRACE, WORKLOAD, changed


def put(path: Path, *records: Any) -> Path:
    """Write records as JSON lines (or text as it is)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


BARE = {"definition": "scale_h8", "workload": WORKLOAD}


# ---- the official data set


def test_official_data_set(official: Path) -> None:
    data = TraceSet.load(official)
    expected = json.loads((official / "expected.json").read_text())
    assert set(data.definitions) == set(expected["definitions"]) and len(data.definitions) == 156
    for name, facts in expected["definitions"].items():
        definition = data.definitions[name]
        assert definition.op_type == facts["op_type"]
        assert definition.const_axes == facts["const_axes"] and definition.var_axes == facts["var_axes"]
        assert list(definition.inputs) == facts["inputs"] and list(definition.outputs) == facts["outputs"]
        assert {a: list(b) for a, b in definition.var_axes_bindings.items()} == facts["var_axes_bindings"]
    assert set(data.workloads) == set(expected["workloads"])
    assert sum(len(w) for w in data.workloads.values()) == 663
    for name, facts in expected["workloads"].items():
        traces, definition = data.workloads[name], data.definitions[name]
        assert len(traces) == facts["count"] and traces[0].uuid == facts["first_uuid"]
        shapes = definition.get_input_shapes(traces[0].axes)
        assert [s and list(s) for s in shapes] == facts["first_input_shapes"]
        for trace in traces:
            assert definition.get_axes_values(definition.get_input_shapes(trace.axes)) == trace.axes


def test_official_data_set_survives_writing(official: Path, tmp_path: Path) -> None:
    data = TraceSet.load(official)
    again = TraceSet.load(data.save(tmp_path / "copy").root or "")
    assert again.definitions == data.definitions and list(again.definitions) == list(data.definitions)
    assert again.workloads == data.workloads
    assert {p.relative_to(tmp_path / "copy") for p in (tmp_path / "copy").rglob("*.json*")} == {
        p.relative_to(official) for p in official.rglob("*/*.json*")
    }
    second = again.save(tmp_path / "second")
    for file in (tmp_path / "copy").rglob("*.json*"):
        assert (second.root or tmp_path).joinpath(file.relative_to(tmp_path / "copy")).read_bytes() == file.read_bytes()


# ---- loading


def test_loading_is_recursive_and_trusts_no_file_name(tmp_path: Path) -> None:
    put(tmp_path / "definitions/a/b/c/anything.json", DEFINITION)
    put(tmp_path / "definitions/README.md", "not a definition")
    put(tmp_path / "workloads/w.jsonl", BARE, "", "   ", {**BARE, "definition": "elsewhere"})
    put(tmp_path / "solutions/deep/er/s.json", SOLUTION)
    put(tmp_path / "traces/t.jsonl", TRACE, {**TRACE, "evaluation": None}, {**TRACE, "solution": None})
    data = TraceSet.load(tmp_path)
    assert list(data.definitions) == ["scale_h8"]
    assert {name: len(traces) for name, traces in data.workloads.items()} == {"scale_h8": 1, "elsewhere": 1}
    assert [s.name for s in data.solutions["scale_h8"]] == ["scale_numpy"]
    assert [t.solution for t in data.traces["scale_h8"]] == ["scale_numpy", "scale_numpy", None]
    assert data.traces["unknown"] == [] and "unknown" not in data.traces
    assert data.solutions["unknown"] == []


def test_an_empty_folder_is_an_empty_data_set(tmp_path: Path) -> None:
    data = TraceSet.load(tmp_path)
    assert (data.definitions, dict(data.workloads), data.summary().traces) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("file", "records", "message"),
    [
        ("definitions/d.json", ["{"], r"definitions/d.json:1: not valid JSON"),
        ("definitions/d.json", ["[1]"], r"definitions/d.json:1: input should be an object"),
        ("definitions/d.json", [json.dumps(changed(DEFINITION, "axes.hidden.value", -1), indent=1)],
         r"definitions/d.json:10: axes.hidden.value: input should be greater than or equal to 0, got -1"),
        ("definitions/d.json", [changed(DEFINITION, "inputs.x.shape", ["zz"])],
         r"d.json:1: inputs.x.shape names the axis 'zz', which `axes` does not declare"),
        ("workloads/w.jsonl", [BARE, "", changed(BARE, "workload.uuid", "")],
         r"workloads/w.jsonl:3: workload.uuid: string should have at least 1 character"),
        ("workloads/w.jsonl", [BARE, TRACE], r"workloads/w.jsonl:2: a workload has no solution and no evaluation"),
        ("traces/t.jsonl", [TRACE, BARE], r"traces/t.jsonl:2: a trace needs a solution or an evaluation"),
        ("traces/t.jsonl", [json.dumps(TRACE) + json.dumps(TRACE)], r"traces/t.jsonl:1: not valid JSON: trailing"),
        ("traces/t.jsonl", [changed(TRACE, "evaluation.status", "TIMEOUT")],
         r"t.jsonl:1: evaluation: an evaluation with status TIMEOUT must not have a correctness block"),
        ("solutions/s.json", [{**SOLUTION, "sources": []}], r"solutions/s.json:1: sources: list should have at least"),
        ("solutions/s.json", [{}], r"solutions/s.json:1: name: this field is required \(and 4 more\)"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_line_and_field(tmp_path: Path, file: str, records: list[Any], message: str) -> None:
    put(tmp_path / file, *records)
    with pytest.raises(SchemaError, match=message):
        TraceSet.load(tmp_path)


@pytest.mark.parametrize(("folder", "record"), [("definitions", DEFINITION), ("solutions", SOLUTION)])
def test_names_are_unique_in_the_whole_set(tmp_path: Path, folder: str, record: dict[str, Any]) -> None:
    put(tmp_path / folder / "a/x.json", record)
    put(tmp_path / folder / "b/y.json", {**record, "description": "another"})
    with pytest.raises(SchemaError, match=rf"y\.json: name: the .*'{record['name']}' is already in .*x\.json"):
        TraceSet.load(tmp_path)


def test_not_text(tmp_path: Path) -> None:
    put(tmp_path / "definitions/d.json", DEFINITION).write_bytes(b'{"name": "\xff"}')
    with pytest.raises(SchemaError, match=r"d\.json is not UTF-8 text: invalid start byte at byte 10"):
        TraceSet.load(tmp_path)
    put(tmp_path / "definitions/d.json", DEFINITION)
    put(tmp_path / "traces/t.jsonl", TRACE).write_bytes(b'\n{"definition": "\xff"}')
    with pytest.raises(SchemaError, match=r"t\.jsonl:2: not UTF-8 text"):
        TraceSet.load(tmp_path)


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is not a folder; a data set is a folder with definitions/"):
        TraceSet.load(tmp_path / "absent")


# ---- streaming


def test_traces_stay_in_their_files(tmp_path: Path) -> None:
    log = "x" * 20_000
    line = json.dumps(changed(changed(TRACE, "evaluation.log", log), "workload.uuid", "NUMBER"))
    path = put(tmp_path / "traces/t.jsonl", "")
    with path.open("w") as file:
        for i in range(500):  # 10 MB
            file.write(line.replace("NUMBER", f"u{i}") + "\n")
    tracemalloc.start()
    data = TraceSet.load(tmp_path)
    assert sum(1 for t in data.all_traces() if t.passed) == 500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5e6, f"{peak / 1e6:.1f} MB held for a file of {path.stat().st_size / 1e6:.0f} MB"
    traces = data.traces["scale_h8"]
    assert traces[499].uuid == traces[-1].uuid == "u499" and [t.uuid for t in traces[3:5]] == ["u3", "u4"]
    with pytest.raises(IndexError):
        traces[500]


def test_without_validation_a_bad_line_is_reported_when_read(tmp_path: Path) -> None:
    put(tmp_path / "traces/t.jsonl", TRACE, changed(TRACE, "evaluation.status", "LOST"))
    data = TraceSet.load(tmp_path, validate=False)
    assert data.traces["scale_h8"][0].passed
    with pytest.raises(SchemaError, match=r"evaluation\.status"):
        _ = data.traces["scale_h8"][1]


def test_a_solution_is_read_again_after_it_changed(small: TraceSet) -> None:
    assert small.root is not None
    data = TraceSet.load(small.root)
    file = small.root / small.solution_path(data.get_solution("scale_numpy"))
    file.write_text(json.dumps({**SOLUTION, "description": "changed"}))
    assert data.get_solution("scale_numpy").description == "changed"


# ---- writing


def test_write_and_read_again(small: TraceSet, tmp_path: Path) -> None:
    assert small.root is not None
    again = TraceSet.load(small.root)
    assert again.definitions == small.definitions
    for field in ("workloads", "solutions", "traces"):
        assert getattr(again, field) == getattr(small, field) != {}
    assert sorted(str(p.relative_to(small.root)) for p in small.root.rglob("*.json*")) == [
        "definitions/elementwise/scale_h8.json",
        "solutions/ada/elementwise/scale_h8/scale_numpy.json",
        "solutions/baseline/elementwise/scale_h8/scale_slow.json",
        "traces/ada/elementwise/scale_h8.jsonl",
        "traces/baseline/elementwise/scale_h8.jsonl",
        "workloads/elementwise/scale_h8.jsonl",
    ]
    copy = again.save(tmp_path / "copy")
    assert copy.traces == again.traces and copy.summary() == again.summary()
    with pytest.raises(BenchError, match="is not an empty folder"):
        again.save(tmp_path / "copy")


def test_adding_a_name_in_use(small: TraceSet) -> None:
    for add, record in ((small.add_definition, DEFINITION), (small.add_solution, SOLUTION)):
        model: Any = Definition if record is DEFINITION else Solution
        with pytest.raises(SchemaError, match="is already in"):
            add(model.model_validate({**record, "description": "new"}))
    assert small.get_solution("scale_numpy").description is None


def test_a_file_of_another_name_is_not_overwritten(tmp_path: Path) -> None:
    put(tmp_path / "definitions/elementwise/scale_h8.json", {**DEFINITION, "name": "other"})
    data = TraceSet.load(tmp_path)
    with pytest.raises(BenchError, match="holds a record of another name"):
        data.add_definition(Definition.model_validate(DEFINITION))
    assert list(TraceSet.load(tmp_path).definitions) == ["other"] == list(data.definitions)


@pytest.mark.parametrize("name", ["a/b", "../up", "..", ".hidden", "with space", "ünï", "a\\b", "nul\0"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    data = TraceSet(root=tmp_path / "data")
    data.add_definition(Definition.model_validate({**DEFINITION, "name": name, "op_type": name}))
    data.add_solution(Solution.model_validate({**SOLUTION, "name": name, "definition": name, "author": name}))
    files = list(tmp_path.rglob("*.json"))
    assert len(files) == 2 and all(len(f.relative_to(tmp_path / "data").parts) in (3, 5) for f in files)
    again = TraceSet.load(tmp_path / "data")
    assert again.definitions[name].op_type == name and again.get_solution(name).author == name


def test_appending_after_a_line_without_newline(tmp_path: Path) -> None:
    put(tmp_path / "traces/unknown/unknown/scale_h8.jsonl", TRACE)
    data = TraceSet.load(tmp_path)
    assert data.add_traces([Trace.model_validate(changed(TRACE, "workload.uuid", "new"))] * 2) == 2
    for read in (data, TraceSet.load(tmp_path)):
        assert [t.uuid for t in read.traces["scale_h8"]] == ["w-1", "new", "new"]


def test_in_memory(small: TraceSet) -> None:
    data = TraceSet(small.definitions.values(), small.all_workloads(), small.solutions["scale_h8"], small.all_traces())
    assert data.root is None and data.workloads == small.workloads and data.traces == small.traces
    assert data.summary() == small.summary()
    data.add_traces([Trace.model_validate(TRACE)])
    assert len(data.traces["scale_h8"]) == 5 and data.traces["scale_h8"][-1].uuid == "w-1"
    with pytest.raises(BenchError, match="in memory only"):
        data.blob_file(SafetensorsInput(type="safetensors", path="p", tensor_key="k"))


# ---- asking


def test_best_trace(small: TraceSet) -> None:
    best = small.best_trace("scale_h8")
    assert best is not None and (best.solution, best.axes) == ("scale_numpy", {"rows": 1})
    slow = small.best_trace("scale_h8", {"rows": 3})
    assert slow is not None and slow.solution == "scale_numpy"
    assert small.best_trace("scale_h8", {"rows": 9}) is None
    assert small.best_trace("scale_h8", hardware="another") is None
    assert small.best_trace("scale_h8", max_absolute_error=-1.0) is None
    assert small.best_trace("nothing") is None


def test_a_nan_error_is_over_any_limit() -> None:
    trace = Trace.model_validate(changed(TRACE, "evaluation.correctness.max_relative_error", "NaN"))
    data = TraceSet(traces=[trace])
    assert data.best_trace("scale_h8") == trace
    assert data.best_trace("scale_h8", max_relative_error=1e30) is None


def test_summary(small: TraceSet) -> None:
    summary = small.summary()
    assert (summary.definitions, summary.workloads, summary.solutions, summary.traces) == (1, 3, 2, 4)
    assert summary.statuses == {"PASSED": 3, "RUNTIME_ERROR": 1} and summary.hardware == {"cpu": 4}
    assert summary.authors == {"ada": 1, "baseline": 1} and summary.op_types == {"elementwise": 1}
    assert "1 definitions, 3 workloads, 2 solutions, 4 traces" in repr(small)


def test_unknown_names(small: TraceSet) -> None:
    lookups: list[Callable[[str], Any]] = [small.get_solution, small.get_definition]
    for lookup in lookups:
        with pytest.raises(BenchError, match=r"has no (solution|definition) 'nothing'"):
            lookup("nothing")
    assert small.author_of("nothing") is None and small.author_of("scale_slow") == "baseline"


def test_blobs_stay_inside(small: TraceSet, tmp_path: Path) -> None:
    assert small.root is not None
    path = small.blob_path("scale_h8", "w-1")
    assert str(path) == "blob/workloads/elementwise/scale_h8/scale_h8_w-1.safetensors"
    spec = SafetensorsInput(type="safetensors", path=f"./{path}", tensor_key="k")
    with pytest.raises(BenchError, match="is missing from the data set"):
        small.blob_file(spec)
    (small.root / path).parent.mkdir(parents=True)
    (small.root / path).write_bytes(b"x")
    assert small.blob_file(spec).read_bytes() == b"x"
    (tmp_path / "secret").write_text("s")
    (small.root / path).unlink()
    (small.root / path).symlink_to(tmp_path / "secret")
    with pytest.raises(BenchError, match="leads out of the data set"):
        small.blob_file(spec)
