"""Plans with one thing changed, most of them for the worse: what the verifier is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from eventide.ir.expr import Sum
from eventide.ir.nodes import Edge, IndexSet, Plan, Region, Span, TaskGrid

Mutant = tuple[str, Plan]


def mutants(plan: Plan) -> Iterator[Mutant]:
    """Every mutant of a plan as (what was done, plan)."""
    yield from _edges(plan)
    yield from _needed(plan)
    yield from _regions(plan)
    yield from _memory(plan)
    yield from _cycles(plan)
    yield from _schedule(plan)


def _with(plan: Plan, i: int, grid: TaskGrid) -> Plan:
    return replace(plan, grids=(*plan.grids[:i], grid, *plan.grids[i + 1 :]))


def _moved(s: IndexSet) -> Iterator[tuple[str, IndexSet]]:
    yield "shifted up", replace(s, lo=s.lo + 1, hi=s.hi + 1)
    yield "shifted down", replace(s, lo=s.lo - 1, hi=s.hi - 1)
    yield "cut at its start", replace(s, lo=s.lo + 1)
    yield "cut at its end", replace(s, hi=s.hi - 1)
    yield "grown", replace(s, hi=s.hi + 1)
    if isinstance(s, Span):
        yield "reduced to one", Span(s.lo, s.lo + 1)
        yield "halved", Span(s.lo // 2, s.lo // 2 + 1)


def _regions_moved(region: Region) -> Iterator[tuple[str, Region]]:
    for d, s in enumerate(region):
        for what, new in _moved(s):
            if new != s:
                yield f"dimension {d} {what}", (*region[:d], new, *region[d + 1 :])


def _edges(plan: Plan) -> Iterator[Mutant]:
    for i, g in enumerate(plan.grids):
        for kind in ("waits", "notifies", "enter"):
            edges: tuple[Edge, ...] = getattr(g, kind)
            for k, e in enumerate(edges):
                def put(*new: Edge, i: int = i, g: TaskGrid = g, kind: str = kind, k: int = k) -> Plan:
                    edges = getattr(g, kind)
                    return _with(plan, i, replace(g, **{kind: (*edges[:k], *new, *edges[k + 1 :])}))

                yield f"{g.name}: {kind} {k} dropped", put()
                if kind == "notifies":
                    yield f"{g.name}: notify {k} sent twice", put(e, e)
                for what, cells in _regions_moved(e.cells):
                    yield f"{g.name}: {kind} {k} {what}", put(Edge(e.event, cells))
                for other in plan.events.values():
                    if other.name != e.event and len(other.shape) == len(e.cells):
                        yield f"{g.name}: {kind} {k} on {other.name} instead", put(Edge(other.name, e.cells))
                        break


def _needed(plan: Plan) -> Iterator[Mutant]:
    for name, e in plan.events.items():
        assert e.needed is not None
        for what, n in (("one more", e.needed + 1), ("one fewer", e.needed - 1), ("twice", e.needed * 2), ("one", Sum(1))):
            if n != e.needed:
                yield f"{name}: needs {what}", replace(plan, events={**plan.events, name: replace(e, needed=n)})


def _regions(plan: Plan) -> Iterator[Mutant]:
    for i, g in enumerate(plan.grids):
        for k, a in enumerate(g.accesses):
            if plan.tensors[a.tensor].role in ("weight", "input"):
                continue

            def put(new, i=i, g=g, k=k):  # type: ignore[no-untyped-def]
                return _with(plan, i, replace(g, accesses=(*g.accesses[:k], new, *g.accesses[k + 1 :])))

            for what, region in _regions_moved(a.region):
                yield f"{g.name}: {a.operand} {what}", put(replace(a, region=region))
            whole = tuple(Span(Sum(0), n) for n in plan.tensors[a.tensor].shape)
            if whole != a.region:
                yield f"{g.name}: {a.operand} touches all", put(replace(a, region=whole))
            yield f"{g.name}: {a.operand} mode", put(replace(a, mode="read" if a.writes else "update"))


def _memory(plan: Plan) -> Iterator[Mutant]:
    names = list(plan.offsets)
    for a in names:
        for b in names:
            if plan.offsets[a] != plan.offsets[b]:
                yield f"{a} put where {b} lies", replace(plan, offsets={**plan.offsets, a: plan.offsets[b]})
        yield f"{a} moved by 64 bytes", replace(plan, offsets={**plan.offsets, a: plan.offsets[a] + 64})
    yield "the arena is too small", replace(plan, arena_bytes=plan.arena_bytes - 1)


def _cycles(plan: Plan) -> Iterator[Mutant]:
    for i, g in enumerate(plan.grids):
        for later in plan.grids[i:]:
            for e in later.notifies:
                whole = tuple(Span(Sum(0), n) for n in plan.events[e.event].shape)
                yield f"{g.name} waits for {later.name}", _with(plan, i, replace(g, waits=(*g.waits, Edge(e.event, whole))))


def _schedule(plan: Plan) -> Iterator[Mutant]:
    s = plan.schedule
    assert s is not None
    for i in range(len(s.segments)):
        yield f"segment {i} dropped", replace(plan, schedule=replace(s, segments=s.segments[:i] + s.segments[i + 1 :]))
        yield f"segment {i} twice", replace(plan, schedule=replace(s, segments=(*s.segments, s.segments[i])))
        moved = replace(s.segments[i], rotate=s.segments[i].rotate + 1, distribution="cyclic")
        yield f"segment {i} dealt out otherwise", replace(
            plan, schedule=replace(s, segments=(*s.segments[:i], moved, *s.segments[i + 1 :]))
        )
        if i:
            swapped = (*s.segments[: i - 1], s.segments[i], s.segments[i - 1], *s.segments[i + 1 :])
            yield f"segments {i - 1} and {i} swapped", replace(plan, schedule=replace(s, segments=swapped))
        if 0 < i < len(plan.grids):
            grids = (*plan.grids[: i - 1], plan.grids[i], plan.grids[i - 1], *plan.grids[i + 1 :])
            yield f"grids {i - 1} and {i} swapped", replace(plan, grids=grids)


