"""Steps of 16 to 300 tokens on a GPU: wide products, slabs of k, attention on tensor cores; prompts and batches mixed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eventide.backends.cuda.kernel import CudaKernel
from eventide.backends.cuda.layout import TIGHT
from eventide.engine.steps import Chunk, Step, make_step
from eventide.ir.nodes import Plan
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.passes.pipeline import compile_plan
from tests.backends.cuda.gpu import H200, clear_caches, config, open_kernel, reference

pytestmark = pytest.mark.gpu
SPLIT: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 1536}
# tokens a task, slabs (1: none, outputs to the residual end in half a norm), whether weights stand in 12 bits, the model
KINDS: dict[str, tuple[int, int, bool, dict[str, Any]]] = {
    "16": (16, 1, False, {"intermediate_size": 4352}),  # longer than a round of k, by less than a slab
    "16 slabs": (16, 4, False, {**SPLIT, "qk_norm": False, "qkv_bias": True}),  # blocks of 32 rows
    "16 slabs tight": (16, 4, True, {"hidden_size": 768, "intermediate_size": 1536, "num_heads": 12}),  # six lines a slab
    "32 tight": (32, 1, True, {"hidden_size": 896, "intermediate_size": 1536}),
    "16 tight, bias": (16, 1, True, {**SPLIT, "qk_norm": False, "qkv_bias": True, "head_dim": 128, "num_kv_heads": 1}),
    "64": (64, 4, False, {**SPLIT, "vocab_size": 1008}),
    "64 tight, bias": (64, 4, True, {**SPLIT, "qk_norm": False, "qkv_bias": True, "head_dim": 128, "num_kv_heads": 1}),
    "128": (128, 2, True, SPLIT),  # steps of several tiles
    "256": (256, 2, True, SPLIT),  # as the engine's kernel for prompts
    # the warpgroups' products by turns: five blocks a worker, seven lines each; elsewhere a worker has one or two blocks
    "256 few workers": (256, 2, True, {"hidden_size": 896, "intermediate_size": 1536}),
    "64 whole": (64, 0, True, {"hidden_size": 384, "tie_word_embeddings": False}),
}


MOST = {128: 300, 256: 300}  # tokens of a step, where it has several tiles
WORKERS = {"256 few workers": 20}
# of one attention task; the others' tiles of 4 tokens are walked as those of one
QUERIES = {"64": 32, "128": 32, "256": 32, "256 few workers": 32}


def limits_of(tokens: int) -> Limits:
    most = MOST.get(tokens, tokens)
    return Limits(max_tokens=most, max_rows=tokens, max_seqs=min(tokens, 64), max_seq_len=max(128, 2 * most), page_size=16)


def plan_of(kind: str, verify: bool = True, loose: bool = False) -> tuple[Plan, ModelConfig, Limits]:
    """`loose`: with weights of 16 bits, whatever the kind has."""
    tokens, splits, tight, changes = KINDS[kind]
    c, limits = config(**changes), limits_of(tokens)
    program = build_decoder(c, limits, "bfloat16", splits=splits, trim=False)
    made_for = replace(H200, num_workers=WORKERS.get(kind, H200.num_workers), tile_tokens=tokens, tile_queries=QUERIES.get(kind, 1))
    made_for = replace(made_for, tight=tight and not loose, slim=splits == 1)
    return compile_plan(program, made_for, verify=verify), c, limits


def steps_of(limits: Limits, queries: int = 4) -> list[Step]:
    """A prompt longer than a step, one of three tokens beside its end, then both decode with a third one."""
    n = limits.max_tokens
    some = [
        [Chunk(0, 0, n, rows="none", sample=False)],
        [Chunk(0, n, n // 2, rows="last"), Chunk(1, 0, 3)],
        [Chunk(0, n + n // 2, 1), Chunk(1, 3, 1), Chunk(2, 0, 7)],
        *([Chunk(0, n + n // 2 + 1 + i, 1), Chunk(1, 4 + i, 1), Chunk(2, 7 + i, 1)] for i in range(4)),
    ]
    return [make_step(limits, chunks, queries) for chunks in some]


def run(kernel: CudaKernel, steps: list[Step], limits: Limits, vocab: int) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Each step's outputs, and the histories at the end. What the steps draw overwrites the drawn prompts' ends."""
    rng = np.random.default_rng(3)
    kernel.write_state("tokens", rng.integers(0, vocab, (limits.max_seqs, limits.max_seq_len + 1)).astype(np.int32))
    return [kernel.run([s])[0] for s in steps], kernel.read_state("tokens")


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_steps_against_float32(kind: str) -> None:
    plan, c, limits = plan_of(kind, verify=KINDS[kind][0] <= 64)  # 300 tokens a step take the verifier minutes; it accepts it
    kernel = open_kernel(plan, c)
    steps = steps_of(limits, QUERIES.get(kind, 4))
    got, tokens = run(kernel, steps, limits, c.vocab_size)
    want = [reference(c, plan, tokens[s, : max(112, limits.max_tokens * 3 // 2 + 8)].tolist()) for s in range(3)]
    worst = 0.0
    for step, outputs in zip(steps, got):
        for row in range(step.symbols["num_samples"]):
            logits = want[step.inputs["row_seq"][row]][step.inputs["row_pos"][row]].astype(np.float64)
            worst = max(worst, float(np.linalg.norm(outputs["logits"][row] - logits) / np.linalg.norm(logits)))
            assert logits.max() - logits[outputs["next_token"][row]] < 0.05 * logits.std() + 0.05
    assert 1e-5 < worst < 0.03, f"relative error of the logits {worst}"
    print(f"{kind}: relative error of the logits {worst:.4f}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("128", "64 whole")])
def test_workers_delayed_and_memory_poisoned_give_the_same_bits(kind: str) -> None:
    plan, c, limits = plan_of(kind, verify=False)
    plain = open_kernel(plan, c)
    steps = steps_of(limits, QUERIES.get(kind, 4))
    want, tokens = run(plain, steps, limits, c.vocab_size)
    for kernel in (plain, open_kernel(plan, c, memory=plain.memory, delay_ns=50_000)):
        kernel.poison()
        again, history = run(kernel, steps, limits, c.vocab_size)
        assert all(np.array_equal(a[n], b[n]) for a, b in zip(want, again) for n in a) and np.array_equal(history, tokens)


@pytest.mark.parametrize("kind", ["16 slabs tight", "64 tight, bias", "256 few workers"])
def test_weights_of_12_bits_give_the_bits_of_16(kind: str) -> None:
    """Of which one in some ten thousand is listed: so few that a model without them would pass for right."""
    plan, c, limits = plan_of(kind, verify=False)
    loose, _, _ = plan_of(kind, verify=False, loose=True)
    layouts = [{t.layout for t in p.tensors.values()} for p in (plan, loose)]
    assert TIGHT in layouts[0] and TIGHT not in layouts[1]
    steps = steps_of(limits, QUERIES.get(kind, 4))
    (got, history), (want, other) = (run(open_kernel(p, c), steps, limits, c.vocab_size) for p in (plan, loose))
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(got, want) for n in a) and np.array_equal(history, other)


def test_a_token_does_not_see_who_shares_its_step() -> None:
    plan, c, limits = plan_of("64", verify=False)
    kernel = open_kernel(plan, c)
    alone = make_step(limits, [Chunk(5, 0, 9)], 4)
    crowd = make_step(limits, [Chunk(s, 0, 9) for s in (3, 5, 1)] + [Chunk(7, 0, 30)], 4)
    at = crowd.inputs["row_seq"].tolist().index(5)
    (one,), _ = run(kernel, [alone], limits, c.vocab_size)
    (many,), _ = run(kernel, [crowd], limits, c.vocab_size)
    assert np.array_equal(one["logits"][0], many["logits"][at])


@pytest.mark.parametrize("kind", ["16 tight, bias", "64 tight, bias"])
def test_many_launches_of_random_mixtures_repeat_themselves(kind: str) -> None:
    plan, c, limits = plan_of(kind, verify=False)
    kernel = open_kernel(plan, c)
    rng = np.random.default_rng(11)
    steps = []
    for _ in range(40):
        seqs, left, chunks = rng.permutation(limits.max_seqs), limits.max_tokens, []
        for s in seqs[: rng.integers(1, limits.max_seqs + 1)]:
            count = min(left, int(rng.integers(1, 12)))
            if count:
                chunks.append(Chunk(int(s), int(rng.integers(0, 110)), count))
                left -= count
        steps.append(make_step(limits, chunks, 4))
    found = []
    for _ in range(2):
        kernel.poison()
        clear_caches(kernel)
        found.append(run(kernel, steps, limits, c.vocab_size)[0])
    assert all(np.isfinite(o["logits"]).all() for o in found[0])
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(*found) for n in a)


@pytest.mark.parametrize("kind", ["16 tight, bias", "64 tight, bias"])
def test_per_op_gives_the_same_bits(kind: str) -> None:
    plan, c, limits = plan_of(kind, verify=False)
    static = open_kernel(plan, c)
    tokens, splits, tight, _ = KINDS[kind]
    program = build_decoder(c, limits, "bfloat16", splits=splits, trim=False)
    other = compile_plan(program, replace(H200, tile_tokens=tokens, tight=tight, slim=splits == 1), "per_op", verify=False)
    graph = open_kernel(replace(other), c, memory=static.memory)
    steps = steps_of(limits)
    want, _ = run(static, steps, limits, c.vocab_size)
    got, _ = run(graph, steps, limits, c.vocab_size)
    assert all(np.array_equal(a[n], b[n]) for a, b in zip(want, got) for n in a)
