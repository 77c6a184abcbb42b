"""Events: every cell that an edge names exists, and every cell gets exactly the notifications that it needs.

    event e.qkv [2, 48] needed 4      qkv[m < 2, n < 192] notifies e.qkv[m, n // 4]      4 of each: good
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...errors import PlanError
from ...ir.expr import bounds, evaluate
from ...ir.expr import tables as tables_in
from ...ir.instance import StepView
from ...ir.nodes import Edge, EventTensor, Plan, TaskGrid, Via, cell_var
from ...ir.ordering import grid_classes, region_key
from ...ir.printer import print_edge
from .intervals import Facts

FIELD_MAX = 2**31 - 1  # counters are signed 32-bit fields


def fits(plan: Plan, event: EventTensor) -> None:
    """PlanError unless the needed count fits its field for all symbols; counts from tables are looked at step by step."""
    if event.needed is None:
        raise PlanError(f"event '{event.name}' has no needed count; the events pass infers it, or give `needed=`")
    if tables_in(event.needed) or any(tables_in(e) for e in event.shape):
        return
    ranges = dict(plan.symbols)
    for d, extent in enumerate(event.shape):
        ranges[cell_var(d).name] = (0, max(0, bounds(extent, plan.symbols)[1] - 1))
    most = bounds(event.needed, ranges)[1]
    if most > FIELD_MAX:
        raise PlanError(
            f"event '{event.name}' may need {most} notifications, more than its 32-bit field holds ({FIELD_MAX}); "
            "split it into more cells"
        )


def edge_key(plan: Plan, grid: TaskGrid, edge: Edge) -> tuple[object, ...]:
    shape = tuple(e.text for e in plan.events[edge.event].shape)
    return (tuple((a, e.text) for a, e in grid.axes), region_key(edge.cells), shape)


def check_edge(view: StepView, grid: TaskGrid, edge: Edge, task_env: dict[str, Any], n: int, verb: str) -> None:
    """PlanError if an edge names a cell outside its event tensor."""
    facts = Facts(view)
    shape = view.event_shape(edge.event)
    ends = []
    for s in edge.cells:
        if isinstance(s, Via):
            lo, hi = (np.broadcast_to(facts.interval(e, task_env)[k], (n,)) for k, e in ((0, s.lo), (1, s.hi)))
            extent = facts.shape(s.table)[-1]
            used = hi > lo
            if used.any() and (lo[used].min() < 0 or (hi[used].max() - 1) // s.block >= extent):
                raise PlanError(f"grid '{grid.name}' {verb} {print_edge(edge)}, which looks up places outside '{s.table}'")
            table = np.asarray(view.tables[s.table])
            low, high = (int(table.min(initial=0)) * s.block, (int(table.max(initial=0)) + 1) * s.block)
            ends.append((np.where(used, low, 0), np.where(used, high, 0)))
        else:
            ends.append((
                np.broadcast_to(facts.interval(s.lo, task_env)[0], (n,)), np.broadcast_to(facts.interval(s.hi, task_env)[1], (n,))
            ))  # fmt: skip
    alive = np.ones(n, bool)
    for lo, hi in ends:
        alive &= hi > lo
    for d, ((lo, hi), size) in enumerate(zip(ends, shape)):
        bad = alive & ((lo < 0) | (hi > size))
        if bad.any():
            t = int(np.argmax(bad))
            task = ", ".join(f"{a}={int(np.broadcast_to(task_env[a], (n,))[t])}" for a in grid.axis_names if a in task_env)
            steps = ", ".join(f"{k} = {v}" for k, v in view.symbols.items())
            raise PlanError(
                f"task {grid.name}[{task}] {verb} {print_edge(edge)}, cells [{int(lo[t])}, {int(hi[t])}) of dimension {d} where "
                f"the event has {size}, at {steps}"
            )


def check_counts(view: StepView, event: EventTensor, notifiers: Iterable[tuple[TaskGrid, Edge]]) -> int:
    """PlanError unless every cell gets what it needs in this step; returns the number of cells."""
    shape = view.event_shape(event.name)
    size = int(np.prod(shape))
    got = np.zeros(size, np.int64)
    for grid, edge in notifiers:
        classes = grid_classes(view, grid)
        for cells, count in zip(classes.notifies[grid.notifies.index(edge)], classes.sizes.tolist()):
            for cell in cells:
                got[cell] += count
    coords = np.unravel_index(np.arange(size), shape) if shape else ()
    env = {**view.symbols, **{cell_var(d).name: c.astype(np.int64) for d, c in enumerate(coords)}}
    assert event.needed is not None
    needed = np.broadcast_to(np.asarray(evaluate(event.needed, env, view.tables), np.int64), (size,))
    bad = np.flatnonzero(got != needed)
    if len(bad) or (size and int(needed.max()) > FIELD_MAX):
        cell = int(bad[0]) if len(bad) else int(needed.argmax())
        place = ", ".join(str(int(c[cell])) for c in coords)
        steps = ", ".join(f"{k} = {v}" for k, v in view.symbols.items())
        if not len(bad):
            raise PlanError(f"event '{event.name}' needs {int(needed[cell])} notifications, more than 32 bits hold, at {steps}")
        who = ", ".join(f"'{g.name}' by {print_edge(e)}" for g, e in notifiers) or "nobody"
        lost = "its waiters never start" if got[cell] < needed[cell] else "it triggers too early"
        raise PlanError(
            f"event '{event.name}' needs {int(needed[cell])} notifications in cell [{place}] and gets {int(got[cell])} "
            f"({who}), so {lost}, at {steps}; its needed count, {event.needed}, or a map is wrong"
        )
    return size


__all__ = ["FIELD_MAX", "check_counts", "check_edge", "edge_key", "fits"]
