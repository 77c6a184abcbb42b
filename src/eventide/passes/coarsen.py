"""coarsen: fewer events and fewer waits, where waiting for them costs nothing.

1. An axis of a grid's event tensor that every waiter waits for whole is dropped: one cell, a larger count.
2. Where all waits begin and end at multiples of f tiles, f tiles share a cell.
3. A wait that another wait of the same task contains, or that other waits imply through earlier tasks, is dropped.
4. Events that nobody waits for are dropped.

    e.qkv[num_tiles, 128]                            e.qkv[num_tiles, 32]  needed 4
    attn waits e.qkv[m, 8*h : 8*h + 8]        →      attn waits e.qkv[m, 2*h : 2*h + 2]

Rule 3 is decided on sample steps at the ends of the symbols' ranges; the verifier proves the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..ir.expr import Expr, Min, Sum, as_int, ceildiv, evaluate, linear, minimum, product, variables
from ..ir.nodes import Edge, EventTensor, Plan, Span, TaskGrid, cell_var
from ..ir.ordering import Ordering
from .events import EVENT_PREFIX, _share, _within
from .sampling import sample_views


def coarsen(plan: Plan) -> Plan:
    order = {EVENT_PREFIX + g.name: i for i, g in enumerate(plan.grids)}
    candidates = {g.name: _candidates(order, g) for g in plan.grids}
    lean = _each_waits(plan, lambda g: tuple(e for e in g.waits if e not in candidates[g.name]))
    orderings = [Ordering(v) for v in sample_views(_merge(lean))]
    implied = {
        g.name: [e for e in candidates[g.name] if _implied(orderings, plan, order, g, e)] for g in plan.grids
    }
    plan = _each_waits(plan, lambda g: tuple(e for e in g.waits if e not in implied[g.name]))
    return _drop_unused(_merge(plan))


def _merge(plan: Plan) -> Plan:
    plan = _each_waits(plan, _without_contained)  # first, so that the rest may merge further
    for name in list(plan.events):
        if name.startswith(EVENT_PREFIX):
            plan = _merge_tiles(_drop_axes(plan, name), name)
    return _each_waits(plan, _without_contained)


def _each_waits(plan: Plan, fn: Callable[[TaskGrid], tuple[Edge, ...]]) -> Plan:
    return replace(plan, grids=tuple(replace(g, waits=w) if (w := fn(g)) != g.waits else g for g in plan.grids))


def _candidates(order: dict[str, int], grid: TaskGrid) -> list[Edge]:
    """Inferred waits that other waits may imply: all but those for the latest of the grids waited for."""
    mine = [e for e in grid.waits if e.event in order]
    latest = max((order[e.event] for e in mine), default=-1)
    return [] if grid.manual else [e for e in mine if order[e.event] < latest]


def _implied(orderings: list[Ordering], plan: Plan, order: dict[str, int], grid: TaskGrid, edge: Edge) -> bool:
    """Whether, in every sample step without the candidates, the tasks that `edge` waits for come first anyway."""
    first = plan.grids[order[edge.event]]
    kept = [d for d, (_, e) in enumerate(first.axes) if not variables(e) & set(first.axis_names)]
    if not all(isinstance(s, Span) for s in edge.cells):
        return False
    for o in orderings:
        if o.all_before(first.name, grid.name):
            continue
        coords, sources = o.view.coords(grid), o.view.coords(first)
        env = {**o.view.symbols, **{a: coords[:, d] for d, a in enumerate(grid.axis_names)}}
        for c in o.class_range[grid.name]:
            mine = o.class_ids[grid.name] == c
            touched = np.ones(len(sources), bool)
            for d, s in zip(kept, edge.cells):
                lo, hi = (np.broadcast_to(evaluate(x, env, o.view.tables), mine.shape)[mine] for x in (s.lo, s.hi))
                touched &= (sources[:, d] >= lo.min()) & (sources[:, d] < hi.max())
            past = o.ancestors[c]
            if not all(past >> int(a) & 1 for a in np.unique(o.class_ids[first.name][touched])):
                return False
    return True


def _waits(plan: Plan, event: str) -> list[Edge]:
    return [e for g in plan.grids for e in (*g.waits, *g.enter) if e.event == event]


def _names(grid: TaskGrid, event: str) -> bool:
    return any(e.event == event for e in (*grid.waits, *grid.enter, *grid.notifies))


def _rewrite(plan: Plan, event: EventTensor, wait: object, notify: object) -> Plan:
    def edges(edges: tuple[Edge, ...], fn: object) -> tuple[Edge, ...]:
        out = tuple(Edge(e.event, fn(e.cells)) if e.event == event.name else e for e in edges)  # type: ignore[operator]
        return tuple(dict.fromkeys(out))

    grids = tuple(
        replace(g, waits=edges(g.waits, wait), enter=edges(g.enter, wait), notifies=edges(g.notifies, notify))
        if _names(g, event.name)
        else g
        for g in plan.grids
    )
    return replace(plan, grids=grids, events={**plan.events, event.name: event})


def _drop_axes(plan: Plan, name: str) -> Plan:
    ev = plan.events[name]
    waits = _waits(plan, name)
    whole = [all(e.cells[d] == Span(Sum(0), n) for e in waits) for d, n in enumerate(ev.shape)]
    if not any(whole):
        return plan
    keep = [d for d, w in enumerate(whole) if not w]
    assert ev.needed is not None
    if {f"c{d}" for d in range(len(whole)) if whole[d]} & variables(ev.needed):
        return plan
    new = EventTensor(name, tuple(ev.shape[d] for d in keep), product([ev.needed, *(n for n, w in zip(ev.shape, whole) if w)]))

    def pick(cells: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(cells[d] for d in keep)

    return _rewrite(plan, new, pick, pick)


def _merge_tiles(plan: Plan, name: str) -> Plan:
    ev = plan.events[name]
    for d, extent in enumerate(ev.shape):
        f = 0
        for e in _waits(plan, name):
            s = e.cells[d]
            if not isinstance(s, Span):
                f = 1
                break
            f = math.gcd(f, _step(s.lo), _step(_uncut(s.hi, extent)))
        if f <= 1 or ev.needed is None or variables(ev.needed):
            continue
        count = ceildiv(extent, f)
        shape = (*ev.shape[:d], count, *ev.shape[d + 1 :])
        assert ev.needed is not None
        ev = EventTensor(name, shape, ev.needed * _share(extent, f, cell_var(d)))

        def wait(cells: tuple[Span, ...], d: int = d, f: int = f, extent: Expr = extent, count: Expr = count) -> tuple[Span, ...]:
            s = cells[d]
            hi = _uncut(s.hi, extent)
            new_hi = hi // f if hi == s.hi else minimum(count, hi // f)
            return (*cells[:d], Span(s.lo // f, new_hi), *cells[d + 1 :])

        def notify(cells: tuple[Span, ...], d: int = d, f: int = f) -> tuple[Span, ...]:
            return (*cells[:d], Span.at(cells[d].lo // f), *cells[d + 1 :])

        plan = _rewrite(plan, ev, wait, notify)
    return plan


def _uncut(hi: Expr, extent: Expr) -> Expr:
    if isinstance(hi, Min):
        return hi.a if hi.b == extent else hi.b if hi.a == extent else hi
    return hi


def _step(e: Expr) -> int:
    const, terms = linear(e)
    return math.gcd(const, *terms.values())


def _without_contained(grid: TaskGrid) -> tuple[Edge, ...]:
    def contains(a: Edge, b: Edge) -> bool:
        return a.event == b.event and all(
            x == y or (isinstance(x, Span) and isinstance(y, Span) and _covers(x, y, grid)) for x, y in zip(a.cells, b.cells)
        )

    out: list[Edge] = []
    for w in grid.waits:
        if not any(contains(o, w) for o in out):
            out = [o for o in out if not contains(w, o)] + [w]
    return tuple(out)


def _covers(x: Span, y: Span, grid: TaskGrid) -> bool:
    """Whether span x holds y for sure: both constant, or x starts at 0 and y ends no later for any task."""
    xs, ys = (as_int(x.lo), as_int(x.hi)), (as_int(y.lo), as_int(y.hi))
    if None not in xs and None not in ys:
        return xs[0] <= ys[0] and ys[1] <= xs[1]  # type: ignore[operator]
    return x.lo == Sum(0) and _within(y.hi, x.hi, grid)


def _drop_unused(plan: Plan) -> Plan:
    waited = {e.event for g in plan.grids for e in (*g.waits, *g.enter)}
    unused = {k for k in plan.events if k.startswith(EVENT_PREFIX) and k not in waited}
    grids = tuple(replace(g, notifies=tuple(e for e in g.notifies if e.event not in unused)) for g in plan.grids)
    return replace(plan, grids=grids, events={k: e for k, e in plan.events.items() if k not in unused})
