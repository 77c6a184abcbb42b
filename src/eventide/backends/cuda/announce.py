"""Tensors that announce themselves: small activations whose words say whether they have been written.

A counter costs three trips to the L2 cache: the producer's fence, its addition and the consumer's poll, and only then the
consumer loads the data. A word that holds a pattern which no result has needs one: the consumer loads the data until it is
there. The pattern is all ones, a NaN that arithmetic never makes: its NaNs are 0x7fff and 0x7fffffff.

    y = linear(x, w)    every 16-bit element of y is 0xffff from the step before on; a thread of the next operator that
                        needs 8 elements loads them again and again until none of them is

Such a tensor has memory of its own, in two banks, one for even steps and one for odd ones: while a step runs, the workers
fill the bank of the next step with ones; the step barrier orders that. It needs no other event, so an edge of the plan whose
producers all announce what the consumer reads is carried by the data. That must not weaken the plan, which is why an edge is
carried only where

  - the tasks that the consumer's cells wait for are the very tasks that write the region which it reads, not fewer
    (looked at for the first, a middle and the last task, at the symbols' smallest and largest values), and
  - whatever else the producers write is touched by no other grid of the step, so nobody relies on the edge for it.

And none is carried in a plan where a grid reads what another wrote in the same step, not announced, and no chain of counters
leads from the one to the other: a task starts before its announced data is there, and with no fence on the way what its
producers' producers did need not be seen.

An operator can write such a tensor if its cuda.cuh says `ANNOUNCES = true`, and read one as operand x if it looks at
`x_t::polled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...ir.expr import evaluate
from ...ir.instance import StepView, indices
from ...ir.nodes import Edge, Plan, Span, TaskGrid
from ...ops.registry import get_op
from ...target import TILES
from .layout import nbytes

__all__ = ["MOST", "MOST_DIRECT", "MOST_WIDE", "Announced", "find_announced"]

# bytes of such a tensor at most, and of all of a plan, which every step fills once
MOST = 1 << 20, 12 << 20
MOST_DIRECT = 1 << 20, 32 << 20  # where products take 16 tokens as they stand
MOST_WIDE = 512 << 10, 32 << 20  # where they are wide or slim; larger ones' sums of slabs cost as much to fill as they save


@dataclass(frozen=True)
class Announced:
    """Names of tensors, and the (grid, event) pairs of waits that their data carries."""

    tensors: frozenset[str] = frozenset()
    carried: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def find_announced(plan: Plan, code: Callable[[str], str], most: tuple[int, int] = MOST) -> Announced:
    """`code(op)` is the text of an operator's cuda.cuh; `most`: bytes of such a tensor, and of all."""
    producers: dict[str, list[TaskGrid]] = {}
    users: dict[str, set[str]] = {}
    writers: dict[str, set[str]] = {}
    for g in plan.grids:
        for e in g.notifies:
            producers.setdefault(e.event, []).append(g)
        for a in g.accesses:
            users.setdefault(a.tensor, set()).add(g.name)
            if get_op(g.op).operand(a.operand).mode != "read":
                writers.setdefault(a.tensor, set()).add(g.name)
    tensors = _candidates(plan, code, writers, most)
    views = list(_corners(plan))
    carried = set()
    for g in plan.grids:
        for e in g.waits:
            makers = producers.get(e.event, [])
            if makers and all(_alone(m, tensors, users) and _carries(views, m, g, e, tensors, code) for m in makers):
                carried.add((g.name, e.event))
    # those that carry no edge are filled for nothing, unless a chain is missing where they stand
    makers_of = {m.name for g in plan.grids for e in g.waits if (g.name, e.event) in carried for m in producers[e.event]}
    for some in ({t for t in tensors if writers[t] <= makers_of}, tensors):
        if _chained(plan, some, carried, writers, producers):
            return Announced(frozenset(some), frozenset(carried))
    return Announced()


def _candidates(plan: Plan, code: Callable[[str], str], writers: dict[str, set[str]], most: tuple[int, int]) -> set[str]:
    fit = {n for n, t in plan.tensors.items() if t.role == "scratch" and t.dtype in ("bfloat16", "float32") and t.layout != TILES}
    unfit = {*plan.tensors} - fit
    for g in plan.grids:
        for a in g.accesses:
            mode = get_op(g.op).operand(a.operand).mode
            if mode == "update" or (mode == "write" and "ANNOUNCES = true" not in code(g.op)):
                unfit.add(a.tensor)
            if mode == "read" and f"{a.operand}_t::polled" not in code(g.op):
                unfit.add(a.tensor)
    sizes = {n: nbytes(plan, plan.tensors[n]) for n, makers in writers.items() if n not in unfit and len(makers) == 1}
    found = {n for n, size in sizes.items() if size <= most[0]}
    while sum(sizes[n] for n in found) > most[1]:  # the largest go first, in all layers alike
        top = max(sizes[n] for n in found)
        found = {n for n in found if sizes[n] < top}
    return found


def _alone(maker: TaskGrid, tensors: set[str], users: dict[str, set[str]]) -> bool:
    op = get_op(maker.op)
    written = [a.tensor for a in maker.accesses if op.operand(a.operand).mode != "read"]
    return all(name in tensors or users[name] == {maker.name} for name in written)


def _chained(
    plan: Plan,
    tensors: set[str],
    carried: set[tuple[str, str]],
    writers: dict[str, set[str]],
    producers: dict[str, list[TaskGrid]],
) -> bool:
    """Whether counters lead from whoever writes what isn't announced to whoever reads it later in the step."""
    counted: dict[str, set[str]] = {}  # a grid's name -> grids from which a chain of counters leads to it
    written: set[str] = set()
    for g in plan.grids:
        direct = {m.name for e in (*g.waits, *g.enter) if (g.name, e.event) not in carried for m in producers.get(e.event, [])}
        counted[g.name] = direct.union(*(counted.get(name, set()) for name in direct))
        for a in g.accesses:
            before = (writers.get(a.tensor, set()) & written) - {g.name} if a.tensor not in tensors else set()
            if not before <= counted[g.name]:
                return False
        written.add(g.name)
    return True


def _corners(plan: Plan) -> Iterator[StepView]:
    for end in (0, 1):
        symbols = {name: bounds[end] for name, bounds in plan.symbols.items()}
        if all(int(evaluate(e, symbols)) >= 0 for e in plan.requires):
            yield StepView(plan, symbols)


def _carries(
    views: list[StepView], maker: TaskGrid, reader: TaskGrid, edge: Edge, tensors: set[str], code: Callable[[str], str]
) -> bool:
    """Whether a task of `reader` that sees all it reads of what `maker` writes has waited for as much as the edge says."""
    op = get_op(maker.op)
    made = {a.tensor: a.region for a in maker.accesses if a.tensor in tensors and op.operand(a.operand).mode == "write"}
    read = [(made[a.tensor], a.region) for a in reader.accesses if a.tensor in made and f"{a.operand}_t::polled" in code(reader.op)]
    by_table = any(not isinstance(s, Span) for _, region in read for s in region)
    return bool(read and views) and not by_table and all(_same(view, maker, reader, edge, read) for view in views)


def _same(view: StepView, maker: TaskGrid, reader: TaskGrid, edge: Edge, read: list) -> bool:  # type: ignore[type-arg]
    """Looked at once for all layers: what decides it says nothing of names."""
    told = tuple(e.cells for e in maker.notifies if e.event == edge.event)
    key = ("announced", maker.axes, reader.axes, told, edge.cells, tuple(read), view.plan.events[edge.event].shape)
    if key not in view.memo:
        view.memo[key] = _compare(view, maker, reader, edge, read)
    return bool(view.memo[key])


def _compare(view: StepView, maker: TaskGrid, reader: TaskGrid, edge: Edge, read: list) -> bool:  # type: ignore[type-arg]
    tasks, consumers = view.coords(maker), view.coords(reader)
    if not len(tasks) or not len(consumers):
        return True
    env = {**view.symbols, **{a: tasks[:, i] for i, a in enumerate(maker.axis_names)}}
    shape = view.event_shape(edge.event)
    told = []  # the cell that each producer notifies
    for e in maker.notifies:
        if e.event == edge.event:
            if any(not isinstance(s, Span) or s.single is None for s in e.cells):
                return False
            place = np.zeros(len(tasks), np.int64)
            for n, s in zip(shape, e.cells):
                place = place * n + np.asarray(evaluate(s.lo, env))
            told.append(place)
    for row in {0, len(consumers) // 2, len(consumers) - 1}:
        task = tuple(consumers[row].tolist())
        cells = np.array(view.cells(edge, reader, task), np.int64)
        waited = np.any([np.isin(place, cells) for place in told], axis=0)
        seen = np.zeros(len(tasks), bool)
        for written, region in read:
            touches = np.ones(len(tasks), bool)
            for span, wanted in zip(written, indices(region, view.env(reader, task), view.tables)):
                if not isinstance(span, Span):
                    return False
                assert isinstance(wanted, slice)  # no region that a table gives comes this far
                lo, hi = np.asarray(evaluate(span.lo, env)), np.asarray(evaluate(span.hi, env))
                touches &= (lo < wanted.stop) & (hi > wanted.start)
            seen |= touches
        if np.any(waited & ~seen):
            return False
    return True
