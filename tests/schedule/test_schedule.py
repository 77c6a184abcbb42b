"""Schedules: every task once, shares that even out, and orders that a person may change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventide import target
from eventide.errors import PlanError, ProgramError
from eventide.ir.expr import evaluate
from eventide.ir.nodes import Plan, Schedule, Segment
from eventide.ops.program import Program
from eventide.passes.pipeline import compile_plan
from eventide.passes.verify import verify
from eventide.schedule import schedule
from tests.programs import SMALL_CPU, decoder, mlp


@given(st.integers(1, 20), st.integers(0, 70), st.integers(-5, 40), st.sampled_from(["block", "even", "cyclic"]))
def test_every_task_has_one_worker(workers: int, tasks: int, rotate: int, distribution: str) -> None:
    segment = Segment("g", distribution)  # type: ignore[arg-type]
    shares = [list(segment.tasks(w, workers, tasks, rotate)) for w in range(workers)]
    assert sorted(t for share in shares for t in share) == list(range(tasks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == sorted(share) for share in shares)


def test_no_share_of_slabs_spans_two() -> None:
    """Two slabs of 17 tiles on 6 workers: three workers have one slab each, whatever the rotation."""
    p = Program("slabs")
    x, w = p.input("x", (p.symbol("num_tokens", 1, 16), 1024), "bfloat16"), p.weight("w", (8 * 17, 1024), "bfloat16")
    p.output(p.call("linear_part", x=x, w=w, splits=2, name="part"), "sums")
    plan = compile_plan(p, replace(target.h200(tile_tokens=16), num_workers=6))
    assert plan.schedule is not None
    (segment,) = plan.schedule.segments
    assert segment.distribution == "even"
    for rotate in range(6):
        for worker in range(6):
            share = segment.tasks(worker, 6, 34, rotate)
            assert len(share) in (5, 6) and len({t // 17 for t in share}) == 1
    block = Segment("part")
    assert any(len({t // 17 for t in block.tasks(w, 6, 34, 0)}) == 2 for w in range(6))


def test_remainders_rotate() -> None:
    """Five tasks of one grid on 4 workers leave one over: the next grid's extra task goes to the next worker."""
    plan = compile_plan(decoder(2), SMALL_CPU, verify=False)
    plan = schedule(plan, "static", 4)
    assert plan.schedule is not None
    load = [0] * 4
    symbols = {"num_tokens": 9, "num_tiles": 3, "num_rows": 2, "num_samples": 2}
    for s in plan.schedule.segments:
        n = int(evaluate(plan.grid(s.grid).num_tasks, symbols))
        for w in range(4):
            load[w] += len(s.tasks(w, 4, n, int(evaluate(s.rotate, symbols))))
    assert max(load) - min(load) <= 1


def test_per_op_has_barriers() -> None:
    static, per_op = (compile_plan(mlp(), SMALL_CPU, kind).schedule for kind in ("static", "per_op"))
    assert static is not None and per_op is not None
    assert not any(s.barrier for s in static.segments) and all(s.barrier for s in per_op.segments)


def test_unknown_schedules_are_told() -> None:
    with pytest.raises(ProgramError, match="unknown schedule 'magic'; known are: static, per_op"):
        compile_plan(mlp(), SMALL_CPU, "magic")


def two_branches() -> Plan:
    p = Program("branches")
    t = p.symbol("num_tokens", 1, 9)
    x = p.input("x", (t, 8), "float32")
    a, b = (p.call("linear", name=k, x=x, w=p.weight(f"w{k}", (8, 8), "float32")) for k in "ab")
    c = p.call("linear", name="c", x=b, w=p.weight("wc", (16, 8), "float32"), activation="silu_mul")
    p.output(p.call("add", name="sum", a=a, b=c), "y")
    return compile_plan(p, SMALL_CPU, verify=False)


def test_independent_grids_may_change_places() -> None:
    plan = two_branches()
    assert plan.schedule is not None
    names = [s.grid for s in plan.schedule.segments]
    assert names[:2] == ["a", "b"]

    def ordered(names: list[str]) -> Plan:
        return replace(plan, schedule=Schedule("static", 3, tuple(Segment(n) for n in names)))

    assert verify(ordered([names[1], names[0], *names[2:]])).proven
    with pytest.raises(PlanError, match="deadlock"):
        verify(ordered([*names[2:], *names[:2]]))
