"""An independent judge of plans, for small steps: every task, every cell, every element, nothing clever.

It shares no code with the verifier or with `ir.ordering`: expressions are evaluated here, tasks are nodes of a graph,
regions are sets of bytes as bits of an integer. `faults` returns what is wrong with one step of a plan, in words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from eventide.dtypes import itemsize
from eventide.ir.expr import Expr, FloorDiv, Load, Max, Min, Mod, Product, Sum, Var
from eventide.ir.nodes import Edge, IndexSet, Plan, Region, Span, TaskGrid

Tables = Mapping[str, Any]


SYMBOLS: dict[type[Expr], str] = {Product: "*", FloorDiv: "//", Mod: "%"}


class OutOfRange(Exception):
    pass


def _look(tables: Tables, name: str, *index: int) -> int:
    table = tables[name]
    if any(not 0 <= i < n for i, n in zip(index, table.shape)):
        raise OutOfRange(f"{name} at {index}")
    return int(table[index])


def _python(e: Expr) -> str:
    """The expression as Python; names are looked up as they may hold dots."""
    if isinstance(e, Sum):
        return f"({' + '.join([str(e.const), *(f'{c} * {_python(a)}' for c, a in e.terms)])})"
    if isinstance(e, Var):
        return f"env[{e.name!r}]"
    if isinstance(e, Load):
        return f"look(tables, {e.table!r}, {', '.join(map(_python, e.index))})"
    a, b = (_python(c) for c in e.children)
    if isinstance(e, (Min, Max)):
        return f"{'min' if isinstance(e, Min) else 'max'}({a}, {b})"
    return f"({a} {SYMBOLS[type(e)]} {b})"


Function = Callable[[Mapping[str, int], Tables], int]


@cache
def _function(source: str) -> Function:
    made: Function = eval(f"lambda env, tables: {source}", {"look": _look})
    return made


# by identity, with the expression kept alive: an expression is evaluated for every task of many steps
_functions: dict[int, tuple[Expr, Function]] = {}


def value(e: Expr, env: Mapping[str, int], tables: Tables) -> int:
    found = _functions.get(id(e))
    if found is None:
        found = _functions[id(e)] = e, _function(_python(e))
    return found[1](env, tables)


def members(s: IndexSet, env: Mapping[str, int], tables: Tables) -> Sequence[int]:
    """The indices of one dimension of a region."""
    places = range(value(s.lo, env, tables), value(s.hi, env, tables))
    if isinstance(s, Span):
        return places
    prefix = [value(p, env, tables) for p in s.prefix]
    return [_look(tables, s.table, *prefix, i // s.block) * s.block + i % s.block for i in places]


def flat(region: Region, shape: list[int], env: Mapping[str, int], tables: Tables) -> list[int]:
    """Row-major places; OutOfRange if one lies outside the shape."""
    places = []
    for point in itertools.product(*(members(s, env, tables) for s in region)):
        place = 0
        for i, n in zip(point, shape):
            if not 0 <= i < n:
                raise OutOfRange(f"index {point} of shape {shape}")
            place = place * n + i
        places.append(place)
    return places


def bits_of(region: Region, shape: list[int], size: int, env: Mapping[str, int], tables: Tables) -> int:
    """The same places, of `size` bytes each, as bits of an integer."""
    if not region:
        return (1 << size) - 1
    *outer, last = (members(s, env, tables) for s in region)
    row = 0
    for first, count in [(last.start, len(last))] if isinstance(last, range) else ((i, 1) for i in last):
        if count and (first < 0 or first + count > shape[-1]):
            # an empty outer dimension leaves nothing of it
            if all(len(o) for o in outer):
                raise OutOfRange(f"index {first} and {count - 1} after it of {shape[-1]} in a shape {shape}")
            return 0
        row |= ((1 << count * size) - 1) << first * size
    bits = 0
    for point in itertools.product(*outer):
        place = 0
        for i, n in zip(point, shape):
            if not 0 <= i < n:
                raise OutOfRange(f"index {point} of shape {shape}")
            place = place * n + i
        bits |= row << place * shape[-1] * size
    return bits


def tasks_of(grid: TaskGrid, env: dict[str, int], tables: Tables) -> Iterator[dict[str, int]]:
    def go(d: int, at: dict[str, int]) -> Iterator[dict[str, int]]:
        if d == len(grid.axes):
            yield dict(at)
            return
        name, extent = grid.axes[d]
        for i in range(value(extent, {**env, **at}, tables)):
            yield from go(d + 1, {**at, name: i})

    yield from go(0, {})


class Kept:
    """What was worked out before, by the identity of the parts of a plan that it hangs on: mutants share most of them."""

    def __init__(self) -> None:
        self.steps: dict[object, int] = {}
        self.found: dict[tuple[object, ...], tuple[tuple[object, ...], list[Any]]] = {}

    def of_step(self, env: Mapping[str, int], tables: Tables) -> Callable[..., list[Any]]:
        """A function (what, parts, make) -> make(), or what it gave before for such a step."""
        key = (*env.items(), *((name, table.shape, table.tobytes()) for name, table in sorted(tables.items())))
        step = self.steps.setdefault(key, len(self.steps))

        def get(what: object, parts: tuple[object, ...], make: Callable[[], list[Any]]) -> list[Any]:
            key = (step, what, *map(id, parts))
            if key not in self.found:
                self.found[key] = parts, make()  # with the parts, so that no other takes their place
            return self.found[key][1]

        return get


def faults(plan: Plan, symbols: Mapping[str, int], tables: Tables, kept: Kept | None = None) -> list[str]:
    """What is wrong in one step: counts, bounds, deadlocks, unordered conflicts; empty when nothing is."""
    try:
        return _faults(plan, dict(symbols), tables, (kept or Kept()).of_step(symbols, tables))
    except OutOfRange as e:
        return [f"out of range: {e}"]


def _faults(plan, env, tables, get):  # type: ignore[no-untyped-def]
    nodes: list[tuple[int, dict[str, int]]] = []
    of_grid: list[range] = []
    shapes = {n: [value(e, env, tables) for e in ev.shape] for n, ev in plan.events.items()}
    got: dict[tuple[str, int], list[int]] = {}
    waits: list[list[tuple[str, int]]] = []
    sends: list[list[tuple[str, int]]] = []
    for k, g in enumerate(plan.grids):
        tasks = get("tasks", (g.axes,), lambda g=g: list(tasks_of(g, env, tables)))

        def named(edges: Sequence[Edge], g: TaskGrid = g, tasks: Any = tasks) -> Iterator[list[tuple[str, int]]]:
            cells = []
            for e in edges:
                shape = shapes[e.event]
                make = lambda e=e, shape=shape: [flat(e.cells, shape, {**env, **t}, tables) for t in tasks]  # noqa: E731
                cells.append(get("cells", (g.axes, e.cells, plan.events[e.event].shape), make))
            for i in range(len(tasks)):
                yield [(e.event, c) for e, of_task in zip(edges, cells) for c in of_task[i]]

        of_grid.append(range(len(nodes), len(nodes) + len(tasks)))
        nodes += [(k, t) for t in tasks]
        waits += named((*g.enter, *g.waits))
        sends += named(g.notifies)
    for n, keys in enumerate(sends):
        for key in keys:
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
    return _races(plan, env, tables, nodes, of_grid, past, get)


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


_tables_of_grids: dict[int, tuple[TaskGrid, set[str]]] = {}


def _looked_up(grid: TaskGrid) -> set[str]:
    """Tables that a task's maps read: its extents, its edges, its regions."""
    found = _tables_of_grids.get(id(grid))
    if found is None:
        found = _tables_of_grids[id(grid)] = grid, set(_tables(grid))
    return found[1]


def _tables(grid: TaskGrid) -> Iterator[str]:
    exprs = [e for _, e in grid.axes]
    for region in (*(e.cells for e in (*grid.waits, *grid.notifies, *grid.enter)), *(a.region for a in grid.accesses)):
        for s in region:
            exprs += [s.lo, s.hi, *getattr(s, "prefix", ())]
            if not isinstance(s, Span):
                yield s.table
    while exprs:
        e = exprs.pop()
        if isinstance(e, Load):
            yield e.table
        exprs += e.children


def _races(plan, env, tables, nodes, of_grid, past, get):  # type: ignore[no-untyped-def]
    shapes = {name: [value(e, env, tables) for e in t.shape] for name, t in plan.tensors.items()}
    reads: list[dict[str, int]] = [{} for _ in nodes]
    writes: list[dict[str, int]] = [{} for _ in nodes]
    for g, tasks in zip(plan.grids, of_grid):
        for a in g.accesses:
            tensor = plan.tensors[a.tensor]
            base, buffer = (plan.offsets[a.tensor], "arena") if a.tensor in plan.offsets else (0, a.tensor)
            shape, size = shapes[a.tensor], itemsize(tensor.dtype)

            def make(a=a, tasks=tasks, shape=shape, size=size):  # type: ignore[no-untyped-def]
                return [bits_of(a.region, shape, size, {**env, **nodes[n][1]}, tables) for n in tasks]

            for n, bits in zip(tasks, get(size, (g.axes, a.region, tensor.shape), make)):
                if buffer == "arena" and base + bits.bit_length() > plan.arena_bytes and bits:
                    raise OutOfRange(f"byte {base + bits.bit_length()} of the arena")
                if a.reads:
                    reads[n][buffer] = reads[n].get(buffer, 0) | bits << base
                if a.writes:
                    writes[n][buffer] = writes[n].get(buffer, 0) | bits << base
        for name in sorted(n for n in _looked_up(g) if plan.tensors[n].role == "scratch"):
            base, buffer = (plan.offsets[name], "arena") if name in plan.offsets else (0, name)
            bits = (1 << math.prod(shapes[name]) * itemsize(plan.tensors[name].dtype)) - 1
            for n in tasks:
                reads[n][buffer] = reads[n].get(buffer, 0) | bits << base
    # by buffer, for each grid so far: its tasks that touch it, as bits, and what they read and write of it together
    users: dict[str, dict[int, tuple[int, int, int]]] = {}
    for second, (k, t) in enumerate(nodes):
        for b in {*reads[second], *writes[second]}:
            r2, w2 = reads[second].get(b, 0), writes[second].get(b, 0)
            before = users.setdefault(b, {})
            for j, (tasks, r, w) in before.items():
                unordered = tasks & ~past[second]
                if not unordered or not (w & (r2 | w2) or r & w2):
                    continue
                for first in of_grid[j]:
                    if not unordered >> first & 1:
                        continue
                    if not (writes[first].get(b, 0) & (r2 | w2) or reads[first].get(b, 0) & w2):
                        continue
                    # tasks of one grid may come in either order
                    if j != k or not past[first] >> second & 1:
                        return [f"{plan.grids[j].name}{nodes[first][1]} and {plan.grids[k].name}{t} race on {b}"]
            tasks, r, w = before.get(k, (0, 0, 0))
            before[k] = tasks | 1 << second, r | r2, w | w2
    return []
