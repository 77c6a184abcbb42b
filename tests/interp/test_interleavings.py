"""A plan means one thing under every interleaving; and a plan with an edge missing is caught by some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eventide.backends.interp import Interpreter
from eventide.backends.policies import Adversarial, InOrder, Policy, Random
from eventide.engine.steps import Chunk, make_step
from eventide.errors import PlanError, ProgramError
from eventide.ir.nodes import Plan
from eventide.passes.pipeline import compile_plan
from eventide.target import h200
from tests.interp.running import Arrays, decoder_step, drawn, run, same
from tests.programs import LIMITS, SMALL_CPU, SMALL_GPU, decoder, experts, heads_by_hand, mlp

PLANS = {
    "mlp": (mlp, SMALL_CPU, {"num_tokens": 9}),
    "mlp on 5 workers": (mlp, SMALL_GPU, {"num_tokens": 7}),
    "heads by hand": (heads_by_hand, SMALL_GPU, {"num_tokens": 5}),
    "experts": (experts, SMALL_GPU, {"num_tokens": 5}),
}


def policy(i: int) -> Policy:
    return Adversarial(i) if i % 2 else Random(i)


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@pytest.mark.parametrize("name", PLANS)
def test_200_interleavings_give_equal_bits(name: str) -> None:
    program, target, symbols = PLANS[name]
    plan = compile_plan(program(), target)
    expected, _ = run(plan, symbols, InOrder())
    assert all(not np.isnan(v).any() for v in expected.values() if v.dtype.kind == "f")
    for i in range(200):
        assert same(run(plan, symbols, policy(i))[0], expected), f"interleaving {i}"


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["static", "per_op"])
def test_the_132_worker_plan_gives_equal_bits(schedule: str) -> None:
    """200 interleavings of both schedules, a hundred each."""
    plan = compile_plan(decoder(1), h200(), schedule)
    assert plan.schedule is not None and plan.schedule.num_workers == 132
    symbols, inputs = decoder_step(LIMITS)
    expected, kernel = run(plan, symbols, InOrder(), inputs)
    assert not np.isnan(expected["logits"]).any()
    assert sum(kernel.stats.tasks.values()) > 20
    for i in range(100):
        assert same(run(plan, symbols, policy(i), inputs)[0], expected), f"interleaving {i}"


def test_schedules_and_targets_agree() -> None:
    symbols, inputs = decoder_step(LIMITS)
    results = [
        run(compile_plan(decoder(2), target, schedule), symbols, Adversarial(5), inputs)[0]
        for target in (SMALL_CPU, SMALL_GPU)
        for schedule in ("static", "per_op")
    ]
    assert same(results[0], results[1]) and same(results[2], results[3])
    assert np.allclose(results[0]["logits"], results[2]["logits"], atol=1e-5)  # other tiles, other order of sums


def test_counts_of_a_step() -> None:
    plan = compile_plan(mlp(), SMALL_CPU)
    _, kernel = run(plan, {"num_tokens": 9}, Random(0))
    assert kernel.stats.tasks == {"up": 3 * 4, "mid": 3 * 2, "down": 3 * 2}
    assert kernel.stats.notifications == {"e.up": 3 * 4, "e.mid": 3 * 2}
    assert kernel.stats.turns == 2 * sum(kernel.stats.tasks.values())


def test_a_deadlock_is_told() -> None:
    plan = compile_plan(mlp(), SMALL_CPU)
    events = {**plan.events, "e.up": replace(plan.events["e.up"], needed=plan.events["e.up"].needed + 1)}
    with pytest.raises(PlanError, match=r"stuck before task .* of grid 'mid': it waits for e\.up\[.*\], cell 0, which has"):
        run(replace(plan, events=events), {"num_tokens": 4}, Random(0))


def test_a_count_that_is_exceeded_is_told() -> None:
    plan = compile_plan(mlp(), SMALL_CPU)
    events = {**plan.events, "e.mid": replace(plan.events["e.mid"], needed=plan.events["e.mid"].needed - 1)}
    with pytest.raises(PlanError, match=r"event 'e\.mid', cell 0: 2 notifications came where 1 are needed"):
        run(replace(plan, events=events), {"num_tokens": 4}, Random(0))


def outcome(plan: Plan, symbols: dict[str, int], inputs: Arrays | None, i: int) -> Arrays | None:
    try:
        return run(plan, symbols, policy(i), inputs)[0]
    except (PlanError, IndexError, ValueError):  # a table read too early holds anything
        return None


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@pytest.mark.parametrize(("program", "target", "symbols"), PLANS.values(), ids=PLANS)
def test_every_missing_wait_is_caught_by_some_interleaving(program, target, symbols) -> None:  # type: ignore[no-untyped-def]
    plan = compile_plan(program(), target, verify=False)
    expected, _ = run(plan, symbols, InOrder())
    for i, g in enumerate(plan.grids):
        for k in range(len(g.waits)):
            fewer = replace(g, waits=g.waits[:k] + g.waits[k + 1 :])
            broken = replace(plan, grids=(*plan.grids[:i], fewer, *plan.grids[i + 1 :]))
            caught = (not same(found, expected) if (found := outcome(broken, symbols, None, s)) is not None else True
                      for s in range(40))  # fmt: skip
            assert any(caught), f"{g.name} without {g.waits[k]}"


def test_memory_reused_too_early_is_caught() -> None:
    plan = compile_plan(mlp(), SMALL_CPU, verify=False)
    up, mid = (plan.grid(k).access("y").tensor for k in ("up", "mid"))  # type: ignore[union-attr]
    broken = replace(plan, offsets={**plan.offsets, mid: plan.offsets[up]})
    expected, _ = run(plan, {"num_tokens": 9}, InOrder())
    assert any(not same(run(broken, {"num_tokens": 9}, policy(s))[0], expected) for s in range(30))


def test_bad_steps_are_refused() -> None:
    plan = compile_plan(decoder(1), SMALL_CPU)
    symbols, inputs = decoder_step(LIMITS)
    for bad, words in (
        ({"num_tokens": 0}, r"symbol 'num_tokens' must be in \[1, 9\], got 0"),
        ({"num_rows": 1}, "requires num_rows - num_samples >= 0"),
    ):
        with pytest.raises(ProgramError, match=words):
            run(plan, {**symbols, **bad}, Random(0), inputs)
    for name, values, words in (
        ("slot", [0, 0, 1, 2, 3, 4, 5], "'slot' breaks its invariant 'distinct'"),
        ("tile_indptr", [0, 2, 2, 5, 7], "'tile_indptr' breaks its invariant 'increasing'"),
        ("seq", [9, 0, 0, 0, 0, 1, 1], "'seq' breaks its invariant 'within': value 9 is outside"),
    ):
        with pytest.raises(ProgramError, match=words):
            run(plan, symbols, Random(0), {**inputs, name: np.array(values, np.int32)})
    with pytest.raises(ProgramError, match="weight 'w1' of plan 'mlp' was not given"):
        Interpreter(compile_plan(mlp(), SMALL_CPU))


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@pytest.mark.parametrize("seed", range(6))
def test_a_decode_step_may_read_pages_that_are_shared(seed: int) -> None:
    """Two sequences with one copy of their common beginning, or with two: the same bits, in any order."""
    limits = replace(LIMITS, max_tokens=2, max_seq_len=24, num_pages=8)
    plan = compile_plan(decoder(1, decode=True, limits=limits), SMALL_GPU)
    rng = np.random.default_rng(seed)
    chunks = [Chunk(0, 8, 1), Chunk(1, 13, 1)]
    apart = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 0, 0]], np.int32)
    together = np.array([[1, 2, 3, 0, 0, 0], [1, 2, 6, 7, 0, 0]], np.int32)
    states = drawn(plan, "state", {}, seed)
    for name, cache in states.items():
        if name.endswith("_cache"):
            cache[:, 4 * 4 : 6 * 4] = cache[:, 1 * 4 : 3 * 4]  # pages 4 and 5 hold what 1 and 2 do
    states["tokens"][:] = rng.integers(0, 20, states["tokens"].shape)
    found = []
    for table in (apart, together):
        step = make_step(limits, chunks, 1, table, splits=3)
        own = {name: state.copy() for name, state in states.items()}
        kernel = Interpreter(plan, drawn(plan, "weight", {}), own)
        names = {t.name for t in plan.tensors.values() if t.role == "input"}
        symbols = {k: v for k, v in step.symbols.items() if k in plan.symbols}
        found.append(kernel.run(symbols, {k: v for k, v in step.inputs.items() if k in names}, Adversarial(seed)))
    assert same(*found)
    table = together.copy()
    table[0, 2] = 6
    step = make_step(limits, chunks, 1, table, splits=3)
    with pytest.raises(ProgramError, match=r"'block_table' breaks its invariant 'single': 6, which is written to"):
        kernel.run({k: v for k, v in step.symbols.items() if k in plan.symbols}, {k: step.inputs[k] for k in names}, InOrder())
