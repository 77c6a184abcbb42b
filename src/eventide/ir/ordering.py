"""Happens-before of one step, from the events alone: no worker's order, no barrier.

The tasks of a grid are grouped into *classes* with the same waits and notifies; a class stands for all of its tasks.
Classes are numbered over the whole plan, and what happens before a class is a bit mask of classes, so that asking
whether a thousand tasks come before a thousand others is one integer operation.

    up[m, n]   notifies e.up[m]          classes 0, 1      (n makes no difference)
    down[m, n] waits    e.up[m]          classes 2, 3

    o = Ordering(StepView(plan, {"num_tokens": 200}))
    o.before("up", 5, "down", 0)  -> True                 tasks by linear index
    o.ancestors[3]                -> 0b0010               class 1 happens before class 3
    o.all_before("up", "down")    -> False

A cell orders its notifiers before its waiters when it needs exactly as many notifications as it gets; with fewer needed,
no single notifier is certain to have run, and nothing is ordered. Grids with `enter` edges have one more node, their
*entry*, which happens before all of their tasks. Grids that look alike (the layers of a model) share the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import PlanError
from .expr import Expr, evaluate
from .instance import Coords, StepView
from .nodes import Edge, Region, Span, TaskGrid, exprs_of

Cells = list[tuple[int, ...]]


def region_key(region: Region) -> tuple[object, ...]:
    """Equal for regions that print alike; texts are kept by the expressions, so this is cheap."""
    return tuple(
        (s.lo.text, s.hi.text) if isinstance(s, Span)
        else (s.table, *(p.text for p in s.prefix), s.lo.text, s.hi.text, s.block)
        for s in region
    )  # fmt: skip


@dataclass(frozen=True)
class GridClasses:
    """The tasks of one grid by class.

    ``coords`` [tasks, axes]; ``ids`` [tasks], the class of each task; ``sizes`` and ``first`` [classes], how many tasks a
    class has and one of them; ``waits`` and ``notifies``, for every edge, the flat cells that each class names.
    """

    coords: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    waits: tuple[Cells, ...]
    notifies: tuple[Cells, ...]

    @property
    def num_classes(self) -> int:
        return len(self.sizes)


def grid_classes(view: StepView, grid: TaskGrid) -> GridClasses:
    """Groups a grid's tasks; grids with equal axes and edges share one answer within a step."""
    events = view.plan.events
    key = (
        tuple((a, e.text) for a, e in grid.axes),
        tuple((region_key(e.cells), tuple(n.text for n in events[e.event].shape)) for e in (*grid.waits, *grid.notifies)),
        len(grid.waits),
    )

    def exprs() -> Iterator[Expr]:
        yield from (e for _, e in grid.axes)
        for edge in (*grid.waits, *grid.notifies):
            yield from exprs_of(edge.cells)
            yield from events[edge.event].shape

    found = view.remember(key, exprs, lambda: _classify(view, grid))
    assert isinstance(found, GridClasses)
    return found


def _classify(view: StepView, grid: TaskGrid) -> GridClasses:
    coords = view.coords(grid)
    n = len(coords)
    env = {**view.symbols, **{a: coords[:, d] for d, a in enumerate(grid.axis_names)}}
    edges = (*grid.waits, *grid.notifies)
    columns: list[np.ndarray] = []
    for edge in edges:
        if all(isinstance(s, Span) for s in edge.cells):
            for s in edge.cells:
                for e in (s.lo, s.hi):
                    value = evaluate(e, env, view.tables)
                    if isinstance(value, np.ndarray) and value.ndim:
                        columns.append(value)
        else:
            seen: dict[tuple[int, ...], int] = {}
            found = (tuple(view.cells(edge, grid, t)) for t in map(tuple, coords.tolist()))
            columns.append(np.array([seen.setdefault(f, len(seen)) for f in found], np.int64))
    ids, first, sizes = group_rows(columns, n)
    cells = tuple(_cells(view, grid, edge, coords[first]) for edge in edges)
    return GridClasses(coords, ids, sizes, first, cells[: len(grid.waits)], cells[len(grid.waits) :])


def _cells(view: StepView, grid: TaskGrid, edge: Edge, coords: np.ndarray) -> Cells:
    """The flat cells that an edge names for each of the tasks, as `StepView.cells` gives them for one."""
    if not all(isinstance(s, Span) for s in edge.cells):
        return [tuple(view.cells(edge, grid, t)) for t in map(tuple, coords.tolist())]
    n = len(coords)
    env = {**view.symbols, **{a: coords[:, d] for d, a in enumerate(grid.axis_names)}}
    ranges: list[list[range]] = []
    shape = view.event_shape(edge.event)
    for s, extent in zip(edge.cells, shape):
        ends = (np.broadcast_to(evaluate(e, env, view.tables), (n,)).clip(0, extent).tolist() for e in (s.lo, s.hi))
        ranges.append([range(lo, hi) for lo, hi in zip(*ends)])
    out: Cells = []
    for row in zip(*ranges) if ranges else [()] * n:
        flat = [0]
        for dim, extent in zip(row, shape):
            flat = [f * extent + i for f in flat for i in dim]
        out.append(tuple(flat))
    return out


def group_rows(columns: list[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal rows of the columns fall in one group: (group of each row, a row of each group, group sizes)."""
    key = np.zeros(n, np.int64)
    span = 1
    for column in columns if n else ():
        low = int(column.min())
        width = int(column.max()) - low + 1
        if width == 1:
            continue
        if span * width > 2**62:  # renumber before the mixed-radix key overflows
            key = np.unique(key, return_inverse=True)[1].reshape(-1)
            span = int(key.max()) + 1
            column = np.unique(column, return_inverse=True)[1].reshape(-1)
            low, width = 0, int(column.max()) + 1
        key = key * width + (column - low)
        span *= width
    if span == 1:
        return np.zeros(n, np.int64), np.arange(min(n, 1)), np.full(min(n, 1), n)
    if span <= 4 * n + 4096:  # dense keys need no sorting
        counts = np.bincount(key, minlength=span)
        used = np.flatnonzero(counts)
        place = np.zeros(span, np.int64)
        place[used] = np.arange(len(used))
        ids = place[key]
        first = np.empty(len(used), np.int64)
        first[ids[::-1]] = np.arange(n - 1, -1, -1)
        return ids, first, counts[used]
    _, first, ids, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    return ids.reshape(-1), first, sizes


class Ordering:
    """Happens-before among the tasks of `grids` (all of the plan's, unless given), by the events that these grids notify.

    ``counts_hold`` says that every needed count is known to be met exactly, so that events whose other notifiers are not
    among `grids` still order; without it the counts are checked here, cell by cell.
    """

    def __init__(self, view: StepView, grids: Iterable[TaskGrid] | None = None, counts_hold: bool = False) -> None:
        self.view = view
        self.grids = tuple(view.plan.grids if grids is None else grids)
        self.counts_hold = counts_hold
        self.classes: dict[str, GridClasses] = {}
        self.class_range: dict[str, range] = {}
        self.entry: dict[str, int] = {}
        self.members: list[str] = []
        for g in self.grids:
            self.classes[g.name] = c = grid_classes(view, g)
            if g.enter:
                self.entry[g.name] = len(self.members)
                self.members.append(g.name)
            self.class_range[g.name] = range(len(self.members), len(self.members) + c.num_classes)
            self.members += [g.name] * c.num_classes
        self._common: dict[str, int] = {}

    @cached_property
    def class_ids(self) -> dict[str, np.ndarray]:
        """The class of every task in linear order, by grid."""
        return {name: c.ids + self.class_range[name].start for name, c in self.classes.items()}

    def representative(self, cid: int) -> Coords:
        """The coordinates of one task of a class."""
        grid = self.members[cid]
        c = self.classes[grid]
        return tuple(c.coords[c.first[cid - self.class_range[grid].start]].tolist())

    @cached_property
    def notifications(self) -> dict[str, dict[int, int]]:
        """How many notifications each cell gets, by event and flat cell."""
        got: dict[str, dict[int, int]] = {e: {} for e in self.view.plan.events}
        for g in self.grids:
            c = self.classes[g.name]
            sizes = c.sizes.tolist()
            for edge, cells in zip(g.notifies, c.notifies):
                counts = got[edge.event]
                for size, of_class in zip(sizes, cells):
                    for cell in of_class:
                        counts[cell] = counts.get(cell, 0) + size
        return got

    def _orders(self, event: str, cell: int) -> bool:
        return self.counts_hold or self.view.needed(event, cell) == self.notifications[event].get(cell, 0)

    @cached_property
    def ancestors(self) -> list[int]:
        """For every class (and entry) a bit mask of what happens before it. PlanError on a cycle."""
        position = {g.name: i for i, g in enumerate(self.grids)}
        latest: dict[str, int] = {}
        for g in self.grids:
            for e in g.notifies:
                latest[e.event] = max(latest.get(e.event, -1), position[g.name])
        forward = all(latest.get(e.event, -1) < position[g.name] for g in self.grids for e in (*g.waits, *g.enter))
        return self._forward() if forward else self._any_order()

    def _forward(self) -> list[int]:
        """Every event is complete before the first grid that waits for it: one sweep over the grids."""
        masks = [0] * len(self.members)
        triggered: dict[str, dict[int, int]] = {e: {} for e in self.view.plan.events}
        for g in self.grids:
            c = self.classes[g.name]
            base, past = self.class_range[g.name].start, 0
            if g.enter:
                entry = self.entry[g.name]
                for e in g.enter:
                    for cell in self.view.cells(e, g, ()):
                        past |= triggered[e.event].get(cell, 0)
                masks[entry] = past
                past |= 1 << entry
            notified = [(triggered[e.event], cells) for e, cells in zip(g.notifies, c.notifies)]
            waited = [(triggered[e.event], cells) for e, cells in zip(g.waits, c.waits)]
            for i in range(c.num_classes):
                mask = past
                for of_event, cells in waited:
                    for cell in cells[i]:
                        mask |= of_event.get(cell, 0)
                masks[base + i] = mask
                mask |= 1 << (base + i)
                for of_event, cells in notified:
                    for cell in cells[i]:
                        of_event[cell] = of_event.get(cell, 0) | mask
            # cells that trigger early order nothing; drop them once their last notifier has been swept
            if not self.counts_hold:
                for e in g.notifies:
                    if self._last_notifier[e.event] == g.name:
                        of_event = triggered[e.event]
                        for cell in [k for k in of_event if not self._orders(e.event, k)]:
                            del of_event[cell]
        return masks

    @cached_property
    def _last_notifier(self) -> dict[str, str]:
        return {e.event: g.name for g in self.grids for e in g.notifies}

    def _any_order(self) -> list[int]:
        """The general case: Kahn's algorithm on classes, entries and cells."""
        waits: list[list[tuple[str, int]]] = [[] for _ in self.members]
        waiters: dict[tuple[str, int], list[int]] = {}
        notifiers: dict[tuple[str, int], set[int]] = {}
        notified: list[list[tuple[str, int]]] = [[] for _ in self.members]
        for g in self.grids:
            c, base = self.classes[g.name], self.class_range[g.name].start
            for e, cells in zip(g.notifies, c.notifies):
                for i, of_class in enumerate(cells):
                    for cell in of_class:
                        notifiers.setdefault((e.event, cell), set()).add(base + i)
        for g in self.grids:
            c, base = self.classes[g.name], self.class_range[g.name].start
            named = [(base + i, e.event, of) for e, cells in zip(g.waits, c.waits) for i, of in enumerate(cells)]
            named += [(self.entry[g.name], e.event, tuple(self.view.cells(e, g, ()))) for e in g.enter]
            for cid, event, of_class in named:
                for cell in of_class:
                    if (event, cell) in notifiers and self._orders(event, cell):
                        waits[cid].append((event, cell))
                        waiters.setdefault((event, cell), []).append(cid)
        missing = {key: len(by) for key, by in notifiers.items()}
        for key, by in notifiers.items():
            for cid in by:
                notified[cid].append(key)
        open_waits = [len(w) for w in waits]
        after_entry = {self.entry[g]: self.class_range[g] for g in self.entry}
        for classes in after_entry.values():
            for cid in classes:
                open_waits[cid] += 1
        masks = [0] * len(self.members)
        ready = [cid for cid, n in enumerate(open_waits) if not n]
        seen = 0
        while ready:
            cid = ready.pop()
            seen += 1
            for later in after_entry.get(cid, ()):
                masks[later] |= masks[cid] | (1 << cid)
                open_waits[later] -= 1
                if not open_waits[later]:
                    ready.append(later)
            for key in notified[cid]:
                missing[key] -= 1
                for later in waiters.get(key, ()):
                    masks[later] |= masks[cid] | (1 << cid)
                    if not missing[key]:
                        open_waits[later] -= 1
                        if not open_waits[later]:
                            ready.append(later)
        if seen < len(self.members):
            stuck = dict.fromkeys(self.members[c] for c, n in enumerate(open_waits) if n)
            raise PlanError(f"the events form a cycle through the task grids {', '.join(stuck)}: none of their tasks can start")
        return masks

    # -- questions

    def before(self, grid_a: str, task_a: int, grid_b: str, task_b: int) -> bool:
        """Whether one task (by linear index) happens before another."""
        a, b = self.class_ids[grid_a][task_a], self.class_ids[grid_b][task_b]
        return bool(self.ancestors[b] >> int(a) & 1)

    def mask(self, grid: str) -> int:
        """The classes of a grid as a bit mask."""
        r = self.class_range[grid]
        return ((1 << len(r)) - 1) << r.start

    def common_past(self, grid: str) -> int:
        """What happens before every task of a grid; everything, if it has no task."""
        if grid not in self._common:
            mask = -1
            for cid in self.class_range[grid]:
                mask &= self.ancestors[cid]
            self._common[grid] = mask
        return self._common[grid]

    def all_before(self, grid_a: str, grid_b: str) -> bool:
        """Whether every task of one grid happens before every task of another."""
        need = self.mask(grid_a)
        return self.common_past(grid_b) & need == need

    def order_matrix(self, grid_a: str, grid_b: str) -> np.ndarray:
        """bool [classes of a, classes of b]: whether class a happens before class b."""
        a, b = self.class_range[grid_a], self.class_range[grid_b]
        width = -(-len(a) // 8)
        need = (1 << len(a)) - 1
        rows = b"".join((self.ancestors[c] >> a.start & need).to_bytes(width, "little") for c in b)
        bits = np.unpackbits(np.frombuffer(rows, np.uint8).reshape(len(b), width), axis=1, bitorder="little")
        matrix: np.ndarray = bits[:, : len(a)].T.astype(bool)
        return matrix
