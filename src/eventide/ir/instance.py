"""One step of a plan made concrete: symbols, tables and coordinates become integers.

Two views of the same facts. `StepView` answers for single tasks (the interpreter walks it). `Ordering` answers for all
tasks at once: it groups the tasks of a grid into *classes* with the same waits and notifies and finds, by the events
alone, which class happens before which; passes and the verifier ask it whether two tasks are ordered.

    view = StepView(plan, {"num_tokens": 3}, tables)
    view.tasks(grid)        -> [(0, 0), (0, 1), ...]
    view.cells(edge, grid, (0, 1)) -> [17, 18]       flat cell indices in the edge's event tensor
    Ordering(view).before("l0.qkv", 3, "l0.attn", 0)      tasks by linear index
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import PlanError
from .expr import Expr, evaluate
from .nodes import Edge, Plan, Region, Span, TaskGrid, cell_var

Coords = tuple[int, ...]


def indices(region: Region, env: Mapping[str, Any], tables: Mapping[str, Any]) -> list[slice | np.ndarray]:
    """The concrete indices of each dimension: a slice for a span, an integer array for a lookup."""
    out: list[slice | np.ndarray] = []
    for s in region:
        lo, hi = evaluate(s.lo, env, tables), evaluate(s.hi, env, tables)
        if isinstance(s, Span):
            out.append(slice(lo, max(lo, hi)))
            continue
        i = np.arange(lo, max(lo, hi))
        row = tables[s.table][tuple(evaluate(p, env, tables) for p in s.prefix)]
        out.append(row[i // s.block].astype(np.int64) * s.block + i % s.block)
    return out


class StepView:
    """A plan with values for its symbols and its run-time tables (name -> integer array)."""

    def __init__(self, plan: Plan, symbols: Mapping[str, int], tables: Mapping[str, Any] | None = None) -> None:
        self.plan, self.symbols, self.tables = plan, dict(symbols), tables if tables is not None else {}
        self._event_shapes: dict[str, tuple[int, ...]] = {}

    def value(self, expr: Expr) -> int:
        return int(evaluate(expr, self.symbols, self.tables))

    def shape(self, exprs: tuple[Expr, ...]) -> tuple[int, ...]:
        return tuple(self.value(e) for e in exprs)

    def event_shape(self, event: str) -> tuple[int, ...]:
        """Extents of an event tensor; looked up so often that they are kept, so only once its tables are known."""
        if event not in self._event_shapes:
            self._event_shapes[event] = self.shape(self.plan.events[event].shape)
        return self._event_shapes[event]

    def env(self, grid: TaskGrid, task: Coords) -> dict[str, int]:
        return {**self.symbols, **dict(zip(grid.axis_names, task))}

    def coords(self, grid: TaskGrid) -> np.ndarray:
        """All tasks of a grid in linear order (last axis fastest), [tasks, axes]; extents may depend on earlier axes."""
        found = np.zeros((1, 0), np.int64)
        for d, (_, extent) in enumerate(grid.axes):
            env = {**self.symbols, **{a: found[:, i] for i, a in enumerate(grid.axis_names[:d])}}
            counts = np.broadcast_to(evaluate(extent, env, self.tables), (len(found),)).clip(0)
            last = np.concatenate([np.arange(n) for n in counts]) if len(found) else np.zeros(0, np.int64)
            found = np.concatenate([np.repeat(found, counts, axis=0), last[:, None].astype(np.int64)], axis=1)
        return found

    def tasks(self, grid: TaskGrid) -> list[Coords]:
        return [tuple(row) for row in self.coords(grid).tolist()]

    def cells(self, edge: Edge, grid: TaskGrid, task: Coords) -> list[int]:
        """Flat indices of the cells an edge names, clipped to the event tensor; repeated lookups repeat."""
        shape = self.event_shape(edge.event)
        dims = []
        for n, idx in zip(shape, indices(edge.cells, self.env(grid, task), self.tables)):
            if isinstance(idx, slice):
                dims.append(range(max(idx.start, 0), min(idx.stop, n)))
            else:
                dims.append(idx.tolist())
        flat = [0]
        for n, dim in zip(shape, dims):
            flat = [f * n + i for f in flat for i in dim]
        return flat

    def needed(self, event: str, cell: int) -> int:
        ev = self.plan.events[event]
        if ev.needed is None:
            raise PlanError(f"event '{event}' has no needed count; the events pass should have inferred it")
        coords = np.unravel_index(cell, self.event_shape(event)) if ev.shape else ()
        env = {**self.symbols, **{cell_var(d).name: int(c) for d, c in enumerate(coords)}}
        return int(evaluate(ev.needed, env, self.tables))


class Ordering:
    """Happens-before of one step, from the events alone (no worker's order, no barrier).

    A cell orders its notifiers before its waiters when it needs exactly as many notifications as it gets; with fewer
    needed, no single notifier is certain to have run, and nothing is ordered.

    ``class_ids[grid]`` gives every task's class in linear order, ``class_range[grid]`` the classes of a grid; ``members[c]`` the grid of class c and
    ``representatives[c]`` one of its tasks; ``notifiers`` and ``waiters`` the classes at each (event, cell).
    """

    def __init__(self, view: StepView) -> None:
        self.view = view
        self.class_ids: dict[str, np.ndarray] = {}
        self.class_range: dict[str, range] = {}
        self.members: list[str] = []
        self.representatives: list[Coords] = []
        notifiers: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        waiters: dict[tuple[str, int], set[int]] = defaultdict(set)
        for grid in view.plan.grids:
            coords = view.coords(grid)
            first, ids, sizes = self._classes(grid, coords)
            self.class_ids[grid.name] = ids + len(self.members)
            self.class_range[grid.name] = range(len(self.members), len(self.members) + len(first))
            for representative, size in zip(first, sizes):
                cid = len(self.members)
                task = tuple(int(c) for c in coords[representative])
                self.members.append(grid.name)
                self.representatives.append(task)
                for edge in (*grid.waits, *grid.enter):
                    for cell in view.cells(edge, grid, task):
                        waiters[edge.event, cell].add(cid)
                for edge in grid.notifies:
                    for cell in view.cells(edge, grid, task):
                        by = notifiers[edge.event, cell]
                        by[cid] = by.get(cid, 0) + int(size)
        self.notifications = {cell: sum(by.values()) for cell, by in notifiers.items()}
        self.waiters, self.notifiers = waiters, notifiers
        self.successors: list[set[int]] = [set() for _ in self.members]
        for cell, classes in waiters.items():
            got = self.notifications.get(cell, 0)
            if got and view.needed(*cell) == got:
                for a in notifiers[cell]:
                    self.successors[a] |= classes

    def _classes(self, grid: TaskGrid, coords: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tasks with equal edges fall in one class: (a representative of each, class of each task, class sizes)."""
        n = len(coords)
        env = {**self.view.symbols, **{a: coords[:, d] for d, a in enumerate(grid.axis_names)}}
        columns = []
        for edge in (*grid.waits, *grid.enter, *grid.notifies):
            if all(isinstance(s, Span) for s in edge.cells):
                for s in edge.cells:
                    assert isinstance(s, Span)
                    for e in (s.lo, s.hi):
                        columns.append(np.broadcast_to(evaluate(e, env, self.view.tables), (n,)))
            else:
                keys: dict[tuple[int, ...], int] = {}
                tasks = (tuple(int(c) for c in row) for row in coords)
                found = [tuple(self.view.cells(edge, grid, t)) for t in tasks]
                columns.append(np.array([keys.setdefault(f, len(keys)) for f in found], dtype=np.int64))
        if n == 0 or not columns:
            return np.arange(min(n, 1)), np.zeros(n, np.int64), np.full(min(n, 1), n)
        _, first, inverse, sizes = np.unique(
            np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        return first, inverse.reshape(-1), sizes

    @cached_property
    def ancestors(self) -> list[int]:
        """For every class a bit mask of the classes that happen before it."""
        indegree = [0] * len(self.members)
        for succ in self.successors:
            for b in succ:
                indegree[b] += 1
        ready = [c for c, n in enumerate(indegree) if not n]
        masks = [0] * len(self.members)
        seen = 0
        while ready:
            a = ready.pop()
            seen += 1
            for b in self.successors[a]:
                masks[b] |= masks[a] | (1 << a)
                indegree[b] -= 1
                if not indegree[b]:
                    ready.append(b)
        if seen < len(self.members):
            stuck = dict.fromkeys(self.members[c] for c, n in enumerate(indegree) if n)
            raise PlanError(f"the events form a cycle through the task grids {', '.join(stuck)}")
        return masks

    def before(self, grid_a: str, task_a: int, grid_b: str, task_b: int) -> bool:
        """Whether one task (by linear index) happens before another."""
        a, b = self.class_ids[grid_a][task_a], self.class_ids[grid_b][task_b]
        return bool(self.ancestors[b] >> int(a) & 1)

    def mask(self, grid: str) -> int:
        """The classes of a grid as a bit mask."""
        r = self.class_range[grid]
        return ((1 << len(r)) - 1) << r.start

    def all_before(self, grid_a: str, grid_b: str) -> bool:
        """Whether every task of one grid happens before every task of another."""
        need = self.mask(grid_a)
        return all(self.ancestors[b] & need == need for b in self.class_range[grid_b])
