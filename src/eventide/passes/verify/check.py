"""The verifier's questions one after the other: names, counts, bounds, deadlock, order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...errors import PlanError
from ...ir.expr import tables as tables_in
from ...ir.instance import StepView
from ...ir.nodes import Edge, Plan, TaskGrid, tables_of
from ...ir.ordering import Ordering, region_key
from ...ir.tables import tables_to_enter
from ..sampling import map_tables, sample_symbols
from ..sampling import view as drawn_view
from . import order
from .counts import check_counts, check_edge, edge_key, fits
from .intervals import Facts
from .ordered import DRAWS, SPREADS, OrderCheck
from .pairs import Memory, Regions, conflicting_pairs, describe, find_conflict
from .points import Scope, inside, steps
from .report import VerifyReport


class Verifier:
    def __init__(self, plan: Plan, report: VerifyReport, exhaustive: bool) -> None:
        self.plan, self.report, self.exhaustive = plan, report, exhaustive
        self.memory = Memory(plan)
        self.mutable = {a.tensor for g in plan.grids for a in g.accesses if a.writes}
        self.memo: dict[Any, Any] = {}

    def view(self, symbols: dict[str, int]) -> StepView:
        return StepView(self.plan, symbols, {}, self.memo)

    def run(self) -> None:
        plan = self.plan
        self.names()
        order.check_segments(plan)
        for e in plan.events.values():
            fits(plan, e)
        if self.edge_tables():
            self.by_drawn_tables()
            return
        if map_tables(plan):
            self.report.tables = "by their declared invariants, whatever they hold"
        self.counts()
        self.regions()
        self.deadlock()
        OrderCheck(plan, self.report, self.exhaustive, self.memory, self.mutable, self.memo).run()

    # -- what needs no step

    def names(self) -> None:
        """Every name that the plan uses is declared; scratch tensors lie inside the arena."""
        plan = self.plan
        if len({g.name for g in plan.grids}) < len(plan.grids):
            raise PlanError(f"two task grids of plan '{plan.name}' have the same name")
        for g in plan.grids:
            for e in (*g.waits, *g.enter, *g.notifies):
                if e.event not in plan.events:
                    raise PlanError(f"grid '{g.name}' names the event '{e.event}', which the plan does not declare")
                if len(e.cells) != len(plan.events[e.event].shape):
                    raise PlanError(
                        f"grid '{g.name}' gives {len(e.cells)} indices to event '{e.event}', which has "
                        f"{len(plan.events[e.event].shape)} dimensions"
                    )
            for a in g.accesses:
                if a.tensor not in plan.tensors:
                    raise PlanError(f"grid '{g.name}' names the tensor '{a.tensor}', which the plan does not declare")
                if a.writes and plan.tensors[a.tensor].role in ("input", "weight"):
                    raise PlanError(f"grid '{g.name}' writes '{a.tensor}', which is {plan.tensors[a.tensor].role} and constant")
        for name, (lo, hi) in self.memory.places.items():
            if lo < 0 or hi > plan.arena_bytes:
                raise PlanError(
                    f"scratch tensor '{name}' lies at bytes [{lo}, {hi}) of the arena, which has {plan.arena_bytes}"
                )

        self.own_memory()

    def own_memory(self) -> None:
        """A table that maps look up is written by grids before those, and its bytes hold nothing else."""
        plan = self.plan
        for table in sorted(map_tables(plan) & (self.mutable | set(self.memory.places))):
            for other in self.memory.places:
                if other != table and self.memory.share(table, other):
                    raise PlanError(
                        f"table '{table}', which maps look up, shares bytes of the arena with '{other}'; workers read it "
                        "whenever they enter a grid, so it needs bytes of its own"
                    )
            first = next(i for i, g in enumerate(plan.grids) if table in tables_to_enter(g, plan.events))
            for g in plan.grids[first:]:
                if any(a.tensor == table and a.writes for a in g.accesses):
                    raise PlanError(
                        f"grid '{g.name}' writes '{table}', which the maps of grid '{plan.grids[first].name}' look up; a table "
                        "is complete before the first grid that reads it is entered"
                    )

    def edge_tables(self) -> set[str]:
        """Tables that extents, edges or counts look up, as against regions."""
        names: set[str] = set()
        for g in self.plan.grids:
            for _, extent in g.axes:
                names |= tables_in(extent)
            for e in (*g.waits, *g.notifies, *g.enter):
                names |= tables_of(e.cells)
        for ev in self.plan.events.values():
            for x in (*ev.shape, *((ev.needed,) if ev.needed is not None else ())):
                names |= tables_in(x)
        computed = map_tables(self.plan) & self.mutable
        return names | computed

    # -- with tables handled by their invariants

    def counts(self) -> None:
        plan, seen = self.plan, set()
        notifiers: dict[str, list[tuple[TaskGrid, Edge]]] = {e: [] for e in plan.events}
        for g in plan.grids:
            for e in g.notifies:
                notifiers[e.event].append((g, e))
        for ev in plan.events.values():
            assert ev.needed is not None
            by = notifiers[ev.name]
            shape = tuple(e.text for e in ev.shape)
            key = (shape, ev.needed.text, *(edge_key(plan, g, e) for g, e in by))
            self.report.num_events += 1
            if key in seen:
                continue
            seen.add(key)
            scope = Scope(plan, shapes=list(ev.shape), counts=[ev.needed], cells=ev.shape)
            for g, e in by:
                scope.add_grid(g).add_region(g, e.cells, ev.shape)
            for v in self.steps(scope):
                for g, e in by:
                    self.edge(v, g, e, "notifies")
                self.report.num_cells += check_counts(v, ev, by)

    def edge(self, v: StepView, g: TaskGrid, e: Edge, verb: str) -> None:
        coords = Regions(v).coords(g)
        env = {**v.symbols, **{a: coords[:, d] for d, a in enumerate(g.axis_names)}}
        check_edge(v, g, e, env, len(coords), verb)

    def regions(self) -> None:
        """Regions inside tensors, waits inside events."""
        seen = set()
        for g in self.plan.grids:
            axes = tuple((a, e.text) for a, e in g.axes)
            for a in g.accesses:
                tensor = self.plan.tensors[a.tensor]
                key: tuple[object, ...] = (axes, region_key(a.region), tuple(e.text for e in tensor.shape))
                if key not in seen and not inside(self.plan, g, a.region, tensor.shape):
                    for v in self.steps(Scope(self.plan).add_grid(g).add_region(g, a.region, tensor.shape)):
                        Regions(v).boxes(g, a)
                seen.add(key)
            for e in g.waits:
                key = ("wait", *edge_key(self.plan, g, e))
                shape = self.plan.events[e.event].shape
                if key not in seen and not inside(self.plan, g, e.cells, shape):
                    for v in self.steps(Scope(self.plan).add_grid(g).add_region(g, e.cells, shape)):
                        self.edge(v, g, e, "waits for")
                seen.add(key)
            for e in g.enter:
                for v in self.steps(Scope(self.plan).add_region(g, e.cells, self.plan.events[e.event].shape)):
                    check_edge(v, g, e, dict(v.symbols), 1, "enters after")

    def steps(self, scope: Scope) -> Iterable[StepView]:
        points, values, drawn = steps(scope.simplified(), self.exhaustive)
        self.report.cover(values, drawn)
        self.report.num_steps += len(points)
        return map(self.view, points)

    def deadlock(self) -> None:
        if order.runs_forward(self.plan):
            self.report.deadlock = "none: every event is notified by grids scheduled before those that wait for it"
            return
        if self.plan.schedule is None:
            for p in sample_symbols(self.plan):
                _ = Ordering(self.view(p)).ancestors
            self.report.deadlock = "none: the events form no cycle in sample steps; the plan has no schedule"
            return
        scope = Scope(self.plan)
        for g in self.plan.grids:
            scope.add_grid(g)
            for e in (*g.waits, *g.enter, *g.notifies):
                scope.add_region(g, e.cells, self.plan.events[e.event].shape)
        n = 0
        for v in self.steps(scope):
            order.play(v)
            n += 1
        self.report.deadlock = f"none: every worker comes to its end in {n} steps played through"

    # -- with drawn tables

    def by_drawn_tables(self) -> None:
        """Everything at once, on tables drawn to keep their invariants."""
        plan, report = self.plan, self.report
        report.tables, report.proven = f"{DRAWS} drawn for each step, keeping their invariants", False
        scope = Scope(plan)
        for g in plan.grids:
            scope.add_grid(g)
            for e in (*g.waits, *g.enter, *g.notifies):
                scope.add_region(g, e.cells, plan.events[e.event].shape)
            for a in g.accesses:
                scope.add_region(g, a.region, plan.tensors[a.tensor].shape)
        points, values, drawn = steps(scope.simplified(), self.exhaustive)
        if len(points) > 60 and not self.exhaustive:
            points, drawn = points[:: -(-len(points) // 60)], True
        report.cover(values, drawn)
        bounded = Facts(self.view(next(iter(points))))
        for table in sorted(map_tables(plan)):
            bounded.values(table)  # nothing can be said about a table that may hold anything
        for p in points:
            for seed in range(DRAWS):
                self.one_draw(drawn_view(plan, p, seed, SPREADS[seed % len(SPREADS)]))
                report.num_steps += 1
        report.num_windows = report.num_distinct_windows = 1

    def one_draw(self, v: StepView) -> None:
        plan, report = self.plan, self.report
        for g in plan.grids:
            for e in g.waits:
                self.edge(v, g, e, "waits for")
            for e in g.notifies:
                self.edge(v, g, e, "notifies")
            for e in g.enter:
                check_edge(v, g, e, dict(v.symbols), 1, "enters after")
            for a in g.accesses:
                Regions(v).boxes(g, a)
        for ev in plan.events.values():
            by = [(g, e) for g in plan.grids for e in g.notifies if e.event == ev.name]
            report.num_cells += check_counts(v, ev, by)
        report.num_events = len(plan.events)
        if order.runs_forward(plan) or plan.schedule is None:
            report.deadlock = "none: every event is notified by grids scheduled before those that wait for it"
        else:
            order.play(v)
            report.deadlock = "none: every worker comes to its end in the steps played through"
        o = Ordering(v, counts_hold=True)
        self.entered(o)
        pairs = conflicting_pairs(plan.grids, self.memory, self.mutable)
        found = find_conflict(v, o, pairs)
        report.num_pairs += len(pairs)
        if found is not None:
            raise PlanError(describe(found, v, self.memory))

    def entered(self, o: Ordering) -> None:
        """Tables that the step computes are ready when the grids whose maps read them are entered."""
        plan = self.plan
        for i, g in enumerate(plan.grids):
            names = {t for _, e in g.axes for t in tables_in(e)}
            for edge in (*g.waits, *g.notifies):
                ev = plan.events[edge.event]
                names |= tables_of(edge.cells) | {t for e in ev.shape for t in tables_in(e)}
            for edge in g.waits:
                needed = plan.events[edge.event].needed
                names |= tables_in(needed) if needed is not None else set()
            for a in g.accesses:
                names |= tables_of(a.region)
            for table in sorted(names & self.mutable):
                for writer in plan.grids[:i]:
                    if not any(a.tensor == table and a.writes for a in writer.accesses):
                        continue
                    need = o.mask(writer.name)
                    past = o.ancestors[o.entry[g.name]] if g.name in o.entry else 0
                    if past & need != need:
                        raise PlanError(
                            f"grid '{g.name}' looks up '{table}', which '{writer.name}' computes in the same step, but no "
                            f"`enter` edge of '{g.name}' waits for all of '{writer.name}'"
                        )
