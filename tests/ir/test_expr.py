"""Expressions: canonical forms keep the value, printed forms read back, bounds hold."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventide.errors import ProgramError
from eventide.ir.expr import (
    Expr,
    Load,
    Sum,
    Var,
    as_int,
    bounds,
    ceildiv,
    evaluate,
    load,
    maximum,
    minimum,
    parse,
    substitute,
    tables,
    to_c,
    variables,
    wrap,
)  # fmt: skip

NAMES = ("a", "b", "layers.0.n")
TABLE = np.array([3, -1, 4, 1, -5, 9, 2, 6], np.int32)
OPS = ("+", "-", "*", "//", "%", "min", "max")

# a tree of operators: a name, an integer, a lookup, or (operator, left, right)
trees = st.recursive(
    st.one_of(st.sampled_from(NAMES), st.integers(-9, 9), st.just(("load",))),
    lambda inner: st.tuples(st.sampled_from(OPS), inner, inner),
    max_leaves=7,
)
points = st.fixed_dictionaries({n: st.integers(-12, 30) for n in NAMES})


def build(tree: Any) -> Expr:
    if isinstance(tree, tuple):
        if tree[0] == "load":
            return load("t.x", Var("a") % 8)
        op, x, y = tree[0], build(tree[1]), build(tree[2])
        if op in ("//", "%"):
            y = maximum(y, 1) if as_int(y) is None else wrap(max(1, as_int(y) or 1))
            return x // y if op == "//" else x % y
        plain = {"+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "min": lambda: minimum(x, y)}
        return plain.get(op, lambda: maximum(x, y))()
    return Var(tree) if isinstance(tree, str) else wrap(tree)


def plain_value(tree: Any, env: dict[str, int]) -> int:
    """The same by Python's own integers, without any canonical form."""
    if isinstance(tree, tuple):
        if tree[0] == "load":
            return int(TABLE[env["a"] % 8])
        op, x, y = tree[0], plain_value(tree[1], env), plain_value(tree[2], env)
        if op in ("//", "%"):
            y = max(y, 1)
            return x // y if op == "//" else x % y
        return {"+": x + y, "-": x - y, "*": x * y, "min": min(x, y), "max": max(x, y)}[op]
    return env[tree] if isinstance(tree, str) else tree


@settings(max_examples=300, deadline=None)
@given(trees, points)
def test_canonical_forms_keep_the_value(tree: Any, env: dict[str, int]) -> None:
    assert evaluate(build(tree), env, {"t.x": TABLE}) == plain_value(tree, env)


@settings(max_examples=300, deadline=None)
@given(trees)
def test_the_printed_form_reads_back(tree: Any) -> None:
    e = build(tree)
    assert parse(str(e)) == e


@settings(max_examples=200, deadline=None)
@given(trees, points)
def test_bounds_hold(tree: Any, env: dict[str, int]) -> None:
    e = build(tree)
    ranges = {n: (v - 2, v + 3) for n, v in env.items()}
    lo, hi = bounds(e, ranges, lambda _: (int(TABLE.min()), int(TABLE.max())))
    for d in (-2, 0, 3):
        assert lo <= evaluate(e, {n: v + d for n, v in env.items()}, {"t.x": TABLE}) <= hi


@settings(max_examples=150, deadline=None)
@given(trees, points)
def test_arrays_evaluate_as_their_elements(tree: Any, env: dict[str, int]) -> None:
    e = build(tree)
    column = np.array([env["a"], env["a"] + 1, env["a"] - 3])
    found = np.broadcast_to(evaluate(e, {**env, "a": column}, {"t.x": TABLE}), (3,))
    assert found.tolist() == [evaluate(e, {**env, "a": int(v)}, {"t.x": TABLE}) for v in column]


@settings(max_examples=150, deadline=None)
@given(trees, trees, points)
def test_substitution_is_evaluation_in_two_steps(tree: Any, inner: Any, env: dict[str, int]) -> None:
    e, x = build(tree), build(inner)
    both = {**env, "b": evaluate(x, env, {"t.x": TABLE})}
    assert evaluate(substitute(e, {"b": x}), env, {"t.x": TABLE}) == evaluate(e, both, {"t.x": TABLE})


@settings(max_examples=100, deadline=None)
@given(trees)
def test_names(tree: Any) -> None:
    e = build(tree)
    assert variables(e) <= set(NAMES) and tables(e) <= {"t.x"}
    assert variables(substitute(e, {"a": 5})) <= set(NAMES) - {"a"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_c_text_means_the_same(tmp_path: Path) -> None:
    a, b = Var("a"), Var("b")
    exprs = [a * 3 - b + 2, (a + 5) // 4, (a - 9) % 7, minimum(a, b * 2), maximum(a // 3, b % 5) * a, ceildiv(a + b, 16)]
    body = "".join(f"  out[{i}] = {to_c(e)};\n" for i, e in enumerate(exprs))
    source = tmp_path / "e.cpp"
    source.write_text(
        "typedef long long i64;\n"
        "static i64 ev_min(i64 a, i64 b) { return a < b ? a : b; }\nstatic i64 ev_max(i64 a, i64 b) { return a > b ? a : b; }\n"
        "static i64 ev_floordiv(i64 a, i64 b) { i64 q = a / b; return q - (a % b != 0 && (a < 0) != (b < 0)); }\n"
        "static i64 ev_mod(i64 a, i64 b) { return a - ev_floordiv(a, b) * b; }\n"
        f'extern "C" void f(i64 a, i64 b, i64* out) {{\n{body}}}\n'
    )
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(tmp_path / "e.so"), str(source)], check=True)
    f = ctypes.CDLL(str(tmp_path / "e.so")).f
    out = (ctypes.c_longlong * len(exprs))()
    for x, y in ((0, 0), (7, -3), (-13, 4), (100, 31)):
        f(ctypes.c_longlong(x), ctypes.c_longlong(y), out)
        assert list(out) == [evaluate(e, {"a": x, "b": y}) for e in exprs]


def test_two_spellings_are_equal() -> None:
    n = Var("n")
    assert (n + 1) * 2 == n + n + 2
    assert (16 * n + 5) // 16 == n
    assert (n * 6) % 3 == Sum(0)
    assert (n // 4) // 8 == n // 32
    assert minimum(n + 1, n) == n
    assert str(ceildiv(n, 16)) == "(n + 15) // 16"


@pytest.mark.parametrize("text", ["a +", "f(a)", "a / 2", "a if b else c", "'a'"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ProgramError, match="not"):
        parse(text)


def test_bad_values_in_one_sentence() -> None:
    with pytest.raises(ProgramError, match=r"no value was given for 'a'; known are: b"):
        evaluate(Var("a"), {"b": 1})
    with pytest.raises(ProgramError, match="the run-time table 't' has no value here"):
        evaluate(load("t", 0), {})
    with pytest.raises(ProgramError, match="the divisor of an expression must be positive, got 0"):
        Var("a") // 0
    with pytest.raises(ProgramError, match=r"an integer or an expression was expected here, got 1.5 \(float\)"):
        Var("a") + 1.5  # type: ignore[operator]
    with pytest.raises(TypeError, match="no truth value"):
        bool(Var("a"))
    assert isinstance(load("t", Var("a")), Load)
