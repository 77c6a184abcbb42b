"""An independent judge of plans, for small steps: every task, every cell, every element, nothing clever.

It shares no code with the verifier or with `ir.ordering`: expressions are evaluated here, tasks are nodes of a graph,
regions are sets of bytes as bits of an integer. `faults` returns what is wrong with one step of a plan, in words.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eventide.dtypes import itemsize
from eventide.ir.expr import Expr, FloorDiv, Load, Max, Min, Mod, Product, Sum, Var
from eventide.ir.nodes import Plan, Region, Span, TaskGrid

Tables = Mapping[str, Any]


OPERATIONS: dict[type[Expr], Callable[[int, int], int]] = {
    Product: operator.mul, FloorDiv: operator.floordiv, Mod: operator.mod, Min: min, Max: max,
}  # fmt: skip


class OutOfRange(Exception):
    pass


def value(e: Expr, env: Mapping[str, int], tables: Tables) -> int:
    if isinstance(e, Sum):
        return e.const if not e.terms else e.const + sum(c * value(a, env, tables) for c, a in e.terms)
    if isinstance(e, Var):
        return env[e.name]
    if isinstance(e, Load):
        index = tuple(value(i, env, tables) for i in e.index)
        table = tables[e.table]
        if any(not 0 <= i < n for i, n in zip(index, table.shape)):
            raise OutOfRange(f"{e} at {index}")
        return int(table[index])
    a, b = (value(c, env, tables) for c in e.children)
    return OPERATIONS[type(e)](a, b)


def members(region: Region, env: Mapping[str, int], tables: Tables) -> list[list[int]]:
    out = []
    for s in region:
        lo, hi = value(s.lo, env, tables), value(s.hi, env, tables)
        if isinstance(s, Span):
            out.append(list(range(lo, hi)))
        else:
            prefix = tuple(s.prefix)
            found = []
            for i in range(lo, hi):
                entry = Load(s.table, (*prefix, Sum(i // s.block)))
                found.append(value(entry, env, tables) * s.block + i % s.block)
            out.append(found)
    return out


def flat(region: Region, shape: list[int], env: Mapping[str, int], tables: Tables) -> list[int]:
    """Row-major places; OutOfRange if one lies outside the shape."""
    dims = members(region, env, tables)
    places = []
    for point in itertools.product(*dims):
        place = 0
        for i, n in zip(point, shape):
            if not 0 <= i < n:
                raise OutOfRange(f"index {point} of shape {shape}")
            place = place * n + i
        places.append(place)
    return places


def stretches(region: Region, shape: list[int], env: Mapping[str, int], tables: Tables) -> Iterator[tuple[int, int]]:
    """The same places as (first, how many after one another)."""
    if not region:
        yield 0, 1
        return
    *outer, last = members(region, env, tables)
    parts: list[list[int]] = []
    for i in last:
        if parts and i == sum(parts[-1]):
            parts[-1][1] += 1
        else:
            parts.append([i, 1])
    for point in itertools.product(*outer):
        place = 0
        for i, n in zip(point, shape):
            if not 0 <= i < n:
                raise OutOfRange(f"index {point} of shape {shape}")
            place = place * n + i
        for first, count in parts:
            if first < 0 or first + count > shape[-1]:
                raise OutOfRange(f"index {(*point, first)} and {count - 1} after it of shape {shape}")
            yield place * shape[-1] + first, count


def tasks_of(grid: TaskGrid, env: dict[str, int], tables: Tables) -> Iterator[dict[str, int]]:
    def go(d: int, at: dict[str, int]) -> Iterator[dict[str, int]]:
        if d == len(grid.axes):
            yield dict(at)
            return
        name, extent = grid.axes[d]
        for i in range(value(extent, {**env, **at}, tables)):
            yield from go(d + 1, {**at, name: i})

    yield from go(0, {})


def faults(plan: Plan, symbols: Mapping[str, int], tables: Tables) -> list[str]:
    """What is wrong in one step: counts, bounds, deadlocks, unordered conflicts; empty when nothing is."""
    try:
        return _faults(plan, dict(symbols), tables)
    except OutOfRange as e:
        return [f"out of range: {e}"]


def _faults(plan: Plan, env: dict[str, int], tables: Tables) -> list[str]:
    nodes: list[tuple[int, dict[str, int]]] = []
    of_grid: list[list[int]] = []
    for k, g in enumerate(plan.grids):
        of_grid.append([])
        for t in tasks_of(g, env, tables):
            of_grid[k].append(len(nodes))
            nodes.append((k, t))
    shapes = {n: [value(e, env, tables) for e in ev.shape] for n, ev in plan.events.items()}
    got: dict[tuple[str, int], list[int]] = {}
    waits: list[list[tuple[str, int]]] = []
    sends: list[list[tuple[str, int]]] = []
    for n, (k, t) in enumerate(nodes):
        g = plan.grids[k]
        here = {**env, **t}
        waits.append([(e.event, c) for e in (*g.enter, *g.waits) for c in flat(e.cells, shapes[e.event], here, tables)])
        sends.append([(e.event, c) for e in g.notifies for c in flat(e.cells, shapes[e.event], here, tables)])
        for key in sends[-1]:
            got.setdefault(key, []).append(n)
    needed = {}
    for name, ev in plan.events.items():
        for c, point in enumerate(itertools.product(*(range(n) for n in shapes[name]))):
            needed[name, c] = value(ev.needed, {**env, **{f"c{d}": i for d, i in enumerate(point)}}, tables)
            if needed[name, c] != len(got.get((name, c), [])):
                return [f"{name}[{point}] needs {needed[name, c]}, gets {len(got.get((name, c), []))}"]
    if stuck := _deadlock(plan, env, of_grid, waits, sends, needed):
        return [stuck]
    past = _past(waits, sends, got)
    return _races(plan, env, tables, nodes, past)


def _deadlock(plan, env, of_grid, waits, sends, needed):  # type: ignore[no-untyped-def]
    place = {g.name: k for k, g in enumerate(plan.grids)}
    s = plan.schedule
    if sorted(x.grid for x in s.segments) != sorted(place):
        return "the schedule does not run every grid once"
    queues = []
    for w in range(s.num_workers):
        queue = []
        for i, seg in enumerate(s.segments):
            mine = of_grid[place[seg.grid]]
            queue += [(i, mine[t]) for t in seg.tasks(w, s.num_workers, len(mine), value(seg.rotate, env, {}))]
        queues.append(queue)
    counts: dict[tuple[str, int], int] = {}
    left = [len(of_grid[place[seg.grid]]) for seg in s.segments]
    at = [0] * len(queues)
    moved = True
    while moved:
        moved = False
        for w, queue in enumerate(queues):
            if at[w] == len(queue):
                continue
            i, n = queue[at[w]]
            if any(counts.get(c, 0) < needed[c] for c in waits[n]):
                continue
            if s.segments[i].barrier and any(left[:i]):
                continue
            for c in sends[n]:
                counts[c] = counts.get(c, 0) + 1
            left[i] -= 1
            at[w] += 1
            moved = True
    return "deadlock" if any(left) else ""


def _past(waits, sends, got):  # type: ignore[no-untyped-def]
    """For every task a bit mask of the tasks before it; counts are exact here, so a cell orders all of its notifiers."""
    before = [{a for c in w for a in got.get(c, [])} for w in waits]
    past = [0] * len(waits)
    state = [0] * len(waits)
    for root in range(len(waits)):
        stack = [(root, iter(before[root]))]
        if state[root]:
            continue
        state[root] = 1
        while stack:
            n, rest = stack[-1]
            nxt = next((a for a in rest if not state[a]), None)
            if nxt is not None:
                state[nxt] = 1
                stack.append((nxt, iter(before[nxt])))
            else:
                for a in before[n]:
                    past[n] |= past[a] | 1 << a
                stack.pop()
    return past


def _looked_up(plan: Plan, grid: TaskGrid) -> set[str]:
    """Tables that a task's maps read: its extents, its edges, its regions."""
    exprs = [e for _, e in grid.axes]
    names = set()
    for region in (*(e.cells for e in (*grid.waits, *grid.notifies, *grid.enter)), *(a.region for a in grid.accesses)):
        for s in region:
            exprs += [s.lo, s.hi, *getattr(s, "prefix", ())]
            names |= {s.table} if not isinstance(s, Span) else set()
    while exprs:
        e = exprs.pop()
        names |= {e.table} if isinstance(e, Load) else set()
        exprs += e.children
    return {n for n in names if plan.tensors[n].role == "scratch"}


def _races(plan, env, tables, nodes, past):  # type: ignore[no-untyped-def]
    reads, writes = [], []
    looked_up = [_looked_up(plan, g) for g in plan.grids]
    for k, t in nodes:
        r: dict[str, int] = {}
        w: dict[str, int] = {}
        for a in plan.grids[k].accesses:
            tensor = plan.tensors[a.tensor]
            size = itemsize(tensor.dtype)
            base, buffer = 0, a.tensor
            if a.tensor in plan.offsets:
                base, buffer = plan.offsets[a.tensor], "arena"
            bits = 0
            shape = [value(e, env, tables) for e in tensor.shape]
            for place, count in stretches(a.region, shape, {**env, **t}, tables):
                bits |= ((1 << count * size) - 1) << (base + place * size)
            if buffer == "arena" and bits.bit_length() > plan.arena_bytes:
                raise OutOfRange(f"byte {bits.bit_length()} of the arena")
            if a.reads:
                r[buffer] = r.get(buffer, 0) | bits
            if a.writes:
                w[buffer] = w.get(buffer, 0) | bits
        for name in looked_up[k]:
            tensor = plan.tensors[name]
            count = 1
            for e in tensor.shape:
                count *= value(e, env, tables)
            base, buffer = (plan.offsets[name], "arena") if name in plan.offsets else (0, name)
            r[buffer] = r.get(buffer, 0) | ((1 << count * itemsize(tensor.dtype)) - 1) << base
        reads.append(r)
        writes.append(w)
    touched: dict[str, list[int]] = {}
    for n in range(len(nodes)):
        for b in {*reads[n], *writes[n]}:
            touched.setdefault(b, []).append(n)
    for b, users in touched.items():
        all_before: list[tuple[int, int, int]] = []
        writers_before: list[tuple[int, int, int]] = []
        for second in users:
            r2, w2 = reads[second].get(b, 0), writes[second].get(b, 0)
            both = r2 | w2
            for first, r1, w1 in all_before if w2 else writers_before:
                if w1 & both or r1 & w2:
                    ordered = past[second] >> first & 1
                    if nodes[first][0] == nodes[second][0]:
                        ordered = ordered or past[first] >> second & 1
                    if not ordered:
                        (k, s), (j, t) = nodes[first], nodes[second]
                        return [f"{plan.grids[k].name}{s} and {plan.grids[j].name}{t} race on {b}"]
            all_before.append((second, r2, w2))
            if w2:
                writers_before.append((second, r2, w2))
    return []
