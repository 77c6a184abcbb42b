"""Routing by data: maps through topk[i, :] and indptr[e] + j, counts computed by the step itself."""

from __future__ import annotations

import numpy as np
import pytest

from eventide.backends.interp import Tile, reference_tile
from eventide.backends.policies import Adversarial, InOrder, Random
from eventide.errors import ProgramError
from eventide.ir.expr import ceildiv
from eventide.ir.nodes import Plan, TaskGrid
from eventide.ops.program import Program
from eventide.passes.pipeline import compile_plan
from tests.interp.running import Arrays, drawn, run, same
from tests.programs import SMALL_CPU, SMALL_GPU, experts, heads_by_hand

X = np.array([[9, 8, 0, 0], [0, 0, 9, 8], [8, 0, 9, 0], [0, 9, 0, 8], [9, 0, 0, 8]], np.float32)  # topk: 01 23 02 13 03


def expected(plan: Plan, x: np.ndarray) -> np.ndarray:
    w = drawn(plan, "weight", {"num_tokens": len(x)})["w"]
    topk = np.argsort(-x, axis=1, kind="stable")[:, :2]
    return np.array([sum((row * 2 + 1) * w[e] for e in chosen) for row, chosen in zip(x, topk)], np.float32)


def given_tables(x: np.ndarray) -> Arrays:
    topk = np.argsort(-x, axis=1, kind="stable")[:, :2].astype(np.int32)
    counts = np.bincount(topk.reshape(-1), minlength=4)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    tables = {"topk": topk, "counts": counts, "indptr": indptr, "perm": np.argsort(topk.reshape(-1), kind="stable")}
    return {k: v.astype(np.int32) for k, v in tables.items()}


class Trace:
    """Notes the tasks as they are computed, in order."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, dict[str, int]]] = []

    def __call__(self, grid: TaskGrid, tile: Tile) -> None:
        self.tasks.append((grid.name, dict(tile.coord)))
        reference_tile(grid, tile)


@pytest.mark.parametrize("routed_here", [True, False])
@pytest.mark.parametrize("num_tokens", [1, 3, 5])
def test_results(routed_here: bool, num_tokens: int) -> None:
    plan = compile_plan(experts(routed_here=routed_here), SMALL_GPU)
    x = X[:num_tokens]
    inputs = {"x": x, **({} if routed_here else given_tables(x))}
    for seed in range(5):
        out, kernel = run(plan, {"num_tokens": num_tokens}, Random(seed), inputs)
        assert np.allclose(out["out"], expected(plan, x), atol=1e-5)
        assert kernel.stats.tasks["expert"] == 2 * num_tokens  # an extent that only the routing knows
        assert kernel.stats.notifications["ready"] == 2 * num_tokens


def test_an_expert_ends_before_an_unrelated_token_starts() -> None:
    """Expert 0 needs tokens 0, 2 and 4: some interleaving finishes it while token 3 has not been prepared."""
    plan = compile_plan(experts(routed_here=False), SMALL_CPU)
    inputs = {"x": X[:4], **given_tables(X[:4])}
    early = 0
    for seed in range(60):
        trace = Trace()
        run(plan, {"num_tokens": 4}, Adversarial(seed, change=0.2), inputs, trace)
        order = {(name, c.get("i", c.get("e")), c.get("j", 0)): n for n, (name, c) in enumerate(trace.tasks)}
        ends = max(n for (name, e, _), n in order.items() if name == "expert" and e == 0)
        assert all(order["prepare", t, 0] < ends for t in (0, 2))
        early += ends < order["prepare", 3, 0]
    assert early > 0


def test_tables_of_the_host_are_checked() -> None:
    plan = compile_plan(experts(routed_here=False), SMALL_CPU)
    good = {"x": X, **given_tables(X)}
    for name, at, words in (
        ("counts", 0, "'counts' breaks its invariant 'histogram'"),
        ("indptr", 2, "'indptr' breaks its invariant 'offsets'"),
        ("perm", 1, "'perm' breaks its invariant 'grouping'"),
    ):
        values = good[name].copy()
        values[at] += 1
        with pytest.raises(ProgramError, match=words):
            run(plan, {"num_tokens": 5}, InOrder(), {**good, name: values})


def test_tables_of_the_step_are_checked_when_a_grid_is_entered() -> None:
    plan = compile_plan(experts(), SMALL_CPU)

    def wrong(grid: TaskGrid, tile: Tile) -> None:
        reference_tile(grid, tile)
        if grid.name == "group":
            tile.counts[0] += 1

    with pytest.raises(ProgramError, match="'counts' breaks its invariant 'histogram'"):
        run(plan, {"num_tokens": 5}, InOrder(), {"x": X}, wrong)


def two_linears(by_hand: bool) -> Program:
    p = Program("two")
    t = p.symbol("num_tokens", 1, 11)
    x = p.input("x", (t, 16), "float32")
    w1, w2 = (p.weight(k, (16, 16), "float32") for k in ("w1", "w2"))
    if by_hand:
        done = p.event("done", (ceildiv(t, SMALL_GPU.tile_tokens),))
        h = p.call("linear", name="up", x=x, w=w1, waits=lambda: [], notifies=lambda m: [done[m]])
        y = p.call("linear", name="down", x=h, w=w2, waits=lambda m: [done[m]])
    else:
        y = p.call("linear", name="down", x=p.call("linear", name="up", x=x, w=w1), w=w2)
    p.output(y, "y")
    return p


def test_events_by_hand_mean_what_inferred_ones_mean() -> None:
    by_hand, inferred = (compile_plan(two_linears(b), SMALL_GPU) for b in (True, False))
    (done,), (e_up,) = by_hand.events.values(), inferred.events.values()
    assert (done.shape, done.needed) == (e_up.shape, e_up.needed)
    for a, b in zip(by_hand.grids, inferred.grids):
        assert [e.cells for e in a.waits] == [e.cells for e in b.waits]
        assert [e.cells for e in a.notifies] == [e.cells for e in b.notifies]
    results = [run(plan, {"num_tokens": 7}, Adversarial(4))[0] for plan in (by_hand, inferred)]
    assert same(results[0], results[1])


def test_hand_written_heads_run() -> None:
    out, kernel = run(compile_plan(heads_by_hand(), SMALL_GPU), {"num_tokens": 6}, Adversarial(4))
    assert kernel.stats.notifications == {"done": 8, "last": 4}
    assert not np.isnan(out["z"]).any()
