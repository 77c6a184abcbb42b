"""One step of a plan made concrete: symbols, tables and coordinates become integers.

`StepView` answers for single tasks (the interpreter walks it); `ordering` answers for all tasks at once.

    view = StepView(plan, {"num_tokens": 3}, tables)
    view.tasks(grid)        -> [(0, 0), (0, 1), ...]
    view.cells(edge, grid, (0, 1)) -> [17, 18]       flat cell indices in the edge's event tensor
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import PlanError
from .expr import Expr, evaluate, variables
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

    def __init__(
        self,
        plan: Plan,
        symbols: Mapping[str, int],
        tables: Mapping[str, Any] | None = None,
        memo: dict[Any, Any] | None = None,
    ) -> None:
        self.plan, self.symbols, self.tables = plan, dict(symbols), tables if tables is not None else {}
        self._event_shapes: dict[str, tuple[int, ...]] = {}
        # what equal grids share; steps may share it too, as long as they look at no tables
        self.memo: dict[Any, Any] = {} if memo is None else memo

    def remember(self, key: Any, exprs: Callable[[], Iterable[Expr]], make: Callable[[], Any]) -> Any:
        """`make()`, or what it gave before for the same key and the same values of the symbols in `exprs()`."""
        names = self.memo.get(("symbols", key))
        if names is None:
            used = {v for e in exprs() for v in variables(e)}
            names = self.memo["symbols", key] = tuple(s for s in self.plan.symbols if s in used)
        full = (key, *(self.symbols[s] for s in names))
        if full not in self.memo:
            self.memo[full] = make()
        return self.memo[full]

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
        if not any(e.variable_names & set(grid.axis_names) for _, e in grid.axes):
            extents = [max(0, self.value(e)) for _, e in grid.axes]
            return np.indices(extents, np.int64).reshape(len(extents), -1).T if extents else found
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
