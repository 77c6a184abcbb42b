"""No two tasks that conflict are left unordered: the check of one step, for some of the plan's grids.

Two accesses conflict when one of them writes and their memory overlaps: regions of one tensor, or two tensors that share
bytes of the arena, which count as one buffer as a whole. Tasks of two grids must be ordered as the program orders the
grids; tasks of one grid in either direction.

For each pair of accesses, coarse questions come first: is the one grid before the other as a whole; which classes are
unordered, and do the boxes around all of their tasks touch; only then single tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dtypes import itemsize
from ...errors import PlanError
from ...ir.expr import Expr, bounds, product
from ...ir.instance import StepView
from ...ir.nodes import Access, Plan, TaskGrid, Via, exprs_of, tables_of
from ...ir.ordering import Ordering, group_rows, region_key
from ...ir.printer import print_edge
from .boxes import Boxes, boxes_of, hulls, overlap
from .intervals import Facts

CHUNK = 1 << 22  # pairs of boxes compared at once


@dataclass
class Conflict:
    """Two tasks, by linear index, that no event orders as the program does."""

    first: TaskGrid
    first_task: int
    first_access: Access
    later: TaskGrid
    later_task: int
    later_access: Access

    def of(self, pair: Pair) -> bool:
        """Whether the conflict is one between these accesses."""
        return pair[0] is self.first and pair[1] is self.first_access and pair[2] is self.later and pair[3] is self.later_access


Pair = tuple[TaskGrid, Access, TaskGrid, Access]


def shares_table(plan: Plan, c: Conflict) -> bool:
    """Whether both regions go, in one dimension, through the same table that says which of its values are distinct."""
    if c.first_access.tensor != c.later_access.tensor:
        return False
    return any(
        isinstance(s, Via) and isinstance(t, Via) and s.table == t.table and s.block == t.block
        and any(i.kind in ("distinct", "single") for i in plan.tensors[s.table].invariants)
        for s, t in zip(c.first_access.region, c.later_access.region)
    )  # fmt: skip


class Memory:
    """Which tensors share memory."""

    def __init__(self, plan: Plan) -> None:
        self.places: dict[str, tuple[int, int]] = {}
        for name, offset in plan.offsets.items():
            t = plan.tensors[name]
            nbytes = bounds(product(t.shape), plan.symbols)[1] * itemsize(t.dtype)
            self.places[name] = (offset, offset + nbytes)

    def share(self, a: str, b: str) -> bool:
        if a == b:
            return True
        x, y = self.places.get(a), self.places.get(b)
        return x is not None and y is not None and x[0] < y[1] and y[0] < x[1]


class Regions:
    """The boxes of every access of a step; equal ones are made once."""

    def __init__(self, view: StepView) -> None:
        self.view, self.facts = view, Facts(view)

    def boxes(self, grid: TaskGrid, access: Access) -> Boxes:
        tensor = self.view.plan.tensors[access.tensor]
        named = ("boxes", grid.name, access.operand, access.tensor)
        key = self.view.memo.get(named)
        if key is None:
            shape = tuple(e.text for e in tensor.shape)
            text = str((tuple((a, e.text) for a, e in grid.axes), region_key(access.region), shape))
            key = self.view.memo[named] = ("boxes", text)

        def make() -> Boxes:
            coords = self.coords(grid)
            env = {**self.view.symbols, **{a: coords[:, d] for d, a in enumerate(grid.axis_names)}}
            return boxes_of(self.facts, grid, access, env, len(coords))

        def exprs() -> Iterator[Expr]:
            yield from (e for _, e in grid.axes)
            yield from exprs_of(access.region)
            yield from tensor.shape
            for name in tables_of(access.region):
                yield from table_exprs(self.view.plan, name)

        found: Boxes = self.view.remember(key, exprs, make)
        return found

    def coords(self, grid: TaskGrid) -> np.ndarray:
        key = ("coords", tuple((a, e.text) for a, e in grid.axes))
        found: np.ndarray = self.view.remember(key, lambda: [e for _, e in grid.axes], lambda: self.view.coords(grid))
        return found


def table_exprs(plan: Plan, table: str) -> Iterator[Expr]:
    """What a table's shape and promises depend on."""
    t = plan.tensors.get(table)
    if t is not None:
        yield from t.shape
        for i in t.invariants:
            yield from (i.lo, i.hi)
            for other in (i.of, i.at):
                if other in plan.tensors:
                    yield from plan.tensors[other].shape


def conflicting_pairs(grids: Sequence[TaskGrid], memory: Memory, mutable: set[str]) -> list[Pair]:
    """Every two accesses, in program order, that share memory and of which one writes. `mutable` names the tensors that
    anything of the plan writes."""
    uses = [(g, a) for g in grids for a in g.accesses if a.tensor in mutable or a.tensor in memory.places]
    pairs = [
        (g, a, h, b)
        for i, (g, a) in enumerate(uses)
        for h, b in uses[i:]
        if (a.writes or b.writes) and memory.share(a.tensor, b.tensor)
    ]
    order = {g.name: i for i, g in enumerate(grids)}
    # the nearest pairs first, those of one tensor before those of shared bytes: the plainest fault is the one told
    return sorted(pairs, key=lambda p: (p[1].tensor != p[3].tensor, order[p[2].name] - order[p[0].name]))


def find_conflict(view: StepView, ordering: Ordering, pairs: Sequence[Pair]) -> Conflict | None:
    """The first unordered conflict of a step."""
    regions = Regions(view)
    for g, a, h, b in pairs:
        if g.name == h.name:
            found = _within(regions, ordering, g, a, b)
        elif ordering.all_before(g.name, h.name):
            continue
        else:
            found = _between(regions, ordering, g, a, h, b)
        if found is not None:
            return Conflict(g, found[0], a, h, found[1], b)
    return None


def _within(regions: Regions, o: Ordering, g: TaskGrid, a: Access, b: Access) -> tuple[int, int] | None:
    """An unordered conflict between two tasks of one grid, through accesses a and b."""
    x, y = regions.boxes(g, a), regions.boxes(g, b)
    same = a.tensor == b.tensor
    if len(x.alive) < 2 or (same and region_key(a.region) == region_key(b.region) and x.apart):
        return None
    before = o.order_matrix(g.name, g.name)
    return _search(x, y, o.classes[g.name].ids, o.classes[g.name].ids, before | before.T, same, skip_self=True)


def _between(
    regions: Regions, o: Ordering, g: TaskGrid, a: Access, h: TaskGrid, b: Access
) -> tuple[int, int] | None:
    x, y = regions.boxes(g, a), regions.boxes(h, b)
    ordered = o.order_matrix(g.name, h.name)
    return _search(x, y, o.classes[g.name].ids, o.classes[h.name].ids, ordered, a.tensor == b.tensor, skip_self=False)


def _search(
    x: Boxes, y: Boxes, ids_x: np.ndarray, ids_y: np.ndarray, ordered: np.ndarray, same: bool, skip_self: bool
) -> tuple[int, int] | None:
    """Two tasks in unordered classes whose boxes overlap."""
    hull_x, hull_y = hulls(x, ids_x, ordered.shape[0]), hulls(y, ids_y, ordered.shape[1])
    touch = overlap(hull_x, hull_y) if same else hull_x.alive[:, None] & hull_y.alive[None, :]
    open_pairs = touch & ~ordered
    if not open_pairs.any():
        return None
    rows_x = _distinct(x, ids_x, open_pairs.any(1), skip_self)
    rows_y = _distinct(y, ids_y, open_pairs.any(0), skip_self)
    step = max(1, CHUNK // max(1, len(rows_y)))
    box_y = y.take(rows_y)
    for start in range(0, len(rows_x), step):
        part = rows_x[start : start + step]
        hit = open_pairs[ids_x[part]][:, ids_y[rows_y]]
        if skip_self:
            hit &= part[:, None] != rows_y[None, :]
        if same and hit.any():
            hit &= overlap(x.take(part), box_y)
        elif not same:
            hit &= x.alive[part][:, None] & y.alive[rows_y][None, :]
        if hit.any():
            i, j = np.argwhere(hit)[0]
            return int(part[i]), int(rows_y[j])
    return None


def _distinct(b: Boxes, ids: np.ndarray, wanted: np.ndarray, all_tasks: bool) -> np.ndarray:
    """One task for each different (class, box) of the wanted classes; all of them where a task must not meet itself."""
    rows: np.ndarray = np.flatnonzero(wanted[ids] & b.alive)
    if all_tasks or len(rows) < 2:
        return rows
    columns = [c[rows] for c in (ids, *b.columns())]
    kept: np.ndarray = rows[group_rows(columns, len(rows))[1]]
    return kept


# -------------------------------------------------------------------------------------------------------- in words


def describe(c: Conflict, view: StepView, memory: Memory) -> str:
    """What conflicts, where, at which step, and which edge is missing."""
    first, later = _task(view, c.first, c.first_task), _task(view, c.later, c.later_task)
    verb_1, place_1 = _touch(view, c.first, c.first_task, c.first_access)
    verb_2, place_2 = _touch(view, c.later, c.later_task, c.later_access)
    shared = "" if c.first_access.tensor == c.later_access.tensor else (
        f" (both lie in bytes {_bytes(memory, c.first_access.tensor)} and {_bytes(memory, c.later_access.tensor)} of the arena)"
    )  # fmt: skip
    steps = ", ".join(f"{k} = {v}" for k, v in view.symbols.items())
    edges = ", ".join(print_edge(e) for e in c.first.notifies)
    hint = (
        f"let '{c.later.name}' wait for an event that '{c.first.name}' notifies ({edges})" if edges
        else f"'{c.first.name}' notifies no event: give it one and let '{c.later.name}' wait for it"
    )  # fmt: skip
    if c.first.name == c.later.name:
        hint = f"two tasks of '{c.first.name}' touch the same elements: make their regions disjoint or order them by an event"
    return (
        f"no event orders task {first} before task {later}: the first {verb_1} {place_1}, the second {verb_2} {place_2}"
        f"{shared}, at {steps or 'any step'}; {hint}"
    )


def _bytes(memory: Memory, tensor: str) -> str:
    lo, hi = memory.places[tensor]
    return f"[{lo}, {hi})"


def _task(view: StepView, grid: TaskGrid, task: int) -> str:
    coords = view.coords(grid)[task].tolist()
    return f"{grid.name}[{', '.join(f'{a}={c}' for a, c in zip(grid.axis_names, coords))}]"


def _touch(view: StepView, grid: TaskGrid, task: int, access: Access) -> tuple[str, str]:
    coords = view.coords(grid)[task].tolist()
    env: dict[str, Any] = {**view.symbols, **{a: np.array([c]) for a, c in zip(grid.axis_names, coords)}}
    verb = {"read": "reads", "write": "writes", "update": "updates"}[access.mode]
    try:
        box = boxes_of(Facts(view), grid, access, env, 1)
        where = ", ".join(f"{int(d.lo[0])}:{int(d.hi[0])}" for d in box.dims)
    except PlanError:
        where = "?"
    return verb, f"{access.tensor}[{where}]"
