"""Anything at all as a file: what is read is written and read again alike, what is refused is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from eventide.bench import Definition, Evaluation, Solution, Trace, TraceSet, Workload
from eventide.bench.check import check
from eventide.bench.dataset_problems import locate
from eventide.bench.schema_expr import UnevaluableError, evaluate
from eventide.errors import EventideError

from .records import DEFINITION, EVALUATION, SOLUTION, TRACE, WORKLOAD, changed

pytestmark = pytest.mark.untraced  # repeats itself: counting lines would take longer than the tests
TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
KINDS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Definition, DEFINITION),
    (Solution, SOLUTION),
    (Workload, WORKLOAD),
    (Evaluation, EVALUATION),
    (Trace, TRACE),
]
quiet = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def paths(node: Any, prefix: str = "") -> list[str]:
    """The dotted path of every field of a record that has one: of keys without dots that are no numbers."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = []
    for key, child in items:
        if isinstance(key, str) and (not key or key.isdigit() or "." in key):
            continue
        here = f"{prefix}.{key}" if prefix else str(key)
        found += [here, *paths(child, here)]
    return found


@quiet
@given(data=st.data())
def test_what_is_accepted_survives_writing(data: st.DataObject) -> None:
    model, record = data.draw(st.sampled_from(KINDS))
    for _ in range(data.draw(st.integers(1, 3))):
        record = changed(record, data.draw(st.sampled_from(paths(record) or [""])), data.draw(JSON))
        if not paths(record):
            break
    try:
        first = model.model_validate(record)
    except (ValidationError, UnicodeEncodeError):
        return
    try:
        written = first.model_dump_json()
    except Exception as error:  # text with half a surrogate pair is no JSON text
        assert "surrogate" in str(error).lower() or "utf" in str(error).lower()
        return
    assert model.model_validate_json(written).model_dump_json() == written


@quiet
@given(
    content=st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()),
    suffix=st.sampled_from(["json", "jsonl"]),
)
def test_no_file_breaks_the_checker(tmp_path: Path, content: bytes, suffix: str) -> None:
    for folder in ("definitions", "workloads", "solutions", "traces"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for old in (tmp_path / folder).iterdir():
            old.unlink()
        (tmp_path / folder / f"x.{suffix}").write_bytes(content)
        try:
            report = check(tmp_path / folder / f"x.{suffix}")
            assert all(str(p) and "\n" not in str(p) for p in report.problems)
        except EventideError as error:
            assert "\n" not in str(error)
    check(tmp_path)
    try:
        TraceSet.load(tmp_path)
    except EventideError as error:
        assert str(error)


@quiet
@given(text=st.text(alphabet='{}[]",:\\ \n\ta1-tn', max_size=60))
def test_locate_takes_any_text(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in locate(text).values())


@quiet
@given(value=JSON)
def test_locate_finds_every_field(value: Any) -> None:
    text = json.dumps(value, indent=1)
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    assert {place for place in locate(text) if len(place) == 1} == {(key,) for key in keys}


@settings(deadline=None, max_examples=300)
@given(text=st.text(alphabet="ab01+-*/%().,[]:<>=! andorif'", max_size=24))
def test_no_expression_does_more_than_fail(text: str) -> None:
    try:
        evaluate(text, {"a": 3, "b": 4})
    except (UnevaluableError, ValueError):
        return
    except (MemoryError, RecursionError):
        pytest.fail(text)
