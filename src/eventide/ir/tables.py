"""Run-time tables: checking the invariants they declare, and drawing random tables that keep them.

`check` runs before every step; `draw_all` feeds the verifier and the tests with concrete tables for one choice of
symbols. Tables may build on one another, as routing does:

    topk   [tokens, 2]   within 0..experts                   the experts of each token
    counts [experts]     histogram of topk                   tokens of each expert
    indptr [experts + 1] offsets of topk                     where each expert's run begins in
    perm   [tokens * 2]  grouping of topk                    the entries of topk, expert by expert
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ProgramError
from .expr import evaluate
from .expr import tables as tables_in
from .nodes import EventTensor, Invariant, Plan, TaskGrid, Tensor, tables_of

DERIVED = ("histogram", "offsets", "grouping")


def check_symbols(plan: Plan, symbols: Mapping[str, int]) -> None:
    """Raises ProgramError when a step's symbols leave their declared ranges or break what the plan requires."""
    for name, (lo, hi) in plan.symbols.items():
        if not lo <= symbols.get(name, lo - 1) <= hi:
            raise ProgramError(f"symbol '{name}' must be in [{lo}, {hi}], got {symbols.get(name)}")
    for e in plan.requires:
        value = int(evaluate(e, symbols))
        if value < 0:
            given = ", ".join(f"{k} = {v}" for k, v in symbols.items() if k in plan.symbols)
            raise ProgramError(f"plan '{plan.name}' requires {e} >= 0 in every step, got {value} with {given}")


def tables_to_enter(grid: TaskGrid, events: Mapping[str, EventTensor]) -> set[str]:
    """Tables that must be known before a grid's extents, maps or waited counts can be evaluated."""
    names: set[str] = set()
    for _, extent in grid.axes:
        names |= tables_in(extent)
    for edge in (*grid.waits, *grid.notifies):
        names |= tables_of(edge.cells)
        for e in events[edge.event].shape:
            names |= tables_in(e)
    for edge in grid.waits:
        needed = events[edge.event].needed
        names |= tables_in(needed) if needed is not None else set()
    for a in grid.accesses:
        names |= tables_of(a.region)
    return names


def check(tensor: Tensor, values: np.ndarray, symbols: Mapping[str, int], tables: Mapping[str, Any] | None = None) -> None:
    """Raises ProgramError when a table breaks a promise that the plan relies on; `tables` gives those it builds on."""
    for inv in tensor.invariants:
        if inv.of:
            others = [(tables or {}).get(name) for name in (inv.of, inv.at) if name]
            for name, other in zip((inv.of, inv.at), others):
                if other is None:
                    raise ProgramError(f"run-time table '{tensor.name}' is declared as {inv.kind} of '{name}', which is not given")
            of, at = np.asarray(others[0]), np.asarray(others[-1])
            problem = _shared(int(evaluate(inv.hi, symbols)), of, at, values) if inv.at else _untied(inv, of, values)
        else:
            lo, hi = int(evaluate(inv.lo, symbols, tables)), int(evaluate(inv.hi, symbols, tables))
            problem = _broken(inv, values, lo, hi)
        if problem:
            raise ProgramError(
                f"run-time table '{tensor.name}' breaks its invariant '{inv.kind}': {problem}; the plan's maps rely on it"
            )


def _shared(block: int, rows: np.ndarray, at: np.ndarray, values: np.ndarray) -> str:
    """Of `single`. `at` may hold the places of several steps, [steps, ...]."""
    places = at // block
    if values.ndim != 2 or any(np.any((v < 0) | (v >= n)) for v, n in zip((rows, places), values.shape)):
        return "it has no entry at one of the places"
    entries = values[rows, places]
    twice = np.flatnonzero(np.bincount(values.reshape(-1))[entries] > 1)
    return f"{entries.flat[twice[0]]}, which is written to, stands in it more than once" if len(twice) else ""


def _untied(inv: Invariant, of: np.ndarray, values: np.ndarray) -> str:
    if inv.kind == "ends":
        if values.shape != of.shape:
            return f"it has {values.size} ends for the {of.size} begins in '{inv.of}'"
        bad = np.flatnonzero((values < of) | (values > np.append(of[1:], np.iinfo(np.int64).max)))
        return f"run {bad[0]} of '{inv.of}' begins at {of[bad[0]]} and ends at {values[bad[0]]}" if len(bad) else ""
    expected = derive(inv.kind, of, values.shape[0])
    return "" if np.array_equal(expected, values) else f"expected {_short(expected)}, got {_short(values)}"


def _short(v: np.ndarray) -> str:
    return str(v.tolist() if v.size < 17 else [*v.flat[:8].tolist(), "..."])


def _broken(inv: Invariant, v: np.ndarray, lo: int, hi: int) -> str:
    if inv.kind == "within":
        bad = v[(v < lo) | (v >= hi)]
        return f"value {bad.flat[0]} is outside [{lo}, {hi})" if bad.size else ""
    if inv.kind == "distinct":
        return "a value occurs twice" if len(np.unique(v)) < v.size else ""
    steps = np.diff(v, axis=-1)
    if inv.kind == "increasing":
        return "the values do not increase" if bool(np.any(steps <= 0)) else ""
    if bool(np.any(steps < 0)):
        return "the values decrease"
    if inv.kind == "partition" and (not v.size or v[0] != lo or v[-1] != hi):
        return f"it must run from {lo} to {hi}, got {_short(v)}"
    return ""


def derive(kind: str, of: np.ndarray, size: int) -> np.ndarray:
    """The table that an invariant ties to `of` fully determines; `size` is its first extent."""
    flat = of.reshape(-1)
    if kind == "grouping":
        return np.argsort(flat, kind="stable").astype(np.int32)
    counts = np.bincount(flat, minlength=size - (kind == "offsets"))
    return (counts if kind == "histogram" else np.concatenate([[0], np.cumsum(counts)])).astype(np.int32)


def draw_all(
    tensors: Iterable[Tensor], symbols: Mapping[str, int], rng: np.random.Generator, spread: float = 1.0
) -> dict[str, np.ndarray]:
    """Random tables that keep their invariants, derived ones from the others."""
    known = {t.name: t for t in tensors}
    out: dict[str, np.ndarray] = {}
    later = []
    for t in sorted(known.values(), key=lambda t: t.name):
        derived = [i for i in t.invariants if i.of]
        if derived:
            later.append((t, derived[0]))
        else:
            out[t.name] = draw(t, symbols, rng, spread)
    for t, inv in later:
        if inv.of not in out or (inv.at and inv.at not in out):
            raise ProgramError(f"table '{t.name}' is declared as {inv.kind} of '{inv.of}', which is no table of the plan")
        if inv.kind == "single":
            _bring_together(t, inv, symbols, known, out)
            out[t.name] = _draw_single(t, inv, symbols, out, rng, spread)
            continue
        if inv.kind == "ends":
            last = max((int(evaluate(i.hi, symbols)) for i in t.invariants if i.kind == "within"), default=0) - 1
            begins = out[inv.of]
            limits = np.append(begins[1:], max(last, begins[-1])) if len(begins) else begins
            out[t.name] = (begins + (rng.random(len(begins)) * (limits - begins + 1)).astype(int)).astype(np.int32)
            continue
        out[t.name] = derive(inv.kind, out[inv.of], int(evaluate(t.shape[0], symbols)))
    return out


def _bring_together(
    t: Tensor, inv: Invariant, symbols: Mapping[str, int], known: Mapping[str, Tensor], out: dict[str, np.ndarray]
) -> None:
    """Draws fewer places, where more were drawn than there are entries that may stand once: a cache of few pages."""
    block, (lo, hi) = int(evaluate(inv.hi, symbols)), _bounds(t, symbols)
    width = int(evaluate(t.shape[1], symbols))

    def too_many() -> bool:
        places = len(np.unique(out[inv.of] * width + out[inv.at] // block))
        return places >= hi - lo

    for name in (inv.at, inv.of):
        if not all(i.kind == "within" for i in known[name].invariants):
            continue
        least = _bounds(known[name], symbols)[0]
        while too_many() and int(out[name].max(initial=least)) > least:
            out[name] = (least + (out[name] - least) // 2).astype(np.int32)


def _bounds(t: Tensor, symbols: Mapping[str, int]) -> tuple[int, int]:
    return next((int(evaluate(i.lo, symbols)), int(evaluate(i.hi, symbols))) for i in t.invariants if i.kind == "within")


def _draw_single(
    t: Tensor, inv: Invariant, symbols: Mapping[str, int], known: Mapping[str, np.ndarray], rng: np.random.Generator, spread: float
) -> np.ndarray:
    """Entries that stand once where they must, and that may meet elsewhere."""
    table = draw(t, symbols, rng, spread)
    places = np.unique(known[inv.of] * table.shape[1] + known[inv.at] // int(evaluate(inv.hi, symbols)))
    lo, hi = _bounds(t, symbols)
    if hi - lo < len(places) + (len(places) < table.size):
        raise ProgramError(f"table '{t.name}': {len(places)} entries that stand once do not fit in [{lo}, {hi})")
    values = rng.permutation(np.arange(lo, hi, dtype=np.int32))
    own, rest = values[: len(places)], values[len(places) :]
    again = np.isin(table, own)
    table[again] = rng.choice(rest, int(again.sum())) if len(rest) else 0
    table.reshape(-1)[places] = own
    return table


def draw(tensor: Tensor, symbols: Mapping[str, int], rng: np.random.Generator, spread: float = 1.0) -> np.ndarray:
    """A random table of the tensor's shape that keeps its invariants; zeros where none bounds it. `spread` in (0, 1]
    narrows the values that free entries may take, so that they meet more often."""
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
        parts = size - 1
        if hi - lo >= parts and ("increasing" in kinds or rng.random() < 0.5):
            inner = rng.choice(np.arange(lo + 1, hi), parts - 1, replace=False)
        elif "increasing" in kinds:
            raise ProgramError(f"table '{tensor.name}': {parts} parts do not fit in [{lo}, {hi}) without an empty one")
        else:
            inner = rng.integers(lo, hi + 1, parts - 1)
        return np.concatenate([[lo], np.sort(inner), [hi]]).astype(np.int32)
    if "distinct" in kinds or "increasing" in kinds:
        if hi - lo < size:
            raise ProgramError(f"table '{tensor.name}': {size} distinct values do not fit in [{lo}, {hi})")
        v = rng.permutation(hi - lo)[:size] + lo
    else:
        v = rng.integers(lo, max(lo + int((hi - lo) * spread), lo + 1), size)
    v = v.reshape(shape)
    return (np.sort(v, axis=-1) if {"nondecreasing", "increasing"} & set(kinds) else v).astype(np.int32)
