"""Run-time tables: checking the invariants they declare, and drawing random tables that keep them.

`check` runs before every step; `draw` feeds the verifier and the tests with concrete tables for one choice of symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ProgramError
from .expr import evaluate
from .nodes import Invariant, Tensor


def check(tensor: Tensor, values: np.ndarray, symbols: Mapping[str, int], tables: Mapping[str, Any] | None = None) -> None:
    """Raises ProgramError when a table breaks a promise that the plan relies on."""
    for inv in tensor.invariants:
        lo, hi = int(evaluate(inv.lo, symbols, tables)), int(evaluate(inv.hi, symbols, tables))
        problem = _broken(inv, values, lo, hi)
        if problem:
            raise ProgramError(
                f"run-time table '{tensor.name}' breaks its invariant '{inv.kind}': {problem}; the plan's maps rely on it"
            )


def _broken(inv: Invariant, v: np.ndarray, lo: int, hi: int) -> str:
    if inv.kind == "within":
        bad = v[(v < lo) | (v >= hi)]
        return f"value {bad.flat[0]} is outside [{lo}, {hi})" if bad.size else ""
    if inv.kind == "distinct":
        return "a value occurs twice" if len(np.unique(v)) < v.size else ""
    if v.size and bool(np.any(np.diff(v, axis=-1) < 0)):
        return "the values decrease"
    if inv.kind == "partition" and (not v.size or v[0] != lo or v[-1] != hi):
        return f"it must run from {lo} to {hi}, got {v.tolist() if v.size < 9 else [int(v[0]), '...', int(v[-1])]}"
    return ""


def draw(tensor: Tensor, symbols: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """A random table of the tensor's shape that keeps its invariants; zeros where none bounds it."""
    shape = tuple(int(evaluate(s, symbols)) for s in tensor.shape)
    kinds = {inv.kind: inv for inv in tensor.invariants}
    size = int(np.prod(shape))
    for kind in ("partition", "within"):
        if kind in kinds:
            lo, hi = (int(evaluate(e, symbols)) for e in (kinds[kind].lo, kinds[kind].hi))
            break
    else:
        return np.zeros(shape, np.int32)
    if kind == "partition":
        if size < 2:
            return np.full(shape, lo, np.int32)
        # every part non-empty where there are enough elements: the tightest use of the table
        parts = size - 1
        inner = rng.choice(np.arange(lo + 1, hi), parts - 1, replace=False) if hi - lo >= parts else rng.integers(lo, hi + 1, parts - 1)
        return np.concatenate([[lo], np.sort(inner), [hi]]).astype(np.int32)
    if "distinct" in kinds:
        if hi - lo < size:
            raise ProgramError(f"table '{tensor.name}': {size} distinct values do not fit in [{lo}, {hi})")
        v = rng.permutation(hi - lo)[:size] + lo
    else:
        v = rng.integers(lo, max(hi, lo + 1), size)
    v = v.reshape(shape)
    return (np.sort(v, axis=-1) if "nondecreasing" in kinds else v).astype(np.int32)
