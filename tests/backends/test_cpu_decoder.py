"""Decoders on the CPU workers: the interpreter's results, bit for bit with the same tile functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eventide import LLM, _native
from eventide.backends import cpu
from eventide.backends.base import shape_of
from eventide.backends.cpu import Stop
from eventide.backends.policies import Adversarial, Random
from eventide.engine.steps import Chunk, Sampling, make_step
from eventide.errors import ProgramError

from . import decoders as d

pytestmark = pytest.mark.untraced  # repeats itself: counting lines would take longer than the tests
ISAS = [i for i in _native.supported_isas() if f"linear:{i}" in _native.compiled_ops()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("isa", ISAS)
def test_bits_of_the_interpreter_with_the_same_tiles(isa: str, dtype: str) -> None:
    c = d.config(qkv_bias=True, num_heads=6, num_kv_heads=2) if dtype == "float32" else d.config()
    plan = d.plan_of(c, dtype, workers=3)
    weights, tokens = d.random_weights(plan, c), d.prompts(c)
    steps = d.mixed_steps(1, 4)
    kernel = d.cpu_kernel(plan, weights, tokens, isa=isa, poison=True, check_counts=True)
    real = kernel.run(steps)
    for seed in range(2):
        policy = Random(seed) if seed % 2 else Adversarial(seed)
        for mine, theirs in zip(real, d.interpreted(plan, weights, tokens, steps, policy, kernel), strict=True):
            d.same_bits(mine, theirs)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_of_twelve_bits_change_nothing_but_their_size(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    c = d.config(hidden_size=64)
    plan = d.plan_of(c, "bfloat16", workers=3)
    weights, tokens, steps = d.random_weights(plan, c), d.prompts(c), d.mixed_steps(7, 4)
    packed = [t.name for t in plan.tensors.values() if t.layout != "plain"]
    # exceptions, and a weight that has too many of them
    weights[packed[0]][5, ::16] = 0
    weights[packed[1]] *= (2.0 ** np.random.default_rng(0).integers(-40, 0, weights[packed[1]].shape)).astype(np.float32)
    options = {"isa": isa, "poison": True, "check_counts": True}

    def close(wide: cpu.CpuKernel, narrow: cpu.CpuKernel) -> None:
        for mine, theirs in zip(wide.run(steps), narrow.run(steps), strict=True):
            if isa != "avx2":
                d.same_bits(mine, theirs)
                continue
            # products of integers (device/cpu/fixed.h); where one changes how a value is rounded, later ones follow
            a, b = (np.asarray(outputs["logits"], np.float64) for outputs in (mine, theirs))
            assert np.linalg.norm(a - b) <= 0.01 * np.linalg.norm(a)

    wide, narrow = (d.cpu_kernel(plan, weights, tokens, **options, narrow=n) for n in (False, True))
    share = {name: narrow.weight_bytes[name] / wide.weight_bytes[name] for name in weights}
    assert {name for name in weights if share[name] == 1} == {*weights} - {*packed} | {packed[1]}
    assert all(share[name] < 0.9 for name in packed if name != packed[1])
    close(wide, narrow)
    fresh = d.cpu_kernel(plan, weights, tokens, **options, narrow=True)
    for mine, theirs in zip(fresh.run(steps), d.interpreted(plan, weights, tokens, steps, Random(1), narrow), strict=True):
        d.same_bits(mine, theirs)
    # a weight that is bound again may come in the other form
    for name in packed:
        monkeypatch.setattr(narrow, "_narrow", {packed[2]})
        narrow.bind_weights(name, weights[name])
    assert {n for n in packed if narrow.weight_bytes[n] != wide.weight_bytes[n]} == {packed[2]}
    for kernel in (wide, narrow):
        kernel.states["tokens"][:, : tokens.shape[1]] = tokens
    close(wide, narrow)


@pytest.mark.parametrize("isa", ISAS)
def test_trained_weights_of_twelve_bits_stay_within_bfloat16(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float32, logits of the bundled model are off as far in 12 bits as in 16: integers add nothing to bfloat16's error."""
    monkeypatch.setenv("EVENTIDE_CPU_ISA", isa)
    text = "Once upon a time there was a little fox who lived in a forest. What is 12 plus 30? It is 42. " * 4

    def logits(dtype: str) -> np.ndarray:
        llm = LLM("eventide-tiny", device="cpu", dtype=dtype, num_threads=1)
        return llm.logits(llm.tokenizer.encode(text)).astype(np.float64)

    want, wide = logits("float32"), logits("bfloat16")
    monkeypatch.setattr(cpu, "NARROW_FROM_BYTES", 0)
    narrow = logits("bfloat16")
    off = [np.linalg.norm(found - want, axis=1) / np.linalg.norm(want, axis=1) for found in (wide, narrow)]
    if isa == "avx2":
        assert (wide != narrow).any(), "integers were multiplied"
    assert np.median(off[1]) < 1.3 * np.median(off[0]) < 0.01
    assert off[1].max() < 1.5 * off[0].max()


def test_which_weights_are_packed_in_twelve_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    c = d.config()

    def narrow_weights(dtype: str, **options: Any) -> bool:
        plan = d.plan_of(c, dtype)
        kernel = d.cpu_kernel(plan, d.random_weights(plan, c), d.prompts(c), **options)
        two_bytes = {t.name: 2 * int(np.prod(shape_of(t, {}))) for t in plan.tensors.values() if t.layout != "plain"}
        return any(kernel.weight_bytes[n] < two_bytes[n] for n in two_bytes)

    assert not narrow_weights("bfloat16"), "small weights may stay in a cache"
    assert not narrow_weights("float32", narrow=True)
    monkeypatch.setattr(cpu, "NARROW_FROM_BYTES", 0)
    assert narrow_weights("bfloat16", isa="portable") is False
    assert narrow_weights("bfloat16") == (ISAS[0] != "portable")
    monkeypatch.setattr(cpu, "NARROW_OPS", {"embed"})
    assert not narrow_weights("bfloat16", narrow=True), "linear would not understand them"


@pytest.mark.slow
def test_bits_over_many_interleavings() -> None:
    c = d.config(num_layers=1, vocab_size=37)
    plan = d.plan_of(c, workers=4)
    weights, tokens = d.random_weights(plan, c), d.prompts(c)
    steps = d.mixed_steps(5, 2)
    kernel = d.cpu_kernel(plan, weights, tokens, delay_ns=30_000)
    real = kernel.run(steps)
    for seed in range(20):
        policy = Random(seed) if seed % 2 else Adversarial(seed)
        for mine, theirs in zip(real, d.interpreted(plan, weights, tokens, steps, policy, kernel), strict=True):
            d.same_bits(mine, theirs)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_close_to_the_references(dtype: str, tolerance: float) -> None:
    c = d.config()
    plan = d.plan_of(c, dtype)
    weights, tokens = d.random_weights(plan, c), d.prompts(c)
    steps = [make_step(d.LIMITS, [Chunk(0, 0, 6, "all"), Chunk(2, 0, 19, "none")], d.TILE_QUERIES)]
    (real,) = d.cpu_kernel(plan, weights, tokens).run(steps)
    (expected,) = d.interpreted(plan, weights, tokens, steps, Random(0), None)
    error = np.linalg.norm(real["logits"] - expected["logits"]) / np.linalg.norm(expected["logits"])
    assert error < tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_schedules_workers_and_delays_agree_bit_for_bit(dtype: str) -> None:
    c = d.config()
    steps = d.mixed_steps(2, 6)
    results = []
    ways = [("static", 2, 0), ("per_op", 2, 0), ("static", 1, 0), ("per_op", 3, 20_000), ("static", 5, 20_000)]
    for schedule, workers, delay in ways:
        plan = d.plan_of(c, dtype, schedule, workers)
        kernel = d.cpu_kernel(
            plan, d.random_weights(plan, c), d.prompts(c), poison=True, check_counts=True, delay_ns=delay
        )
        results.append(kernel.run(steps))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            d.same_bits(a, b)


def test_a_thousand_launches_of_mixed_shapes_without_a_reset() -> None:
    c = d.config(num_layers=1)
    plan = d.plan_of(c)
    weights = d.random_weights(plan, c)
    steps = d.mixed_steps(3, 1500)
    one = d.cpu_kernel(plan, weights, d.prompts(c), check_counts=True)
    first = [out for k in range(0, len(steps), 3) for out in one.run(steps[k : k + 3])]
    other = d.plan_of(c, workers=1)
    second = d.cpu_kernel(other, weights, d.prompts(c), poison=True).run(steps)
    for a, b in zip(first, second, strict=True):
        d.same_bits(a, b)


def test_a_refused_step_leaves_nothing_behind() -> None:
    c = d.config(num_layers=1)
    plan = d.plan_of(c)
    weights = d.random_weights(plan, c)
    kernel, fresh = (d.cpu_kernel(plan, weights, d.prompts(c), check_counts=True) for _ in range(2))
    first, second = d.mixed_steps(8, 2)
    kernel.run([first])
    broken = type(second)(second.symbols, {**second.inputs, "slot": second.inputs["slot"] + 10**6})
    with pytest.raises(ProgramError, match="run-time table 'slot' breaks its invariant 'within'"):
        kernel.run([broken])
    d.same_bits(kernel.run([second])[0], fresh.run([first, second])[1])


def decode_inputs(
    start: int, count: int, seqs: int = 2, temperature: float = 0.0
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    sampling = Sampling(temperature, seed=7)
    steps = [
        make_step(d.LIMITS, [Chunk(s, start + k, 1, sampling=sampling) for s in range(seqs)], d.TILE_QUERIES)
        for k in range(count)
    ]
    inputs = dict(steps[0].inputs)
    for name in ("pos", "slot", "row_pos"):
        inputs[name] = np.stack([s.inputs[name] for s in steps])
    return steps[0].symbols, inputs


STACKED = ("pos", "slot", "row_pos")


def test_the_token_loop_equals_single_steps() -> None:
    c = d.config()
    plan = d.plan_of(c)
    weights, tokens = d.random_weights(plan, c), d.prompts(c)
    a, b = (d.cpu_kernel(plan, weights, tokens) for _ in range(2))
    prefill = make_step(d.LIMITS, [Chunk(0, 0, 9), Chunk(1, 0, 9)], d.TILE_QUERIES)
    a.run([prefill])
    b.run([prefill])
    symbols, inputs = decode_inputs(9, 20, temperature=0.7)
    seen: list[int] = []
    loop = a.run_loop(
        symbols, inputs, 20, stacked=STACKED, keep=["next_token"], on_progress=lambda done, out: seen.append(done)
    )
    singles = [
        b.run(
            [
                make_step(
                    d.LIMITS, [Chunk(s, 9 + k, 1, sampling=Sampling(0.7, seed=7)) for s in range(2)], d.TILE_QUERIES
                )
            ]
        )[0]
        for k in range(20)
    ]
    assert loop.num_steps == 20 and seen == list(range(1, 21))
    np.testing.assert_array_equal(loop.outputs["next_token"], np.stack([s["next_token"] for s in singles]))
    np.testing.assert_array_equal(loop.outputs["logits"], singles[-1]["logits"])
    np.testing.assert_array_equal(a.states["tokens"], b.states["tokens"])


def test_stop_rules_callbacks_and_progress() -> None:
    c = d.config()
    plan = d.plan_of(c)
    kernel = d.cpu_kernel(plan, d.random_weights(plan, c), d.prompts(c))
    kernel.run([make_step(d.LIMITS, [Chunk(0, 0, 9), Chunk(1, 0, 9)], d.TILE_QUERIES)])
    symbols, inputs = decode_inputs(9, 24, temperature=1.5)
    drawn = kernel.run_loop(symbols, inputs, 24, stacked=STACKED).outputs["next_token"]
    row0, row1 = drawn[:, 0].tolist(), drawn[:, 1].tolist()
    eos = np.array([[row0[6], -1], [row1[11], row1[4]]])
    first = [min(row0.index(row0[6]), len(row0)), min(row1.index(row1[11]), row1.index(row1[4]))]
    for when, expected in (("any", min(first) + 1), ("all", max(first) + 1)):
        loop = kernel.run_loop(symbols, inputs, 24, stacked=STACKED, stop=Stop("next_token", eos, when))
        assert loop.num_steps == expected
        np.testing.assert_array_equal(loop.outputs["next_token"], drawn[:expected])
    assert kernel.run_loop(symbols, inputs, 24, stacked=STACKED, on_progress=lambda done, out: done == 3).num_steps == 3
    assert kernel.steps_done == 3
    # with a long interval only the last call is certain
    seen: list[int] = []
    kernel.run_loop(
        symbols, inputs, 24, stacked=STACKED, on_progress=lambda done, out: seen.append(done), interval_s=60.0
    )
    assert seen == [1, 24]
