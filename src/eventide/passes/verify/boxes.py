"""The regions of all tasks of one access, as boxes that can be compared a million pairs at a time.

Each dimension of a region is an interval of values. Where it goes through a table whose contents are unknown, the
interval is all that the table may hold; and beside it stands a *key*: two regions with the same key are compared by
where they look the table up instead. So `y[tile_indptr[i] : tile_indptr[i + 1]]` of two tasks are apart because
tile_indptr does not decrease, and `tokens[row_seq[r]]` because row_seq is distinct. Of a table that promises this for some of
its entries only (``single``), one of the two regions must be such an entry, its *own*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import PlanError
from ...ir.expr import Load, Sum, linear
from ...ir.expr import tables as tables_in
from ...ir.instance import indices
from ...ir.nodes import Access, IndexSet, Span, TaskGrid, Via
from ...ir.ordering import group_rows
from .intervals import Ends, Facts, same

MONOTONE = {"nondecreasing", "increasing", "partition", "offsets"}
DISTINCT = {"distinct", "increasing", "grouping"}
HIGHEST = 2**63 - 1


@dataclass
class Dim:
    """One dimension: lo <= i < hi by task; with `key`, the same in places of a table; `sets`, exact looked-up indices. `own`:
    the values at these places stand nowhere else in the table."""

    lo: np.ndarray
    hi: np.ndarray
    key: tuple[Any, ...] | None = None
    key_lo: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    key_hi: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sets: list[np.ndarray] | None = None
    own: bool = True

    def take(self, rows: np.ndarray) -> Dim:
        sets = None if self.sets is None else [self.sets[i] for i in rows]
        key_lo, key_hi = (self.key_lo[rows], self.key_hi[rows]) if self.key else (self.key_lo, self.key_hi)
        return Dim(self.lo[rows], self.hi[rows], self.key, key_lo, key_hi, sets, self.own)


@dataclass
class Boxes:
    """One box a task; `alive` tells which are not empty."""

    dims: list[Dim]
    alive: np.ndarray
    hull_of: dict[int, tuple[np.ndarray, Boxes]] = field(default_factory=dict)  # by the array of classes

    @cached_property
    def apart(self) -> bool:
        """A quick proof that no two boxes overlap: in every dimension the different intervals are disjoint, and no two
        tasks have all of them equal. False means only that this argument does not show it."""
        alive = np.flatnonzero(self.alive)
        key = np.zeros(len(alive), np.int64)
        for d in self.dims if len(alive) > 1 else ():
            lo, hi = (d.key_lo, d.key_hi) if d.key and d.own else (d.lo, d.hi)
            ids, first, _ = group_rows([lo[alive], (hi - lo)[alive]], len(alive))  # groups ascend by lo
            starts, stops = lo[alive][first], hi[alive][first]
            if np.any(starts[1:] < stops[:-1]):
                return False
            key = key * len(first) + ids
        return len(alive) < 2 or len(group_rows([key], len(key))[1]) == len(key)

    def take(self, rows: np.ndarray) -> Boxes:
        return Boxes([d.take(rows) for d in self.dims], self.alive[rows])

    def columns(self) -> list[np.ndarray]:
        """What tells two boxes apart."""
        out = [self.alive.astype(np.int64)]
        for d in self.dims:
            out += [d.lo, d.hi] if d.key is None else [d.lo, d.hi, d.key_lo, d.key_hi]
            if d.sets is not None:
                seen: dict[bytes, int] = {}
                out.append(np.array([seen.setdefault(s.tobytes(), len(seen)) for s in d.sets], np.int64))
        return out


def boxes_of(facts: Facts, grid: TaskGrid, access: Access, env: dict[str, Any], n: int) -> Boxes:
    """The regions of an access for the `n` tasks whose coordinates `env` holds. PlanError if one leaves its tensor."""
    tensor = facts.plan.tensors.get(access.tensor)
    if tensor is None or len(access.region) != tensor.ndim:
        raise PlanError(
            f"grid '{grid.name}', operand '{access.operand}': the region has {len(access.region)} dimensions, tensor "
            f"'{access.tensor}' {'is unknown' if tensor is None else f'has {tensor.ndim}'}"
        )
    dims = [_dim(facts, s, env, n) for s in access.region]
    alive = np.ones(n, bool)
    for d in dims:
        alive &= d.hi > d.lo
    for axis, (d, size) in enumerate(zip(dims, facts.shape(access.tensor))):
        bad = alive & ((d.lo < 0) | (d.hi > size))
        if bad.any():
            t = int(np.argmax(bad))
            task = ", ".join(f"{a}={int(np.broadcast_to(env[a], (n,))[t])}" for a in grid.axis_names)
            raise PlanError(
                f"task {grid.name}[{task}] reaches [{int(d.lo[t])}, {int(d.hi[t])}) in dimension {axis} of '{access.tensor}' "
                f"(operand '{access.operand}'), which has {size} elements there, at {_symbols(facts)}"
            )
    return Boxes(dims, alive)


def _symbols(facts: Facts) -> str:
    return ", ".join(f"{k} = {v}" for k, v in facts.view.symbols.items()) or "any step"


def _ends(pair: Ends, n: int) -> tuple[np.ndarray, np.ndarray]:
    lo = _column(pair[0], n)
    return lo, lo if pair[1] is pair[0] else _column(pair[1], n)


def _column(v: Any, n: int) -> np.ndarray:
    if np.ndim(v) == 0:
        return np.full(n, v, np.int64)  # several times as quick as a broadcast
    a = np.asarray(v, np.int64)
    return a if a.shape == (n,) else np.broadcast_to(a, (n,))


def _dim(facts: Facts, s: IndexSet, env: dict[str, Any], n: int) -> Dim:
    if isinstance(s, Via):
        return _via(facts, s, env, n)
    first, last = facts.interval(s.lo, env), facts.interval(s.hi, env)
    lo, hi = _column(first[0], n), _column(last[1], n)
    if (s.lo.table_names or s.hi.table_names) and not (same(*first) and same(*last)):
        return _keyed(facts, s, env, n, lo, hi)
    return Dim(lo, hi)


def _keyed(facts: Facts, s: Span, env: dict[str, Any], n: int, lo: np.ndarray, hi: np.ndarray) -> Dim:
    plain = Dim(lo, hi)
    (k, terms), (k2, terms2) = linear(s.lo), linear(s.hi)
    if len(terms) != 1 or len(terms2) != 1:
        return plain
    ((a, c),), ((b, c2),) = terms.items(), terms2.items()
    if not (isinstance(a, Load) and isinstance(b, Load) and a.table == b.table and c == c2 and c > 0):
        return plain
    kinds = facts.kinds(a.table)
    if a == b and 0 < k2 - k <= c and kinds & DISTINCT and not any(tables_in(i) for i in a.index):
        place = _flat(facts, a, env, n)
        return Dim(lo, hi, ("distinct", a.table, c, k, k2), place, place + 1)
    if k == k2 and len(a.index) == 1 and kinds & MONOTONE and not (tables_in(a.index[0]) or tables_in(b.index[0])):
        first, _ = _ends(facts.interval(a.index[0], env), n)
        last, _ = _ends(facts.interval(b.index[0], env), n)
        return Dim(lo, hi, ("monotone", a.table, c, k), first, last)
    return plain


def _flat(facts: Facts, e: Load, env: dict[str, Any], n: int) -> np.ndarray:
    flat: Any = 0
    for i, size in zip(e.index, facts.shape(e.table)):
        flat = flat * size + facts.interval(i, env)[0]
    return _ends((flat, flat), n)[0]


def _via(facts: Facts, s: Via, env: dict[str, Any], n: int) -> Dim:
    first, last = facts.interval(s.lo, env), facts.interval(s.hi, env)
    lo, hi = _column(first[0], n), _column(last[1], n)
    shape = facts.shape(s.table)
    block, used = s.block, hi > lo
    # the last entry is looked up as an expression, so that places outside the table are found
    flat_index = (*s.prefix, Sum(0))
    facts.interval(Load(s.table, flat_index), env) if n and shape[-1] else None
    if used.any() and (lo[used].min() < 0 or (hi[used].max() - 1) // block >= shape[-1]):
        raise PlanError(
            f"a region looks up {s.table}[{', '.join([*map(str, s.prefix), f'{s.lo} : {s.hi}'])}], which reaches place "
            f"{int((hi[used].max() - 1) // block) if lo[used].min() >= 0 else int(lo[used].min())} of a table of {shape[-1]}"
        )
    if s.table in facts.view.tables:
        sets = _sets(facts, s, env, n)
        ends = [(int(x.min()), int(x.max()) + 1) if len(x) else (0, 0) for x in sets]
        low, high = (np.array([e[k] for e in ends], np.int64) for k in (0, 1))
        return Dim(low, high, sets=sets)
    lowest, highest = facts.values(s.table)
    low = np.where(used, lowest * block, 0)
    high = np.where(used, highest * block + block, 0)
    exact = same(*first) and same(*last) and all(same(*facts.interval(e, env)) for e in s.prefix)
    own = bool(facts.kinds(s.table) & DISTINCT) or _is_single(facts, s, env, n)
    if exact and (own or "single" in facts.kinds(s.table)):  # compared by place: different places hold different values
        row: Any = 0
        for p, size in zip(s.prefix, shape):
            row = row * size + facts.interval(p, env)[0]
        start = row * (shape[-1] * block)
        key = ("distinct", s.table, 1, 0, 1) if block == 1 else ("paged", s.table, block)
        return Dim(low, high, key, _ends((start + lo, 0), n)[0], _ends((start + hi, 0), n)[0], own=own)
    return Dim(low, high)


def _is_single(facts: Facts, s: Via, env: dict[str, Any], n: int) -> bool:
    """Whether every task's region is inside an entry that the table promises to hold once."""
    promise = next((i for i in facts.plan.tensors[s.table].invariants if i.kind == "single"), None)
    if promise is None or len(s.prefix) != 1 or s.block != facts.view.value(promise.hi):
        return False
    row, (const, terms) = s.prefix[0], linear(s.lo)
    place = next(iter(terms), None)
    if not (isinstance(row, Load) and isinstance(place, Load) and const == 0 and list(terms.values()) == [1]):
        return False
    if (row.table, place.table) != (promise.of, promise.at) or row.index != place.index:
        return False
    lo, _ = _ends(facts.interval(s.lo, env), n)
    _, hi = _ends(facts.interval(s.hi, env), n)
    return bool(np.all((hi <= lo) | ((hi - 1) // s.block == lo // s.block)))


def _sets(facts: Facts, s: Via, env: dict[str, Any], n: int) -> list[np.ndarray]:
    names = [k for k, v in env.items() if isinstance(v, np.ndarray) and v.ndim]
    out = []
    for t in range(n):
        one = {**env, **{k: int(env[k][t]) for k in names}}
        found = indices((s,), one, facts.view.tables)[0]
        assert isinstance(found, np.ndarray)
        out.append(np.sort(found))
    return out


def overlap(a: Boxes, b: Boxes) -> np.ndarray:
    """bool [boxes of a, boxes of b]: whether two boxes of the same tensor may share an element."""
    hit: np.ndarray = a.alive[:, None] & b.alive[None, :]
    for x, y in zip(a.dims, b.dims):
        if x.key is not None and x.key == y.key and (x.own or y.own):
            hit &= (x.key_lo[:, None] < y.key_hi[None, :]) & (y.key_lo[None, :] < x.key_hi[:, None])
        else:
            hit &= (x.lo[:, None] < y.hi[None, :]) & (y.lo[None, :] < x.hi[:, None])
    for x, y in zip(a.dims, b.dims):
        if x.sets is not None or y.sets is not None:
            for i, j in np.argwhere(hit).tolist():
                hit[i, j] = len(np.intersect1d(_members(x, i), _members(y, j))) > 0
    return hit


def _members(d: Dim, i: int) -> np.ndarray:
    return d.sets[i] if d.sets is not None else np.arange(d.lo[i], d.hi[i])


def hulls(b: Boxes, ids: np.ndarray, num: int) -> Boxes:
    """The smallest box around all boxes of each class; `ids` gives the class of each box."""
    kept = b.hull_of.get(id(ids))
    if kept is not None and kept[0] is ids:
        return kept[1]
    alive = np.zeros(num, bool)
    np.logical_or.at(alive, ids, b.alive)

    def ends(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.full(num, HIGHEST), np.full(num, -HIGHEST)
        np.minimum.at(low, ids[b.alive], lo[b.alive])
        np.maximum.at(high, ids[b.alive], hi[b.alive])
        return low, high

    dims = []
    for d in b.dims:
        lo, hi = ends(d.lo, d.hi)
        dims.append(Dim(lo, hi, d.key, *ends(d.key_lo, d.key_hi), own=d.own) if d.key else Dim(lo, hi))
    b.hull_of[id(ids)] = (ids, Boxes(dims, alive))
    return b.hull_of[id(ids)][1]
