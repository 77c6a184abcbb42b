"""`check`: what it finds alone in files and together in data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from eventide.bench import Definition, Solution, TraceSet, Workload
from eventide.bench.check import check, check_python_entry, guess_kind
from eventide.bench.check_workload import check_workload
from eventide.errors import BenchError, SchemaError

from .records import DEFINITION, DELETE, EVALUATION, SOLUTION, TRACE, WORKLOAD, changed

BARE = {"definition": "scale_h8", "workload": WORKLOAD}


def put(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_official_data_set_has_no_errors(official: Path) -> None:
    report = check(official)
    assert report.errors == [] and report.counts == {"definition": 156, "workload": 663}
    assert [p.message for p in report.warnings] == [
        "the tensors of 723 inputs are not here: copy the data set's blob folder"
    ]


def test_a_clean_data_set(small: TraceSet) -> None:
    assert small.root is not None
    report = check(small.root)
    assert report.problems == []
    assert report.counts == {"definition": 1, "solution": 2, "workload": 3, "trace": 4}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (DEFINITION, "definition"),
        (SOLUTION, "solution"),
        (TRACE, "trace"),
        (BARE, "trace"),
        (WORKLOAD, "workload"),
        (EVALUATION, "evaluation"),
        (changed(DEFINITION, "reference", DELETE), "definition"),
        (changed(SOLUTION, "spec", DELETE), "solution"),
        (changed(TRACE, "workload", DELETE), "trace"),
    ],
)
def test_the_kind_of_a_file_shows_in_its_fields(data: dict[str, Any], kind: str) -> None:
    assert guess_kind(data, Path("file.json")) == kind


def test_the_kind_of_a_file_shows_in_its_folder() -> None:
    assert guess_kind({}, Path("x/definitions/y/file.json")) == "definition"
    assert guess_kind(WORKLOAD, Path("x/workloads/file.json")) == "workload"
    with pytest.raises(SchemaError, match="say it with --kind"):
        guess_kind({}, Path("file.json"))


@pytest.mark.parametrize(
    ("record", "kind"),
    [(DEFINITION, "definition"), (SOLUTION, "solution"), (WORKLOAD, "workload"), (EVALUATION, "evaluation")],
)
def test_single_files(tmp_path: Path, record: dict[str, Any], kind: str) -> None:
    assert check(put(tmp_path / "good.json", record)).counts == {kind: 1}
    first = next(iter(record))
    bad = check(put(tmp_path / "bad.json", changed(record, first, DELETE)))
    assert [p.field for p in bad.errors] == [first] and bad.errors[0].line == 1
    whole_folder = check(tmp_path)
    assert whole_folder.counts == {kind: 2} and len(whole_folder.errors) == 1


def test_every_problem_of_a_file_is_reported(tmp_path: Path) -> None:
    record = changed(changed(changed(DEFINITION, "name", ""), "axes.hidden.value", -1), "inputs.x.dtype", "f4")
    path = tmp_path / "d.json"
    path.write_text(json.dumps(record, indent=2))
    assert [(p.line, p.field) for p in check(path).errors] == [
        (2, "name"),
        (10, "axes.hidden.value"),
        (19, "inputs.x.dtype"),
    ]


def test_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "t.jsonl", TRACE, changed(TRACE, "evaluation.status", "X"), BARE, {**BARE, "definition": ""})
    with path.open("ab") as file:
        file.write(b"\n\n{broken\n\xff\xfe\n")
    report = check(path)
    assert [(p.line, p.field) for p in report.errors] == [
        (2, "evaluation.status"),
        (4, "definition"),
        (6, ""),
        (7, ""),
    ]
    assert "not valid JSON" in report.errors[2].message and "not UTF-8" in report.errors[3].message


def test_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"name": "x",\n "op_type": }')
    assert [(p.line, p.message[:14]) for p in check(path).errors] == [(2, "not valid JSON")]
    (tmp_path / "definitions").mkdir()
    path.rename(tmp_path / "definitions" / "d.json")
    assert [(p.line, p.message[:14]) for p in check(tmp_path).errors] == [(2, "not valid JSON")]


def test_paths_that_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="does not exist"):
        check(tmp_path / "absent.json")
    with pytest.raises(BenchError, match="holds neither a data set nor"):
        check(tmp_path)


# ---- what belongs together

W = "workloads/elementwise/scale_h8.jsonl"
T = "traces/ada/elementwise/scale_h8.jsonl"


@pytest.mark.parametrize(
    ("file", "records", "level", "field", "message"),
    [
        ("definitions/elementwise/zz_again.json", [DEFINITION], "error", "name", "taken by another definition"),
        ("solutions/again.json", [SOLUTION], "error", "name", "taken by another solution"),
        (W, [BARE, BARE], "error", "workload.uuid", "'w-1' names another workload"),
        (W, [TRACE], "error", "", "belong in traces/"),
        (T, [BARE], "error", "", "belong in workloads/"),
        (W, [changed(BARE, "workload.axes", {})], "error", "workload.axes", "needs the axis 'rows'"),
        (W, [changed(BARE, "workload.axes.zz", 1)], "error", "workload.axes.zz", "no such axis"),
        (W, [changed(BARE, "workload.axes.hidden", 9)], "error", "workload.axes.hidden", "is 8 in the definition"),
        (W, [changed(BARE, "workload.inputs.zz", {"type": "random"})], "error", "workload.inputs.zz", "no such input"),
        (W, [changed(BARE, "workload.inputs.alpha", {"type": "random"})], "error", "workload.inputs.alpha", "a scalar"),
        (W, [changed(BARE, "workload.inputs.alpha", DELETE)], "warning", "workload.inputs", "needs the input 'alpha'"),
        (W, [changed(BARE, "workload.inputs.x", DELETE)], "warning", "workload.inputs", "needs the input 'x'"),
        (W, [changed(BARE, "workload.inputs.x", {"type": "scalar", "value": 1})], "error", "workload.inputs.x",
         "is a tensor"),
        (W, [{**BARE, "definition": "other"}], "warning", "definition", "no definition 'other'"),
        (T, [{**TRACE, "solution": "other"}], "warning", "solution", "no solution 'other'"),
        (T, [{**TRACE, "evaluation": None}], "warning", "evaluation", "without its result"),
        (T, [{**TRACE, "solution": None}], "warning", "solution", "without the name"),
        (T, [changed(TRACE, "workload.uuid", "u")], "warning", "workload.uuid", "is not among"),
        (T, [changed(TRACE, "evaluation.eventide", {"version": 1, "solution_hash": "0"})], "warning",
         "evaluation.eventide.solution_hash", "measured on other sources"),
        ("traces/ada/wrong/place.jsonl", [TRACE], "warning", "", "belongs at traces/ada/elementwise/scale_h8.jsonl"),
        ("solutions/s.json", [changed(changed(SOLUTION, "name", "n"), "definition", "zz")], "warning", "definition",
         "no definition 'zz'"),
    ],
)  # fmt: skip
def test_contradictions(tmp_path: Path, file: str, records: list[Any], level: str, field: str, message: str) -> None:
    put(tmp_path / "definitions/elementwise/scale_h8.json", DEFINITION)
    put(tmp_path / "solutions/ada/elementwise/scale_h8/scale_numpy.json", SOLUTION)
    put(tmp_path / W, BARE)
    put(tmp_path / file, *records)
    found = [p for p in check(tmp_path).problems if p.path == file]
    assert (found[0].level, found[0].field) == (level, field) and message in found[0].message, found
    if file.endswith("jsonl"):
        assert found[0].line == len(records)


def test_a_result_of_another_definitions_solution(tmp_path: Path) -> None:
    put(tmp_path / "definitions/elementwise/scale_h8.json", DEFINITION)
    put(tmp_path / "definitions/elementwise/other.json", {**DEFINITION, "name": "other"})
    put(tmp_path / "solutions/ada/elementwise/scale_h8/scale_numpy.json", SOLUTION)
    put(tmp_path / "traces/ada/elementwise/other.jsonl", {**TRACE, "definition": "other"})
    assert "'scale_numpy' solves 'scale_h8', not 'other'" in check(tmp_path).errors[0].message


def test_constraints_are_evaluated() -> None:
    workload = Workload.model_validate(WORKLOAD)
    plain = Definition.model_validate({**DEFINITION, "constraints": ["rows % 2 == 0", "rows > alpha", "x[0] > 1"]})
    assert [(f[1], f[2]) for f in check_workload(plain, workload, None)] == [
        ("breaks the constraint 'rows % 2 == 0'", "warning")
    ]
    block = {"version": 1, "constraints": ["rows % 2 == 0", "x.sum() > 0"]}
    strict = Definition.model_validate({**DEFINITION, "eventide": block})
    assert [(f[1], f[2]) for f in check_workload(strict, workload, None)] == [
        ("breaks the constraint 'rows % 2 == 0'", "error")
    ]


def test_stored_tensors(small: TraceSet) -> None:
    assert small.root is not None
    spec = {"type": "safetensors", "path": "./blob/t.safetensors", "tensor_key": "x"}
    definition = small.definitions["scale_h8"]
    workload = Workload.model_validate(changed(WORKLOAD, "inputs.x", spec))
    file = small.root / "blob/t.safetensors"
    file.parent.mkdir()

    def messages() -> list[str]:
        return [f"{f[2]}: {f[1]}" for f in check_workload(definition, workload, small.root)]

    assert messages() == ["warning: ./blob/t.safetensors is not in the data set"]
    file.write_bytes(b"junk")
    assert "is not a safetensors file" in messages()[0]
    save_file({"y": np.zeros((3, 8), np.float32)}, file)
    assert messages() == ["error: ./blob/t.safetensors holds no tensor 'x'"]
    save_file({"x": np.zeros((3, 9), np.float16)}, file)
    assert messages() == [
        "error: should have the shape (3, 8), but ./blob/t.safetensors holds (3, 9)",
        "error: should be float32, but ./blob/t.safetensors holds float16",
    ]
    save_file({"x": np.zeros((3, 8), np.float32)}, file)
    assert messages() == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def run(x): pass", 0),
        ("from kernels import run", 0),
        ("run = compile_it()", 0),
        ("def other(x): pass", 1),
        ("def run(x", 1),
    ],
)
def test_python_entry_points(source: str, found: int) -> None:
    solution = Solution.model_validate(changed(SOLUTION, "sources.0.content", source))
    assert len(check_python_entry(solution)) == found
    compiled = Solution.model_validate(changed(changed(SOLUTION, "sources.0.content", source), "spec.language", "cpp"))
    assert check_python_entry(compiled) == []
