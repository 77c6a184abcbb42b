"""Inferred events against brute force, on random programs and shapes.

Every conflicting pair of tasks is ordered; and before coarsening, a task waits for a task it does not conflict with only
where the events pass says so: a dimension that no tile pattern explains waits for all tiles.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventide.errors import ProgramError
from eventide.ir.expr import Sum, Var, wrap
from eventide.ir.instance import StepView
from eventide.ir.nodes import EventTensor, Plan
from eventide.ops.program import Program
from eventide.passes.events import infer_events
from eventide.passes.fuse import fuse
from eventide.passes.pipeline import compile_plan
from eventide.passes.sampling import sample_symbols, view
from eventide.passes.tile import tile
from eventide.passes.verify import verify
from eventide.target import Target
from tests.brute import faults, flat, value
from tests.programs import SMALL_CPU, experts, mlp

targets = st.builds(
    Target, st.just("cpu"), st.integers(1, 4), tile_rows=st.sampled_from([2, 4, 8]), tile_tokens=st.sampled_from([1, 2, 3, 4]),
    tile_queries=st.just(2),
)  # fmt: skip
# each call: which earlier tensor it reads, which one it adds if any, and what it is
kinds = st.sampled_from(["linear", "norm", "add", "gated"])
calls = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), kinds), min_size=1, max_size=6)


def random_program(shape: list[tuple[int, int, str]], max_tokens: int) -> Program:
    p = Program("random")
    t = p.symbol("num_tokens", 1, max_tokens)
    made: list[Any] = [p.input("x", (t, 8), "float32")]
    for i, (a, b, kind) in enumerate(shape):
        x, y = made[a % len(made)], made[b % len(made)]
        if kind == "linear":
            made.append(p.call("linear", name=f"c{i}", x=x, w=p.weight(f"w{i}", (8, 8), "float32")))
        elif kind == "gated":
            made.append(p.call("linear", name=f"c{i}", x=x, w=p.weight(f"w{i}", (16, 8), "float32"), activation="silu_mul"))
        elif kind == "norm":
            made.append(p.call("rms_norm", name=f"c{i}", x=x, w=p.weight(f"w{i}", (8,), "float32"), eps=1e-6))
        else:
            made.append(p.call("add", name=f"c{i}", a=x, b=y))
    p.output(made[-1], "y")
    return p


def wrong_at(plan: Plan) -> list[str]:
    return [f for s in sample_symbols(plan) for f in faults(plan, s, view(plan, s).tables)]


@settings(max_examples=40, deadline=None)
@given(calls, targets, st.integers(1, 9), st.sampled_from(["static", "per_op"]))
def test_every_conflict_of_a_random_program_is_ordered(shape: Any, target: Target, tokens: int, schedule: str) -> None:
    plan = compile_plan(random_program(shape, tokens), target, schedule, verify=False)
    assert verify(plan).proven
    assert not wrong_at(plan)


def elements(view: StepView, grid: Any, access: Any, task: tuple[int, ...]) -> set[int]:
    shape = [value(e, view.symbols, {}) for e in view.plan.tensors[access.tensor].shape]
    return set(flat(access.region, shape, view.env(grid, task), {}))


@settings(max_examples=40, deadline=None)
@given(calls, targets, st.integers(1, 9))
def test_no_wait_without_a_conflict(shape: Any, target: Target, tokens: int) -> None:
    """Linears, sums and norms are tiled plainly, so every wait of the events pass is for a task that conflicts."""
    plan = infer_events(tile(fuse(random_program(shape, tokens)), target))
    for symbols in sample_symbols(plan):
        step = StepView(plan, symbols)
        notified = {
            (e.event, cell): (g, task)
            for g in plan.grids for task in step.tasks(g) for e in g.notifies for cell in step.cells(e, g, task)
        }  # fmt: skip
        for g in plan.grids:
            for task in step.tasks(g):
                for e in g.waits:
                    for cell in step.cells(e, g, task):
                        first, earlier = notified[e.event, cell]
                        assert any(
                            a.tensor == b.tensor and (a.writes or b.writes)
                            and elements(step, first, a, earlier) & elements(step, g, b, task)
                            for a in first.accesses for b in g.accesses
                        ), f"{g.name}{task} waits for {first.name}{earlier} for nothing"  # fmt: skip


def test_before_and_after() -> None:
    plan = infer_events(tile(mlp(), SMALL_CPU))
    up, _, down = plan.grids
    assert [str(e.cells) for e in up.notifies] and plan.events["e.up"] == EventTensor(
        "e.up", ((Var("num_tokens") + 3) // 4, wrap(4)), Sum(1)
    )
    text = str(plan)
    assert "notifies e.up[m, n]" in text
    assert "waits    e.up[m, 0 : 4]" in text  # x: a whole row of tiles
    assert "waits    e.up[m, 2*n : 2*n + 2]" in text  # residual: half as wide tiles
    assert not up.waits and not down.notifies


def test_enter_edges_are_inferred() -> None:
    plan = infer_events(tile(experts(), SMALL_CPU))
    assert [e.event for e in plan.grid("prepare").enter] == ["e.route"]
    assert {e.event for e in plan.grid("expert").enter} == {"e.group"}
    assert plan.grid("prepare").waits == ()


def test_counts_of_events_by_hand_are_filled_in() -> None:
    def program(cells: Any, **event: Any) -> Program:
        p = Program("p")
        t = p.symbol("num_tokens", 1, 9)
        done = p.event("done", (4,), **event)
        x = p.input("x", (t, 8), "float32")
        w, v = (p.weight(k, (8, 8), "float32") for k in "wv")
        h = p.call("linear", name="a", x=x, w=w, waits=lambda: [], notifies=lambda m, n: [done[cells(m, n)]])
        p.output(p.call("linear", name="b", x=h, w=v, waits=lambda m: [done[0:4]]), "y")
        return p

    target = Target("cpu", 1, tile_rows=1, tile_tokens=4, tile_queries=1)
    plan = compile_plan(program(lambda m, n: n // 2), target)
    assert str(plan.events["done"].needed) == "2*((num_tokens + 3) // 4)"
    with pytest.raises(ProgramError, match=r"event 'done': the notifications that 'a' sends to one cell cannot be counted"):
        compile_plan(program(lambda m, n: (n * 3) % 4), target)
    with pytest.raises(ProgramError, match="event 'done' needs 7 notifications"):
        compile_plan(program(lambda m, n: n // 2, needed=7), target)
