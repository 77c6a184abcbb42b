"""Order over a whole plan: which pairs of accesses are looked at together, by which events, at which steps.

The plan is cut into windows (`windows`); a long window into *groups*: the grids from one to another a few grids on, with
the conflicting pairs among them, ordered by these grids' own events. A pair whose grids stand far apart is first looked at
by the events between these two alone. Leaving events out can only lose order, so what holds in a group holds in the plan;
where it does not, the whole plan's events are asked at that step. Equal groups (a model's layers) are looked at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import PlanError
from ...ir.instance import StepView
from ...ir.nodes import Plan, TaskGrid, Via, tables_of
from ...ir.ordering import Ordering
from ..sampling import sample_symbols
from ..sampling import view as drawn_view
from .pairs import Memory, Pair, Regions, conflicting_pairs, describe, find_conflict, shares_table
from .points import Scope, steps
from .report import VerifyReport
from .windows import Window, broken_cut, find_cuts, grids_key, split, window_key

SPREADS = (1.0, 0.3, 0.01)
DRAWS = 6  # tables drawn for each step of a plan whose edges depend on tables
NEAR = 12  # grids; pairs no further apart are looked at with everything between


@dataclass(frozen=True)
class Group:
    """Pairs of accesses and the grids whose events order them."""

    grids: tuple[TaskGrid, ...]
    pairs: list[Pair]


def groups(grids: Sequence[TaskGrid], pairs: list[Pair]) -> Iterator[Group]:
    """Covers the pairs of a window."""
    if len(grids) <= NEAR:
        yield Group(tuple(grids), pairs)
        return
    place = {g.name: i for i, g in enumerate(grids)}
    reach = list(range(len(grids)))
    far: dict[tuple[int, int], list[Pair]] = {}
    for p in pairs:
        i, j = place[p[0].name], place[p[2].name]
        if j - i <= NEAR:
            reach[i] = max(reach[i], j)
        else:
            far.setdefault((i, j), []).append(p)
    end = -1
    for i, j in enumerate(reach):
        if j > end:
            end = j
            inside = [p for p in pairs if i <= place[p[0].name] and place[p[2].name] <= j]
            yield Group(tuple(grids[i : j + 1]), inside)
    for (i, j), some in far.items():
        yield Group((grids[i], grids[j]), some)


class OrderCheck:
    """Looks at every conflicting pair of a plan; see the module's text."""

    def __init__(
        self, plan: Plan, report: VerifyReport, exhaustive: bool, memory: Memory, mutable: set[str], memo: dict[Any, Any]
    ) -> None:
        self.plan, self.report, self.exhaustive = plan, report, exhaustive
        self.memory, self.mutable, self.memo = memory, mutable, memo
        self.done: set[tuple[object, ...]] = set()
        self.whole: dict[tuple[int, ...], Ordering] = {}  # the plan's order at steps where a group's did not do

    def view(self, symbols: dict[str, int]) -> StepView:
        return StepView(self.plan, symbols, {}, self.memo)

    def run(self) -> None:
        """PlanError on a conflict that no event orders."""
        plan = self.plan
        cuts: list[int] = []
        if not self.exhaustive and len(plan.grids) > 3:
            sample = max(sample_symbols(plan), key=lambda p: sum(p.values()))
            low = self.view(next(iter(sample_symbols(plan))))
            empty = {g.name for g in plan.grids if not len(Regions(low).coords(g))}
            cuts = find_cuts(plan, Ordering(self.view(sample), counts_hold=True), empty)
            # proving a cut behind a very long window costs more than it saves
            cuts = [c for c, before in zip(cuts, [0, *cuts]) if c - before <= 3 * NEAR]
        held: set[tuple[object, ...]] = set()
        while True:
            windows = split(plan, cuts)
            failed = next((c for w in windows if (c := self.cut(w, held)) is not None), None)
            if failed is None:
                break
            cuts = [c for c in cuts if c != failed]  # a cut of the sample step that is none at another
        for w in windows:
            pairs = conflicting_pairs(w.grids, self.memory, self.mutable)
            for group in [Group(plan.grids, pairs)] if self.exhaustive else groups(w.grids, pairs):
                self.group(group)
        self.report.num_windows, self.report.num_distinct_windows = len(windows), len(self.done)

    def cut(self, w: Window, held: set[tuple[object, ...]]) -> int | None:
        """The cut beside a window that does not hold at some step, if any."""
        key = window_key(self.plan, w)
        if key in held or (w.start == 0 and w.next_cut is None):
            return None
        points, values, drawn = steps(self.scope(w.all_grids, ()).simplified(), self.exhaustive)
        for v in map(self.view, points):
            broken = broken_cut(w, Ordering(v, w.all_grids, counts_hold=True))
            if broken is not None:
                return broken
        self.report.cover(values, drawn)
        held.add(key)
        return None

    def group(self, group: Group) -> None:
        """Looks at a group's pairs at every step of its scope."""
        key = grids_key(self.plan, group.grids, self.memory, self.mutable)
        if key in self.done or not group.pairs:
            return
        pairs = group.pairs
        points, values, drawn = steps(self.scope(group.grids, pairs).simplified(), self.exhaustive)
        tied: list[Pair] = []  # pairs that go through one table, apart only by what else its lookups say
        for v in map(self.view, points):
            o = Ordering(v, group.grids, counts_hold=True)
            found = find_conflict(v, o, pairs)
            while found is not None and shares_table(self.plan, found):
                tied += [p for p in pairs if found.of(p)]
                pairs = [p for p in pairs if not found.of(p)]
                found = find_conflict(v, o, pairs)
            if found is not None:
                # events outside the group may order these tasks all the same
                key_of_step = tuple(v.symbols.values())
                if key_of_step not in self.whole:
                    self.whole[key_of_step] = Ordering(v, counts_hold=True)
                found = find_conflict(v, self.whole[key_of_step], pairs)
                if found is not None:
                    raise PlanError(describe(found, v, self.memory))
        self.tied(group, tied, points)
        self.report.cover(values, drawn)
        self.report.num_steps += len(points)
        self.report.num_pairs += len(points) * len(group.pairs)
        self.done.add(key)

    def tied(self, group: Group, pairs: list[Pair], points: list[dict[str, int]]) -> None:
        """Looks at pairs of regions whose distance depends on how lookups in one table relate, on drawn tables."""
        if not pairs:
            return
        self.report.drawn_pairs += len(pairs)
        self.report.proven = False
        # the tables of distinct values themselves need no values: their places are compared
        outer = {s.table for _, a, _, b in pairs for s in (*a.region, *b.region) if isinstance(s, Via)}
        outer = {t for t in outer if any(i.kind in ("distinct", "single") for i in self.plan.tensors[t].invariants)}
        names = {t for _, a, _, b in pairs for r in (a.region, b.region) for t in tables_of(r)} - outer
        for p in points[:: -(-len(points) // 20)]:
            o = Ordering(self.view(p), group.grids, counts_hold=True)
            for seed in range(DRAWS):
                v = drawn_view(self.plan, p, seed, SPREADS[seed % len(SPREADS)], names)
                found = find_conflict(v, o, pairs)
                if found is not None:
                    raise PlanError(describe(found, v, self.memory))

    def scope(self, grids: Sequence[TaskGrid], pairs: Sequence[Pair]) -> Scope:
        """Axes, edges among the grids, and the regions of the pairs."""
        plan, scope = self.plan, Scope(self.plan)
        inside = {e.event for g in grids for e in g.notifies}
        for g in grids:
            scope.add_grid(g)
            for e in (*g.waits, *g.enter, *g.notifies):
                if e.event in inside:
                    scope.add_region(g, e.cells, plan.events[e.event].shape)
        seen: set[tuple[str, str]] = set()
        for g, a, h, b in pairs:
            for grid, access in ((g, a), (h, b)):
                if (grid.name, access.operand) not in seen:
                    seen.add((grid.name, access.operand))
                    scope.add_region(grid, access.region, plan.tensors[access.tensor].shape)
        return scope
