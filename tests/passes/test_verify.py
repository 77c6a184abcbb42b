"""The verifier: what it says of good plans, and in which words it refuses bad ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from eventide.errors import PlanError
from eventide.ir.expr import Sum, Var, minimum, wrap
from eventide.ir.nodes import Access, Edge, EventTensor, Plan, Schedule, Segment, Span, TaskGrid, Tensor
from eventide.passes.pipeline import compile_plan
from eventide.passes.verify import VerifyReport, verify, verify_plan
from eventide.target import cpu, h200
from tests.brute import faults
from tests.programs import LIMITS, SMALL_CPU, SMALL_GPU, decoder, experts, heads_by_hand, mlp

m = Var("m")


def copies(size: int = 16, tile: int = 4, workers: int = 2) -> Plan:
    """a[m] writes x[tile], b[m] reads it, waiting for e.a[m] alone."""
    n = Var("n")
    tile_of = Span(m * tile, m * tile + tile)
    tiles = (n * tile) // tile
    x, y = (Tensor(k, (n * tile,), "float32") for k in "xy")
    cell = Edge("e.a", (Span.at(m),))
    return Plan(
        "copies", "test", {"n": (0, size)}, {"x": x, "y": y}, {"e.a": EventTensor("e.a", (n,), Sum(1))},
        (
            TaskGrid("a", "fill", (("m", tiles),), (Access("y", "x", (tile_of,), "write"),), notifies=(cell,)),
            TaskGrid("b", "copy", (("m", n),), (Access("x", "x", (tile_of,)), Access("y", "y", (tile_of,), "write")),
                     waits=(cell,)),
        ),
        Schedule("static", workers, (Segment("a"), Segment("b"))), {"x": 0, "y": 4 * size * tile}, 8 * size * tile,
    )  # fmt: skip


def change(plan: Plan, grid: str, **fields: object) -> Plan:
    return replace(plan, grids=tuple(replace(g, **fields) if g.name == grid else g for g in plan.grids))  # type: ignore[arg-type]


def test_report_says_what_was_looked_at() -> None:
    report = verify(copies())
    assert isinstance(report, VerifyReport) and report.proven
    text = str(report)
    for words in ("proven", "symbol   n", "every tile boundary below", "no map depends on run-time tables", "every count met"):
        assert words in text, text


def test_short_ranges_are_walked_through() -> None:
    assert verify(copies(size=5)).symbols["n"] == "every value in [0, 5]"


def test_the_pass_returns_the_plan() -> None:
    plan = copies()
    assert verify_plan(plan) is plan


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("exhaustive", [False, True])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda p: change(p, "b", waits=()), ["no event orders task a[m=0] before task b[m=0]", "writes x[0:4]", "reads x[0:4]",
                                              "at n = 1", "e.a[m]"]),
        (lambda p: change(p, "b", waits=(Edge("e.a", (Span.at(wrap(0)),)),)), ["a[m=1] before task b[m=1]", "n = 2"]),
        (lambda p: change(p, "a", notifies=()), ["'e.a' needs 1 notifications in cell [0] and gets 0", "nobody", "never start"]),
        (lambda p: change(p, "a", notifies=p.grids[0].notifies * 2), ["needs 1", "gets 2", "triggers too early"]),
        (lambda p: replace(p, events={"e.a": EventTensor("e.a", (Var("n"),), Sum(2))}), ["needs 2", "gets 1"]),
        (lambda p: change(p, "a", notifies=(Edge("e.a", (Span.at(m + 1),)),)), ["names", "cells [", "the event has"]),
        (lambda p: change(p, "a", accesses=(Access("y", "x", (Span(m * 4, m * 4 + 5),), "write"),)), ["reaches [", "'x'"]),
        (lambda p: change(p, "a", accesses=(Access("y", "x", (Span(wrap(0), wrap(4)),), "write"),)),
         ["two tasks of 'a' touch the same elements"]),
        (lambda p: replace(p, offsets={"x": 0, "y": 0}), ["both lie in bytes"]),
        (lambda p: replace(p, arena_bytes=100), ["of the arena, which has 100"]),
        (lambda p: replace(p, grids=p.grids[::-1]), ["no event orders"]),
        (lambda p: replace(p, schedule=Schedule("static", 1, (Segment("b"), Segment("a")))), ["deadlock", "b[m=0]", "e.a[m]"]),
        (lambda p: replace(p, schedule=Schedule("static", 1, (Segment("a"),))), ["'b' stands 0 times in the schedule"]),
        (lambda p: change(p, "a", waits=p.grids[1].waits), ["deadlock"]),
        (lambda p: change(p, "b", waits=(Edge("e.b", (Span.at(m),)),)), ["event 'e.b', which the plan does not declare"]),
        (lambda p: replace(p, events={"e.a": EventTensor("e.a", (Var("n"),), wrap(2**32))}), ["32-bit field"]),
        (lambda p: replace(p, events={"e.a": EventTensor("e.a", (Var("n"),), None)}), ["no needed count"]),
        (lambda p: replace(p, tensors={**p.tensors, "x": replace(p.tensors["x"], role="input")}), ["constant"]),
    ],
)  # fmt: skip
def test_faults_in_words(broken: Callable[[Plan], Plan], words: list[str], size: int, exhaustive: bool) -> None:
    with pytest.raises(PlanError) as e:
        verify(broken(copies(size)), exhaustive=exhaustive)
    if "names" in words:
        words = words[1:]
    for w in words:
        assert w in str(e.value), str(e.value)


FAR = [
    ("wait", lambda p: change(p, "b", waits=(Edge("e.a", (Span.at(minimum(m, 70)),)),))),
    ("count", lambda p: replace(p, events={"e.a": EventTensor("e.a", (Var("n"),), 1 + Var("n") // 90)})),
    ("count of a cell", lambda p: replace(p, events={"e.a": EventTensor("e.a", (Var("n"),), minimum(1, 90 - Var("c0")))})),
    ("region", lambda p: change(p, "a", accesses=(Access("y", "x", (Span(minimum(m * 4, 300), m * 4 + 4),), "write"),))),
    ("extent", lambda p: change(p, "a", axes=(("m", minimum(Var("n"), 80)),))),
    ("needs", lambda p: replace(change(p, "b", waits=()), requires=(Var("n") - 60,), symbols={"n": (60, 200)})),
    ("range", lambda p: replace(change(p, "b", waits=()), symbols={"n": (97, 200)})),
]


@pytest.mark.parametrize(("what", "broken"), FAR, ids=[what for what, _ in FAR])
def test_faults_that_only_large_steps_show(what: str, broken: Callable[[Plan], Plan]) -> None:
    """Minima and thresholds do not move by periods, so the whole range is looked at."""
    for exhaustive in (False, True):
        with pytest.raises(PlanError):
            verify(broken(copies(size=200)), exhaustive=exhaustive)


@pytest.mark.parametrize("size", [5, 40])
def test_legal_changes_are_accepted(size: int) -> None:
    plan = copies(size)
    segments = (Segment("a", "cyclic"), Segment("b", rotate=Var("n"), barrier=True))
    verify(replace(plan, schedule=Schedule("per_op", 7, segments)))
    verify(replace(plan, schedule=None))
    whole = (Edge("e.a", (Span(wrap(0), Var("n")),)),)
    verify(change(plan, "b", waits=whole))


def test_tasks_of_a_grid_may_wait_for_each_other() -> None:
    """A chain: task m waits for task m - 1 of its own grid; in order it runs, on reversed workers it is stuck."""
    n = Var("n")
    x = Tensor("x", (wrap(4),), "float32")
    previous = Edge("e", (Span(maximum_0(m - 1), m),))
    grid = TaskGrid("chain", "add", (("m", n),), (Access("x", "x", (Span(wrap(0), wrap(4)),), "update"),), waits=(previous,),
                    notifies=(Edge("e", (Span.at(m),)),))  # fmt: skip
    plan = Plan("chain", "test", {"n": (0, 6)}, {"x": x}, {"e": EventTensor("e", (n,), Sum(1))}, (grid,),
                Schedule("static", 2, (Segment("chain"),)), {"x": 0}, 16)  # fmt: skip
    report = verify(plan)
    assert "played through" in report.deadlock
    assert all(not faults(plan, {"n": k}, {}) for k in range(7))
    loop = replace(grid, waits=(Edge("e", (Span.at((m + 1) % 2),)),), axes=(("m", wrap(2)),))
    stuck = replace(plan, grids=(loop,), events={"e": EventTensor("e", (wrap(2),), Sum(1))})
    with pytest.raises(PlanError, match=r"deadlock at n = 0: task chain\[m=0\]"):
        verify(stuck)


def maximum_0(e):  # type: ignore[no-untyped-def]
    from eventide.ir.expr import maximum

    return maximum(0, e)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("target", [SMALL_CPU, cpu(2), h200()], ids=lambda t: t.name)
def test_decoders(target, decode) -> None:  # type: ignore[no-untyped-def]
    report = verify(compile_plan(decoder(decode=decode), target, verify=False))
    assert report.proven == (not decode), str(report)  # splits of one sequence's past lie apart by tables that are drawn


@pytest.mark.parametrize("at", ["nothing", "split_begin", "another page size"])
def test_a_decode_step_needs_a_page_of_its_own_for_what_it_writes(at: str) -> None:
    """Without the promise that the page a token goes to stands in the table once, or with it for another place, tasks that
    append and tasks that read may meet."""
    plan = compile_plan(decoder(1, decode=True), SMALL_GPU, verify=False)
    table = plan.tensors["block_table"]
    bounds, own = table.invariants
    assert own.kind == "single" and (own.of, own.at) == ("seq", "pos")
    changed = {"nothing": (), "split_begin": (replace(own, at="split_begin"),), "another page size": (replace(own, hi=wrap(4096)),)}
    broken = replace(plan, tensors={**plan.tensors, "block_table": replace(table, invariants=(bounds, *changed[at]))})
    verify(plan)
    with pytest.raises(PlanError, match=r"two tasks of 'layers.0.attn' touch the same elements"):
        verify(broken)


@pytest.mark.slow
def test_windows_and_periods_agree_with_everything_at_once() -> None:
    limits = replace(LIMITS, max_tokens=7, max_rows=1, max_seqs=1)
    plan = compile_plan(decoder(2, limits=limits), SMALL_CPU, verify=False)
    report = verify(plan, exhaustive=True)
    assert report.exhaustive and report.proven and report.num_windows == 1
    for i, g in enumerate(plan.grids):
        for k in range(len(g.waits)):
            fewer = replace(g, waits=g.waits[:k] + g.waits[k + 1 :])
            broken = replace(plan, grids=(*plan.grids[:i], fewer, *plan.grids[i + 1 :]))
            for exhaustive in (False, True):
                with pytest.raises(PlanError, match="no event orders"):
                    verify(broken, exhaustive=exhaustive)


def test_a_deep_model_costs_little_more_than_a_shallow_one() -> None:
    shallow, deep = (verify(compile_plan(decoder(n), SMALL_CPU, verify=False)) for n in (3, 12))
    assert deep.num_steps == shallow.num_steps and deep.num_windows > shallow.num_windows


def test_plans_whose_edges_read_tables_are_tested_on_drawn_ones() -> None:
    report = verify(compile_plan(experts(), SMALL_CPU, verify=False))
    assert not report.proven and "drawn for each step" in report.tables and "tested, not proven" in str(report)


def test_a_table_of_this_step_must_be_ready_on_entry() -> None:
    plan = compile_plan(experts(), SMALL_CPU, verify=False)
    for grid in ("prepare", "expert"):
        with pytest.raises(PlanError, match=f"'{grid}' looks up '.*', which '.*' computes in the same step"):
            verify(change(plan, grid, enter=()))


def test_tables_need_bounds() -> None:
    p = experts(routed_here=False)
    p.tensors["topk"] = replace(p.tensors["topk"], invariants=())
    with pytest.raises(PlanError):
        compile_plan(p, SMALL_CPU)


def test_required_relations_are_used() -> None:
    plan = compile_plan(mlp(), SMALL_CPU, verify=False)
    assert verify(plan).proven
    with pytest.raises(PlanError, match="reaches"):
        verify(replace(compile_plan(decoder(), SMALL_CPU, verify=False), requires=()))


def test_events_by_hand() -> None:
    plan = compile_plan(heads_by_hand(), SMALL_CPU)
    assert str(plan.events["done"].needed) == "2"
    assert verify(plan).proven
