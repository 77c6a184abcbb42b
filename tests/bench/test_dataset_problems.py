"""The line and the sentence that an error carries."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from eventide.bench import Definition, Solution, Workload
from eventide.bench.dataset_problems import Problem, locate, problems_in

from .records import DEFINITION, DELETE, SOLUTION, WORKLOAD, changed


def _reference(value: Any, place: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    found = {place: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found.update(_reference(child, (*place, key)))
    return found


def test_locate_finds_every_place() -> None:
    value = {"a": [1, {"b": [], 'c\n"x': "}{"}], "d": {"e": {}}, "f": [[2], [3, "]"]]}
    text = json.dumps(value, indent=1)
    lines = locate(text)
    assert set(lines) == set(_reference(value))
    rows = text.split("\n")
    for place in lines:
        if place and isinstance(place[-1], str):
            assert json.dumps(place[-1]) in rows[lines[place] - 1]


@pytest.mark.parametrize("text", ["", "{", '{"a": [', '{"a": [}}]', '"', "nonsense", '{"a" "b", : ]', "}]{"])
def test_locate_survives_broken_text(text: str) -> None:
    assert locate(text)[()] == 1


@pytest.mark.parametrize(
    ("model", "record", "field", "message"),
    [
        (Definition, changed(DEFINITION, "axes.hidden.value", True), "axes.hidden.value", "valid integer, got True"),
        (Definition, changed(DEFINITION, "axes.hidden.type", "x"), "axes.hidden", "expected tags"),
        (Definition, changed(DEFINITION, "axes.hidden.type", DELETE), "axes.hidden", "the field 'type' is required"),
        (Definition, changed(DEFINITION, "axes.hidden.value", DELETE), "axes.hidden.value", "this field is required"),
        (Definition, changed(DEFINITION, "inputs.x.dtype", "f4"), "inputs.x.dtype", "'float32'.*got 'f4'"),
        (Definition, changed(DEFINITION, "reference", "def run(:"), "reference", r"not valid Python: .* \(line 1\)"),
        (Definition, changed(DEFINITION, "constraints", ["a", "b ="]), "constraints", "'b =' is not a Python expr"),
        (Workload, changed(WORKLOAD, "inputs.alpha.value", "1"), "inputs.alpha.value", "got the string '1'"),
        (Solution, changed(SOLUTION, "sources.0.path", "/x"), "sources.0.path", "must be relative, got '/x'"),
        (Solution, changed(SOLUTION, "spec.entry_point", "x"), "spec.entry_point", "exactly one '::', got 'x'"),
        (Solution, changed(SOLUTION, "spec.entry_point", "x::y"), "", "'x', which is not among the sources"),
    ],
)
def test_field_and_sentence(model: type[BaseModel], record: dict[str, Any], field: str, message: str) -> None:
    text = json.dumps(record, indent=2)
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(text)
    problem = problems_in(text, caught.value, "file.json")[0]
    assert problem.field == field
    assert re.search(message, problem.message), problem.message
    assert problem.line is not None
    last = field.split(".")[-1]
    if last and not last.isdigit():
        line = text.split("\n")[problem.line - 1]
        assert f'"{last}"' in line or f'"{field.split(".")[-2]}"' in line  # an absent field: its parent's line


@pytest.mark.parametrize("text", ["[" * 200_000, '"\\"' * 200_000, '{"a":' * 200_000, '["",' * 200_000])
def test_locate_takes_no_more_than_its_time(text: str) -> None:
    start = time.perf_counter()
    locate(text)
    assert time.perf_counter() - start < 10


def test_printing() -> None:
    assert str(Problem("a.json", 3, "axes.m", "is odd")) == "a.json:3: axes.m: is odd"
    assert str(Problem("a.json", None, "", "is odd")) == "a.json: is odd"
    assert Problem("a", 1, "f", "m").to_dict()["level"] == "error"
