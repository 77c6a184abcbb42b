"""Invariants of run-time tables: drawn tables keep them, broken ones are told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventide.errors import ProgramError
from eventide.ir.expr import Sum, Var, wrap
from eventide.ir.nodes import Invariant, Tensor
from eventide.ir.tables import check, draw_all

n = Var("n")


def within(hi: int) -> Invariant:
    return Invariant("within", Sum(0), wrap(hi))


OWN = Invariant("single", hi=wrap(4), of="row", at="at")
TABLES = [
    Tensor("pos", (n,), "int32", "input", invariants=(within(9),)),
    Tensor("slot", (n,), "int32", "input", invariants=(within(50), Invariant("distinct"))),
    Tensor("sorted", (n,), "int32", "input", invariants=(within(5), Invariant("nondecreasing"))),
    Tensor("rising", (n,), "int32", "input", invariants=(within(60), Invariant("increasing"))),
    Tensor("parts", (wrap(4),), "int32", "input", invariants=(Invariant("partition", Sum(0), n),)),
    Tensor("tight", (n + 1,), "int32", "input", invariants=(Invariant("partition", Sum(0), n), Invariant("increasing"))),
    Tensor("topk", (n, wrap(2)), "int32", "input", invariants=(within(4),)),
    Tensor("counts", (wrap(4),), "int32", "input", invariants=(Invariant("histogram", of="topk"),)),
    Tensor("indptr", (wrap(5),), "int32", "input", invariants=(Invariant("offsets", of="topk"),)),
    Tensor("perm", (n * 2,), "int32", "input", invariants=(Invariant("grouping", of="topk"),)),
    Tensor("begin", (n,), "int32", "input", invariants=(within(30), Invariant("nondecreasing"))),
    Tensor("end", (n,), "int32", "input", invariants=(within(30), Invariant("ends", of="begin"))),
    Tensor("row", (n,), "int32", "input", invariants=(within(40), Invariant("distinct"))),
    Tensor("at", (n,), "int32", "input", invariants=(within(12),)),
    Tensor("pages", (wrap(40), wrap(3)), "int32", "input", invariants=(within(50), OWN)),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 999), st.sampled_from([1.0, 0.3, 0.01]))
def test_drawn_tables_keep_their_invariants(size: int, seed: int, spread: float) -> None:
    tables = draw_all(TABLES, {"n": size}, np.random.default_rng(seed), spread)
    for t in TABLES:
        check(t, tables[t.name], {"n": size}, tables)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("pos", [0, 9, 1], "'pos' breaks its invariant 'within': value 9 is outside [0, 9)"),
        ("slot", [1, 2, 1], "'distinct': a value occurs twice"),
        ("sorted", [0, 2, 1], "'nondecreasing': the values decrease"),
        ("rising", [0, 2, 2], "'increasing': the values do not increase"),
        ("parts", [0, 1, 1, 2], "'partition': it must run from 0 to 3, got [0, 1, 1, 2]"),
        ("counts", [1, 2, 3, 1], "'histogram': expected [2, 2, 2, 0], got [1, 2, 3, 1]"),
        ("indptr", [0, 2, 4, 5, 6], "'offsets'"),
        ("perm", [0, 1, 2, 3, 4, 5], "'grouping'"),
        ("end", [5, 7, 9], "'ends': run 0 of 'begin' begins at 0 and ends at 5"),
    ],
)
def test_broken_tables_are_told(name: str, values: list[int], words: str) -> None:
    tables = {"topk": np.array([[2, 1], [0, 2], [1, 0]], np.int32), "begin": np.array([0, 4, 8], np.int32)}
    tensor = next(t for t in TABLES if t.name == name)
    with pytest.raises(ProgramError) as e:
        check(tensor, np.array(values, np.int32), {"n": 3}, tables)
    assert words in str(e.value) and "the plan's maps rely on it" in str(e.value)


def test_entries_that_stand_once() -> None:
    """Row 1 holds positions 0 to 3 on page 5, 4 to 7 on page 6; row 0's pages are 5 and 7. Page 5 may only be read."""
    pages = Tensor("pages", (wrap(2), wrap(2)), "int32", "input", invariants=(OWN,))
    table = np.array([[5, 7], [5, 6]], np.int32)

    def told(row: list[int], at: object, table: np.ndarray = table) -> None:
        check(pages, table, {}, {"row": np.array(row), "at": np.array(at)})

    told([0, 1], [4, 7])
    told([0, 1], [[4, 6], [5, 7]])  # two steps
    for row, at in (([0, 1], [3, 7]), ([1], [0]), ([0, 1], [[4, 6], [3, 7]])):
        with pytest.raises(ProgramError, match="'pages' breaks its invariant 'single': 5, which is written to, stands in it more"):
            told(row, at)
    with pytest.raises(ProgramError, match="more than once"):
        told([1], [4], np.array([[5, 6], [5, 6]], np.int32))
    with pytest.raises(ProgramError, match="no entry at one of the places"):
        told([1], [8])
    with pytest.raises(ProgramError, match="declared as single of 'at', which is not given"):
        check(pages, table, {}, {"row": np.array([0])})


def test_a_table_that_cannot_be_drawn_is_told() -> None:
    with pytest.raises(ProgramError, match="'slot': 60 distinct values do not fit"):
        draw_all(TABLES[1:2], {"n": 60}, np.random.default_rng(0))
    with pytest.raises(ProgramError, match="'counts' is declared as histogram of 'topk'"):
        draw_all([t for t in TABLES if t.name == "counts"], {"n": 3}, np.random.default_rng(0))


@pytest.mark.parametrize("pages", [2, 5, 40, 500])
def test_a_cache_of_few_pages(pages: int) -> None:
    """As many tokens as there may be are drawn onto as few pages as there are."""
    own = Invariant("single", hi=wrap(4), of="seq", at="at")
    table = Tensor("table", (wrap(40), wrap(3)), "int32", "input", invariants=(within(pages), own))
    seq = Tensor("seq", (n,), "int32", "input", invariants=(within(40),))
    tables = [table, seq, next(t for t in TABLES if t.name == "at")]
    for seed in range(20):
        drawn = draw_all(tables, {"n": 300}, np.random.default_rng(seed))
        for t in tables:
            check(t, drawn[t.name], {"n": 300}, drawn)
