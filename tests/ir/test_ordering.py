"""Classes of tasks and their order against a graph of single tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventide.errors import PlanError
from eventide.ir.expr import Sum, wrap
from eventide.ir.instance import StepView
from eventide.ir.nodes import Edge, EventTensor, Plan, Span, TaskGrid
from eventide.ir.ordering import Ordering, group_rows
from eventide.passes.sampling import sample_views
from tests.programs import plans

PLANS = plans(verify=False)


def past_of_tasks(view: StepView) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """What happens before every task, by walking single tasks; slow and plain."""
    notifiers: dict[tuple[str, int], list[tuple[str, int]]] = {}
    waits: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for g in view.plan.grids:
        for n, task in enumerate(view.tasks(g)):
            waits[g.name, n] = [(e.event, c) for e in (*g.waits, *g.enter) for c in view.cells(e, g, task)]
            for e in g.notifies:
                for c in view.cells(e, g, task):
                    notifiers.setdefault((e.event, c), []).append((g.name, n))
    past: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for task, cells in waits.items():  # grids of these plans stand in the order of their events
        before = {a for c in cells for a in notifiers.get(c, [])}
        past[task] = before.union(*(past[a] for a in before))
    return past


@pytest.mark.parametrize("counts_hold", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_before_is_what_single_tasks_say(name: str, counts_hold: bool) -> None:
    for view in sample_views(PLANS[name])[:3]:
        o, past = Ordering(view, counts_hold=counts_hold), past_of_tasks(view)
        for g in view.plan.grids:
            for h in view.plan.grids:
                matrix = o.order_matrix(g.name, h.name)[o.classes[g.name].ids][:, o.classes[h.name].ids]
                expected = [
                    [(g.name, a) in past[h.name, b] for b in range(matrix.shape[1])] for a in range(matrix.shape[0])
                ]
                assert np.array_equal(matrix, np.array(expected, bool).reshape(matrix.shape)), f"{g.name} {h.name}"
                assert o.all_before(g.name, h.name) == bool(matrix.all())


def chain(order: Sequence[int], needed: int = 1) -> Plan:
    """Three grids of two tasks, each waiting for the one before, declared in the given order."""
    grids = []
    for i in range(3):
        cell = (Span(wrap(0), wrap(1)),)
        grids.append(
            TaskGrid(
                f"g{i}", "x", (("m", wrap(2)),), (),
                waits=(Edge(f"e{i - 1}", cell),) if i else (), notifies=(Edge(f"e{i}", cell),),
            )
        )  # fmt: skip
    events = {f"e{i}": EventTensor(f"e{i}", (wrap(1),), Sum(needed)) for i in range(3)}
    return Plan("chain", "test", {}, {}, events, tuple(grids[i] for i in order))


def test_the_order_of_declaration_makes_no_difference() -> None:
    for order in ((0, 1, 2), (2, 0, 1), (2, 1, 0)):
        o = Ordering(StepView(chain(order, needed=2), {}))
        assert o.before("g0", 1, "g2", 0) and o.all_before("g0", "g2") and not o.before("g2", 0, "g0", 0)


def test_a_cell_that_triggers_early_orders_nothing() -> None:
    for order in ((0, 1, 2), (2, 1, 0)):
        o = Ordering(StepView(chain(order, needed=1), {}))
        assert not o.before("g0", 0, "g1", 0)


def test_events_of_a_part_order_that_part() -> None:
    plan = chain((0, 1, 2), needed=2)
    o = Ordering(StepView(plan, {}), plan.grids[1:], counts_hold=True)
    assert o.all_before("g1", "g2") and set(o.class_range) == {"g1", "g2"}


def test_a_cycle_is_told() -> None:
    plan = chain((0, 1, 2), needed=2)
    first = TaskGrid("g0", "x", plan.grids[0].axes, (), waits=plan.grids[2].notifies, notifies=plan.grids[0].notifies)
    looped = Plan("loop", "test", {}, {}, plan.events, (first, *plan.grids[1:]))
    with pytest.raises(PlanError, match="the events form a cycle through the task grids g0, g1, g2"):
        _ = Ordering(StepView(looped, {})).ancestors


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.lists(st.sampled_from([2, 5, 10**6, 10**12]), max_size=4), st.integers(0, 99))
def test_group_rows(n: int, widths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = [rng.integers(-w, w, n) for w in widths]
    ids, first, sizes = group_rows(columns, n)
    rows = [tuple(int(c[i]) for c in columns) for i in range(n)]
    assert len(first) == len(sizes) == len(set(rows))
    for i in range(n):
        assert rows[first[ids[i]]] == rows[i]
    assert sizes.tolist() == [int((ids == k).sum()) for k in range(len(first))]
