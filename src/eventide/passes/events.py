"""events: infers from regions which task must wait for which.

Every grid that somebody depends on gets one event tensor, a cell for each of its tasks. For a later grid with a
conflicting access to the same tensor (one of the two writes), the tasks to wait for are found dimension by dimension:
where the earlier task covers `T*a + off : min(T*a + off + T, end)` of a dimension and the later one `lo : hi`, the tiles
that touch are `(lo - off) // T` up to `ceildiv(hi - off, T)`; a dimension without that pattern waits for all tiles.

    up   writes h[128*m : ..., 32*n : 32*n + 32]         notifies e.up[m, n]
    down reads  h[128*m : ..., 0 : 512]                  waits    e.up[m, 0 : 16]

Counts left open in events written by hand are filled in here as well, and `enter` edges are added to grids whose
extents, maps or counts read tables that the step computes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from ..errors import ProgramError
from ..ir.expr import (
    Expr,
    Min,
    Sum,
    Var,
    as_int,
    bounds,
    ceildiv,
    linear,
    maximum,
    minimum,
    product,
    substitute,
    tables,
    variables,
)
from ..ir.nodes import Access, Edge, EventTensor, Plan, Span, TaskGrid, cell_var
from ..ir.tables import tables_to_enter

EVENT_PREFIX = "e."


def infer_events(plan: Plan) -> Plan:
    waits: dict[str, list[Edge]] = defaultdict(list)
    enters: dict[str, list[Edge]] = defaultdict(list)
    sources: dict[str, None] = {}
    order = {g.name: i for i, g in enumerate(plan.grids)}
    uses: dict[str, list[tuple[TaskGrid, Access]]] = defaultdict(list)
    for g in plan.grids:
        for a in g.accesses:
            uses[a.tensor].append((g, a))
    for accesses in uses.values():
        for first, a in accesses if any(x.writes for _, x in accesses) else ():
            for later, b in accesses:
                if order[later.name] <= order[first.name] or not (a.writes or b.writes) or later.manual:
                    continue
                edge = _edge(first, a, later, b)
                sources[first.name] = None
                if edge not in waits[later.name]:
                    waits[later.name].append(edge)
    for later in plan.grids:
        for table in sorted(tables_to_enter(later, plan.events)):
            for first, a in uses[table]:
                if a.writes and order[first.name] < order[later.name]:
                    sources[first.name] = None
                    enters[later.name].append(Edge(EVENT_PREFIX + first.name, _whole(first)))
    events = dict(plan.events)
    out = []
    for g in plan.grids:
        notifies = g.notifies
        if g.name in sources:
            ev = _event(g)
            events[ev.name] = ev
            notifies = (*notifies, Edge(ev.name, tuple(Span.at(Var(a)) for a, _ in _kept(g))))
        out.append(
            replace(g, waits=(*g.waits, *waits[g.name]), notifies=notifies, enter=(*g.enter, *dict.fromkeys(enters[g.name])))
        )
    events = {k: _counted(e, out) for k, e in events.items()}
    return replace(plan, grids=tuple(out), events=events)


def _kept(grid: TaskGrid) -> list[tuple[str, Expr]]:
    """The axes that index the grid's event tensor: those whose extent is the same for all tasks."""
    names = set(grid.axis_names)
    return [(a, e) for a, e in grid.axes if not variables(e) & names]


def _event(grid: TaskGrid) -> EventTensor:
    kept = _kept(grid)
    position = {a: cell_var(i) for i, (a, _) in enumerate(kept)}
    needed: Expr = Sum(1)
    for a, extent in grid.axes:
        if a not in position:
            if not variables(extent) & set(grid.axis_names) <= set(position):
                raise ProgramError(
                    f"grid '{grid.name}': the extent of axis '{a}' depends on another ragged axis; write its events by hand"
                )
            needed = needed * substitute(extent, position)
    return EventTensor(EVENT_PREFIX + grid.name, tuple(e for _, e in kept), needed)


def _whole(grid: TaskGrid) -> tuple[Span, ...]:
    return tuple(Span(Sum(0), e) for _, e in _kept(grid))


def _edge(first: TaskGrid, a: Access, later: TaskGrid, b: Access) -> Edge:
    """The cells of `first`'s event tensor whose tasks may touch what access `b` of `later` touches."""
    spans = dict(zip((n for n, _ in _kept(first)), _whole(first), strict=True))
    for mine, theirs in zip(a.region, b.region, strict=True):
        if not (isinstance(mine, Span) and isinstance(theirs, Span)):
            continue
        pattern = _tile_pattern(mine, set(first.axis_names))
        if pattern is None or pattern[0] not in spans:
            continue
        axis, size, offset = pattern
        lo, hi = (theirs.lo - offset) // size, _ceildiv(theirs.hi - offset, size)
        old = spans[axis]
        if not (old.lo == Sum(0) and _at_least(theirs.lo, offset)):
            lo = maximum(old.lo, lo)
        if isinstance(hi, Min) and old.hi in (hi.a, hi.b):
            hi = hi.a if hi.b == old.hi else hi.b
        if not _within(hi, old.hi, later):
            hi = minimum(old.hi, hi)
        spans[axis] = Span(lo, hi)
    return Edge(EVENT_PREFIX + first.name, tuple(spans.values()))


def _at_least(value: Expr, bound: Expr) -> bool:
    """Whether value >= bound is plain from its form: coefficients and constant of the difference are not negative."""
    const, terms = linear(value - bound)
    return const >= 0 and all(c >= 0 for c in terms.values())


def _within(hi: Expr, extent: Expr, grid: TaskGrid) -> bool:
    """Whether hi <= extent is plain for every task of the grid: hi is coordinate + 1 of an axis of that extent, or both
    are bounded by constants."""
    if isinstance(hi, Min):
        return _within(hi.a, extent, grid) or _within(hi.b, extent, grid)
    if hi == extent or any(hi == Var(a) + 1 and e == extent for a, e in grid.axes):
        return True
    n = as_int(extent)
    ranges = {a: (0, size - 1) for a, e in grid.axes if (size := as_int(e)) is not None}
    return n is not None and variables(hi) <= set(ranges) and not tables(hi) and bounds(hi, ranges)[1] <= n


def _ceildiv(a: Expr, b: int) -> Expr:
    if isinstance(a, Min):
        return minimum(_ceildiv(a.a, b), _ceildiv(a.b, b))
    _, terms = linear(a)
    mins = [x for x, c in terms.items() if isinstance(x, Min) and c == 1]
    if mins:  # min(x, y) + rest == min(x + rest, y + rest)
        rest = a - mins[0]
        m = mins[0]
        assert isinstance(m, Min)
        return minimum(_ceildiv(m.a + rest, b), _ceildiv(m.b + rest, b))
    return ceildiv(a, b)


def _tile_pattern(span: Span, axes: set[str]) -> tuple[str, int, Expr] | None:
    """(axis, T, off) when the span is T*axis + off : T*axis + off + T, possibly cut at an end without coordinates."""
    _, terms = linear(span.lo)
    mine = [(v.name, c) for v, c in terms.items() if isinstance(v, Var) and v.name in axes]
    if len(mine) != 1 or mine[0][1] <= 0:
        return None
    axis, size = mine[0]
    offset = span.lo - Var(axis) * size
    if variables(offset) & axes or tables(offset):
        return None
    stop = span.lo + size
    whole = span.hi == stop or (isinstance(span.hi, Min) and stop in (span.hi.a, span.hi.b))
    return (axis, size, offset) if whole else None


def _counted(event: EventTensor, grids: list[TaskGrid]) -> EventTensor:
    if event.needed is not None:
        return event
    total: Expr = Sum(0)
    for g in grids:
        for edge in g.notifies:
            if edge.event == event.name:
                total = total + _per_cell(event, edge, g)
    return replace(event, needed=total)


def _per_cell(event: EventTensor, edge: Edge, grid: TaskGrid) -> Expr:
    """How often one cell is notified, for edges whose dimensions are an axis, axis // f, a constant, or a whole range."""
    extents = dict(grid.axes)
    counts: list[Expr] = []
    used: set[str] = set()
    for d, s in enumerate(edge.cells):
        if isinstance(s, Span) and s.lo == Sum(0) and s.hi == event.shape[d]:
            continue
        index = s.single if isinstance(s, Span) else None
        found = None
        if index is not None:
            if as_int(index) is not None and as_int(event.shape[d]) == 1:
                continue
            for a in set(extents) - used:
                probe = substitute(index, {a: Var(a) * 1})
                for f in _factors(index):
                    if probe == Var(a) // f:
                        found = (a, f)
        if found is None:
            raise ProgramError(
                f"event '{event.name}': the notifications that '{grid.name}' sends to one cell cannot be counted from its "
                "map; give `needed=` when declaring the event"
            )
        axis, f = found
        used.add(axis)
        counts.append(_share(extents[axis], f, cell_var(d)))
    return product([*counts, *(e for a, e in grid.axes if a not in used)])


def _factors(index: Expr) -> set[int]:
    from ..ir.expr import FloorDiv

    return {1} | ({f} if isinstance(index, FloorDiv) and (f := as_int(index.b)) else set())


def _share(extent: Expr, f: int, cell: Expr) -> Expr:
    """How many of `extent` coordinates fall in cell `cell` of coordinate // f."""
    n = as_int(extent)
    return Sum(f) if f == 1 or (n is not None and n % f == 0) else minimum(f, extent - cell * f)
