"""On a GPU: models against float32 references, many launches, launches cut short, poisoned memory, delayed workers."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import eventide
from eventide import target
from eventide.backends.cpu import Stop
from eventide.backends.cuda.driver import Device
from eventide.backends.cuda.kernel import CudaKernel
from eventide.engine.steps import Chunk, Sampling, Step, decode_tables, default_block_table, make_step, split_tables
from eventide.errors import OutOfMemoryError, ProgramError, StuckError, TensorError
from eventide.ir.nodes import Plan
from eventide.ops.program import Program
from tests.backends.cuda.gpu import (
    LIMITS,
    SHAPES,
    apart,
    clear_caches,
    config,
    decode_steps,
    need_gpu,
    open_kernel,
    plan_of,
    plan_of_one,
    prompt_steps,
    reference,
    write_tokens,
)

pytestmark = pytest.mark.gpu
DELAY = 50_000  # nanoseconds: far longer than a task of these models takes


def prompts_of(lengths: tuple[int, ...], seed: int = 0, vocab: int = 1003) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n) for n in lengths]


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x[n], y[n]) for x, y in zip(a, b) for n in x)


FEW = [("qwen3", 4), ("qwen2", 4), ("long", 4), ("narrow", 3)]
MODELS = [*((shape, 8, 8) for shape in SHAPES), *((shape, tile, 8) for shape, tile in FEW), ("qwen2", 8, 16)]


@pytest.mark.parametrize("shape, tile, most", MODELS)
def test_models_teacher_forced(shape: str, tile: int, most: int) -> None:
    """Prompts in steps of `most` tokens, then three sequences with a token each in the kernel for up to `tile`."""
    c, limits = config(**SHAPES[shape]), replace(LIMITS, max_tokens=most)
    mixed = open_kernel(plan_of(c, limits), c)
    decode = open_kernel(plan_of(c, decode=True, tile=tile), c, memory=mixed.memory)
    prompts = prompts_of((5, 19, 3))
    write_tokens(mixed, prompts)
    read, more = prompt_steps(prompts, limits), decode_steps([5, 19, 3], 12, splits=4)
    # one step a launch, so that all logits can be compared
    got = [mixed.run([s])[0] for s in read] + [decode.run([s])[0] for s in more]
    tokens = mixed.read_state("tokens")
    want = [reference(c, mixed.plan, tokens[s, : len(p) + 13].tolist()) for s, p in enumerate(prompts)]
    worst = largest_error(read + more, got, want)
    print(f"{shape}: relative error of the logits {worst:.4f}")


PASTS = (700, 5, 127, 1, 256, 257, 128, 130)  # around the spans of 128 positions that attention walks
MORE_PASTS = (64, 3, 200, 65, 129)  # so that the second eight of a product's 16 tokens are there
ALONE = {
    "wide heads": {"head_dim": 256, "num_heads": 4}, "groups of seven": {"head_dim": 32, "num_heads": 28, "num_kv_heads": 4},
    "all heads": {"head_dim": 32, "num_heads": 12, "num_kv_heads": 12},
    "eight lines": {"hidden_size": 1024, "intermediate_size": 1408}, "not direct": {"hidden_size": 1408},
}  # fmt: skip
OF_ONE_EACH = [(16, 4, "qwen3", 132), (16, 1, "llama", 132), (64, 4, "qwen2", 132), (64, 4, "wide heads", 132)]
# few workers: runs of more heads than warps
OF_ONE_EACH += [(32, 4, "groups of seven", 132), (16, 4, "all heads", 7), (16, 1, "llama", 7)]
# a warp's columns of a direct product stay or change from block to block, and may be of several lines
OF_ONE_EACH += [(16, 4, "eight lines", 7), (16, 4, "qwen2", 132), (16, 4, "not direct", 132)]
OF_PASTS = [(8, 1, "qwen3"), (8, 2, "llama"), (4, 5, "qwen2"), (1, 1, "qwen3"), (1, 3, "qwen3")]


@pytest.mark.parametrize("tile, splits, shape", OF_PASTS)
def test_pasts_of_several_spans(tile: int, splits: int, shape: str) -> None:
    """A token each of as many sequences as a tile holds; the other tests' contexts fit in one span."""
    c, seqs = config(**SHAPES[shape]), range(len(PASTS))
    limits = replace(LIMITS, max_seqs=len(PASTS), max_rows=len(PASTS), max_seq_len=768)
    mixed = open_kernel(plan_of(c, limits), c)
    held = replace(limits, max_tokens=tile, max_rows=tile)
    plan = plan_of_one(c, held) if tile == 1 else plan_of(c, held, decode=True, tile=tile)
    decode = open_kernel(plan, c, memory=mixed.memory)
    prompts = prompts_of(PASTS)
    write_tokens(mixed, prompts, limits)
    mixed.run(prompt_steps(prompts, limits))
    together = [seqs[first : first + tile] for first in seqs[::tile]]
    more = [make_step(held, [Chunk(s, PASTS[s] + i, 1) for s in some], 1, splits=splits) for i in range(3) for some in together]
    got = [decode.run([s])[0] for s in more]
    tokens = mixed.read_state("tokens")
    want = [reference(c, mixed.plan, tokens[s, : len(p) + 4].tolist()) for s, p in enumerate(prompts)]
    print(f"{shape}, tile {tile}: relative error of the logits {largest_error(more, got, want):.4f}")
    assert same(got, [decode.run([s])[0] for s in more])


@pytest.mark.parametrize("tile, splits, shape, workers", OF_ONE_EACH)
def test_tokens_alone_of_their_sequences(tile: int, splits: int, shape: str, workers: int) -> None:
    """In a kernel that rotates, appends and attends to the whole past in one operator; no numbers beyond each sequence's end;
    workers delayed, the same bits."""
    pasts = (*PASTS, *MORE_PASTS) if tile == 16 else PASTS
    c = config(**{**ALONE.get(shape, {}), **SHAPES.get(shape, {})})
    limits = replace(LIMITS, max_seqs=len(pasts), max_rows=len(pasts), max_seq_len=768)
    mixed = open_kernel(plan_of(c, limits), c)
    held = replace(limits, max_tokens=tile)
    plan = plan_of(c, held, decode=True, tile=tile, splits=splits, workers=workers)
    decode = open_kernel(plan, c, memory=mixed.memory)
    prompts = prompts_of(pasts, vocab=c.vocab_size)
    write_tokens(mixed, prompts, limits)
    mixed.run(prompt_steps(prompts, limits))
    tokens = mixed.read_state("tokens")
    caches = {t.name: mixed.read_state(t.name) for t in plan.tensors.values() if t.name.endswith("_cache")}
    table = make_step(held, [Chunk(0, pasts[0], 1)], 1).inputs["block_table"]
    for name, cache in caches.items():
        for s, n in enumerate(pasts):
            beyond = np.arange(n, limits.max_seq_len)
            cache[:, table[s, beyond // limits.page_size] * limits.page_size + beyond % limits.page_size] = np.nan
        mixed.write_state(name, cache)
    groups = [range(len(pasts)), (6, 1, 3), range(len(pasts))]  # a sequence that stops meanwhile, and goes on
    ahead, steps = [0] * len(pasts), []
    for some in groups:
        steps.append(make_step(held, [Chunk(s, pasts[s] + ahead[s], 1) for s in some], 1))
        ahead = [n + (s in some) for s, n in enumerate(ahead)]
    got = [decode.run([s])[0] for s in steps]
    history = mixed.read_state("tokens")
    want = [reference(c, mixed.plan, history[s, : len(p) + 4].tolist()) for s, p in enumerate(prompts)]
    print(f"{shape}, tile {tile}: relative error of the logits {largest_error(steps, got, want):.4f}")
    written = {name: mixed.read_state(name) for name in caches}
    for kernel in (decode, open_kernel(plan, c, memory=mixed.memory, delay_ns=DELAY)):
        mixed.write_state("tokens", tokens)
        for name, cache in caches.items():
            mixed.write_state(name, cache)
        kernel.poison()
        assert same(got, [kernel.run([s])[0] for s in steps])
        assert all(np.array_equal(mixed.read_state(name), cache, equal_nan=True) for name, cache in written.items())


def largest_error(steps: list[Step], got: list[dict[str, np.ndarray]], want: list[np.ndarray]) -> float:
    """Of the rows' logits, relative; tokens and log-probabilities are looked at, too."""
    worst = 0.0
    for step, outputs in zip(steps, got):
        for row in range(step.symbols["num_samples"]):
            logits = want[step.inputs["row_seq"][row]][step.inputs["row_pos"][row]].astype(np.float64)
            error = np.linalg.norm(outputs["logits"][row] - logits) / np.linalg.norm(logits)
            worst = max(worst, float(error))
            token = outputs["next_token"][row]
            # a token that isn't the best must be within rounding of it
            assert logits.max() - logits[token] < 0.05 * logits.std() + 0.05
            logprob = logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            assert abs(float(outputs["logprob"][row]) - logprob) < 0.08
    assert 1e-5 < worst < 0.03, f"relative error of the logits {worst}"
    return worst


def relative(got: np.ndarray, want: np.ndarray) -> float:
    got = got.astype(np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_between_the_operators(shape: str) -> None:
    """Every activation of every layer against float64 arithmetic, for a prompt and for a token after it."""
    c = config(**SHAPES[shape])
    mixed = open_kernel(apart(plan_of(c)), c)
    one = open_kernel(apart(plan_of_one(c)), c, memory=mixed.memory)
    (prompt,) = prompts_of((24,), vocab=c.vocab_size)
    write_tokens(mixed, [prompt])
    want: dict[str, np.ndarray] = {}
    errors: dict[str, float] = {}
    for first in range(0, 24, 8):
        mixed.run([make_step(LIMITS, [Chunk(0, first, 8, rows="none", sample=False)], 1)])
        if first == 0:
            reference(c, mixed.plan, prompt.tolist(), want, np.float64)
        for name in [n for n in want if n in mixed.plan.tensors]:
            error = relative(mixed.read_state(name), want[name][first : first + 8])
            errors[name] = max(errors.get(name, 0.0), error)
    one.run([make_step(replace(LIMITS, max_tokens=1, max_rows=1), [Chunk(0, 23, 1)], 1, splits=3)])
    for name in [n for n in want if n in one.plan.tensors and not n.endswith(".attn")]:
        errors[f"{name} of one token"] = relative(one.read_state(name)[0], want[name][23])
    assert len(errors) >= 11 * c.num_layers
    # roundings to bfloat16 add up from layer to layer
    bad = {name: error for name, error in errors.items() if not 1e-4 < error < 0.02}
    assert not bad, bad
    print(f"{shape}: largest relative error {max(errors.values()):.4f}")


def test_one_token_kernel_agrees_with_the_mixed_one() -> None:
    c = config()
    mixed = open_kernel(plan_of(c), c)
    one = open_kernel(plan_of_one(c), c, memory=mixed.memory)
    (prompt,) = prompts_of((21,))
    write_tokens(mixed, [prompt])
    mixed.run(prompt_steps([prompt]))
    table = default_block_table(LIMITS)
    symbols, inputs, stacked = decode_tables(LIMITS, [Chunk(0, 21, 1)], 40, table)
    a = mixed.run_loop(symbols, inputs, 40, stacked=stacked)
    inputs |= split_tables(LIMITS, 61, 4)
    symbols["num_splits"] = len(inputs["split_begin"])
    b = one.run_loop(symbols, inputs, 40, stacked=stacked - {"slot"})
    # bfloat16 roundings differ with the order of sums: the same tokens until two are nearly as likely
    agreeing = int((np.cumprod(a.outputs["next_token"][:, 0] == b.outputs["next_token"][:, 0])).sum())
    assert agreeing >= 1
    assert np.abs(a.outputs["logprob"][:agreeing] - b.outputs["logprob"][:agreeing]).max() < 0.1


def test_1000_launches_with_fresh_prompts_some_stopped() -> None:
    c = config()
    mixed = open_kernel(plan_of(c), c)
    decode = open_kernel(plan_of(c, decode=True), c, memory=mixed.memory)
    lengths = ((5, 11, 3), (40, 1, 17), (2, 30, 9), (8, 8, 64))
    first: dict[int, np.ndarray] = {}
    stopped = 0
    for turn in range(1000):
        kind = turn % 8
        prompts = prompts_of(lengths[kind % 4], seed=kind)
        write_tokens(mixed, prompts)
        mixed.poison()
        decode.poison()
        mixed.run(prompt_steps(prompts))
        steps = decode_steps([len(p) for p in prompts], 24, splits=1 + kind % 3)
        cut = turn % 5 == 4
        found = decode.run(steps, on_step=lambda k, _, cut=cut: cut and k == 6)
        assert len(found) == 24 or (cut and len(found) >= 7)
        stopped += len(found) < 24
        drawn = np.concatenate([np.stack([o["next_token"] for o in found]), np.stack([o["logprob"] for o in found])])
        n = len(found)
        if not cut and kind not in first:
            first[kind] = drawn
        elif kind in first:
            want = first[kind]
            assert np.array_equal(drawn[:n], want[: len(want) // 2][:n]), f"tokens of launch {turn}"
            assert np.array_equal(drawn[n:], want[len(want) // 2 :][:n]), f"log-probabilities of launch {turn}"
    print(f"{stopped} of 1,000 launches ended early")
    assert stopped


@pytest.mark.parametrize("decode", [False, True])
def test_delayed_workers_give_the_same_bits(decode: bool) -> None:
    c = config()
    prompts = prompts_of((5, 11, 3))
    found = []
    for delay in (0, DELAY):
        mixed = open_kernel(plan_of(c), c, delay_ns=delay)
        kernel = open_kernel(plan_of(c, decode=True), c, memory=mixed.memory, delay_ns=delay) if decode else mixed
        write_tokens(mixed, prompts)
        mixed.poison()
        kernel.poison()
        read = mixed.run(prompt_steps(prompts))
        found.append(read + kernel.run(decode_steps([5, 11, 3], 6, splits=3 if decode else 0)))
        mixed.close()
    assert same(*found)


def without_wait(plan: Plan, name: str) -> Plan:
    grids = tuple(replace(g, waits=()) if g.name == name else g for g in plan.grids)
    return replace(plan, grids=grids)


def test_a_removed_edge_is_seen_by_delayed_workers() -> None:
    c = config()
    plan = plan_of(c, verify=False)
    prompts = prompts_of((5, 11, 3))
    found = []
    for one in (plan, without_wait(plan, "layers.1.down")):
        assert one is plan or one.grids != plan.grids
        kernel = open_kernel(one, c, delay_ns=DELAY)
        write_tokens(kernel, prompts)
        kernel.poison()
        found.append(kernel.run(prompt_steps(prompts) + decode_steps([5, 11, 3], 6)))
    assert not same(*found)


def loop_arguments(n: int) -> tuple[dict, dict, frozenset]:
    return decode_tables(LIMITS, [Chunk(0, 4, 1, sampling=Sampling(temperature=1.0, seed=3))], n, default_block_table(LIMITS))


def test_tokens_come_while_the_kernel_runs_and_stop_rules_end_it() -> None:
    c = config()
    kernel = open_kernel(plan_of(c), c, delay_ns=DELAY)
    write_tokens(kernel, prompts_of((5,)))
    symbols, inputs, stacked = loop_arguments(100)
    told: list[int] = []
    whole = kernel.run_loop(symbols, inputs, 100, stacked=stacked, on_progress=lambda done, _: told.append(done))
    assert whole.num_steps == 100 and told[-1] == 100
    assert len(told) > 10, "progress must come before the end"
    clear_caches(kernel)
    write_tokens(kernel, prompts_of((5,)))
    drawn = whole.outputs["next_token"][:, 0]
    at = next(i for i in range(10, 100) if drawn[i] not in drawn[:i])
    cut = kernel.run_loop(symbols, inputs, 100, stacked=stacked, stop=Stop("next_token", [[int(drawn[at]), -1]]))
    assert cut.num_steps == at + 1
    assert np.array_equal(cut.outputs["next_token"], whole.outputs["next_token"][: at + 1])
    again = kernel.run_loop(symbols, inputs, 100, stacked=stacked)
    assert np.array_equal(again.outputs["next_token"], whole.outputs["next_token"])


def test_ctrl_c_ends_a_launch() -> None:
    c = config()
    kernel = open_kernel(plan_of(c), c, delay_ns=DELAY)
    write_tokens(kernel, prompts_of((5,)))
    symbols, inputs, stacked = loop_arguments(100)
    full = kernel.run_loop(symbols, inputs, 100, stacked=stacked)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.002, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(1000):
            kernel.run_loop(symbols, inputs, 100, stacked=stacked)
    assert time.perf_counter() - began < 2
    again = kernel.run_loop(symbols, inputs, 100, stacked=stacked)
    assert np.array_equal(again.outputs["next_token"], full.outputs["next_token"])


def test_a_stuck_kernel_says_so_and_can_be_used_again() -> None:
    c = config()
    plan = plan_of(c, verify=False)
    silent = replace(plan, grids=tuple(replace(g, notifies=()) if g.name == "layers.0.qkv" else g for g in plan.grids))
    good = open_kernel(plan, c)
    stuck = open_kernel(silent, c, memory=good.memory, spin_limit_s=0.05)
    steps = decode_steps([5, 11, 3], 4)
    write_tokens(good, prompts_of((5, 11, 3)))
    want = good.run(steps)
    for _ in range(2):
        with pytest.raises(StuckError, match=r"stopped making progress: worker \d+, step \d.* waited for .* of \d+ notifications"):
            stuck.run(steps)
    clear_caches(good)
    write_tokens(good, prompts_of((5, 11, 3)))
    assert same(good.run(steps), want)


def test_what_is_refused() -> None:
    c = config()
    kernel = open_kernel(plan_of(c), c)
    with pytest.raises(TensorError, match="weight 'norm': expected bfloat16"):
        kernel.bind_weights("norm", np.zeros(256, np.float32))
    with pytest.raises(ProgramError, match="no weight 'nothing'"):
        kernel.bind_weights("nothing", np.zeros(256, np.float32))
    with pytest.raises(ProgramError, match="can't share state 'tokens'"):
        CudaKernel(plan_of(c, replace(LIMITS, max_seqs=2)), memory=kernel.memory)
    hog = kernel.device.allocate(kernel.device.free_bytes()[0] - (64 << 20), "all but a little")
    with pytest.raises(OutOfMemoryError, match=r"needs \d+\.\d+ GiB of GPU memory, and \d+\.\d+ of .* are free"):
        CudaKernel(plan_of(config(vocab_size=400_000)), device=kernel.device)
    kernel.device.free(hog)
    bare = CudaKernel(kernel.plan, device=kernel.device)
    with pytest.raises(ProgramError, match="was not given"):
        bare.run(decode_steps([1], 1))


def test_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what was asked of the driver: how much is free on a GPU that tests in other processes use says nothing."""
    c = config()
    plan = plan_of(c)
    open_kernel(plan, c).close()  # what a process holds once
    gc.collect()  # what other tests have left
    asked: Counter[str] = Counter()
    call = Device.call

    def counted(self: Device, fn: Any, *args: Any, doing: str = "") -> Any:
        asked[fn.__name__] += 1
        return call(self, fn, *args, doing=doing)

    monkeypatch.setattr(Device, "call", counted)
    for _ in range(3):
        kernel = open_kernel(plan, c)
        write_tokens(kernel, prompts_of((5,)))
        kernel.run(decode_steps([4], 2))
        kernel.close()
        kernel.memory.close()
    for take, give in (("cuMemAlloc", "cuMemFree"), ("cuMemHostAlloc", "cuMemFreeHost"), ("cuModuleLoadData", "cuModuleUnload")):
        assert asked[take] == asked[give] >= 3, (take, asked)


def test_a_program_without_a_model_runs_on_the_gpu() -> None:
    need_gpu()
    p = Program("branches")
    t = p.symbol("num_tokens", 1, 8)
    x = p.input("x", (t, 64), "bfloat16")
    left = p.call("linear", x=x, w=p.weight("wl", (96, 64), "bfloat16"), name="left")
    right = p.call("linear", x=x, w=p.weight("wr", (96, 64), "bfloat16"), name="right")
    p.output(p.call("add", a=left, b=right, name="sum"), "y")
    rng = np.random.default_rng(0)
    w = {n: rng.standard_normal((96, 64)).astype("bfloat16") for n in ("wl", "wr")}
    kernel = eventide.compile(p, target=target.h200(), weights=w)
    other = eventide.compile(p, target=target.h200(), backend="interp", weights=w)
    for n in (1, 5, 8):
        array = rng.standard_normal((n, 64)).astype("bfloat16")
        a, b = (np.asarray(k(x=array), np.float32) for k in (kernel, other))
        assert np.abs(a - b).max() <= 0.02 * np.abs(b).max()
