"""Expressions of constraints: what they mean, and that nothing outside the subset runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eventide.bench.schema_expr import UnevaluableError, check_subset, evaluate, names_of, parse_expression

VALUES: dict[str, Any] = {
    "n": 4,
    "half": 0.5,
    "indptr": np.array([0, 2, 5]),
    "w": np.zeros((3, 8)),
    "flag": True,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n == 4", True),
        ("n + 1 == 5 and not n > 4", True),
        ("0 < n < 4", False),
        ("0 < n <= 4 < 5", True),
        ("n % 3 == 1 or undefined", True),
        ("n > 9 and undefined", False),
        ("indptr[-1].item() == 5", True),
        ("indptr[1:].sum().item()", 7),
        ("w.shape[1] == 8", True),
        ("w.shape", (3, 8)),
        ("len(indptr) == 3", True),
        ("max(n, 7) - min(1, 2)", 6),
        ("2 ** n // 3", 5),
        ("n / 8", 0.5),
        ("(1 if flag else 2) * -n", -4),
        ("n in (1, 4)", True),
        ("n not in [1, 4]", False),
        ("(indptr[1:] >= indptr[:-1]).all()", True),
        ("n.item()", 4),
        ("w[0, 1]", 0.0),
        ("+n | 1 & 1", 5),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert evaluate(text, VALUES) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "().__class__",
        "w.tofile('x')",
        "open('x')",
        "[x for x in w]",
        "lambda: 1",
        "(y := 3)",
        "f'{n}'",
        "w.sum(axis=0)",
        "w.max(0)",
        "indptr.dtype",
        "{1: 2}",
        "n.__add__(1)",
        "...",
        "b'x'",
    ],
)
def test_refused_whatever_the_values(text: str) -> None:
    with pytest.raises(UnevaluableError, match=r"constraints here may not|constant of an unknown kind"):
        check_subset(text)
    with pytest.raises(UnevaluableError):
        evaluate(text, VALUES)


@pytest.mark.parametrize("text", ["missing > 1", "9 ** n ** 9", "n / 0", "indptr[99]", "'a' * 9999999", "w[0] and n"])
def test_no_value_here(text: str) -> None:
    with pytest.raises(UnevaluableError):
        evaluate(text, VALUES)


def test_parse_errors_name_the_text() -> None:
    with pytest.raises(ValueError, match=r"'n >' is not a Python expression: .*invalid syntax"):
        parse_expression("n >")


def test_names() -> None:
    assert names_of("max(a, b[0]) <= len(c.shape)") == {"a", "b", "c"}
