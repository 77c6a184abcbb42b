"""Attention of a GPU alone: prompts, chunks and single tokens of one step against float32, in tiles of many queries and of few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from eventide import target
from eventide.backends.cuda.codegen import Config, generate
from eventide.backends.cuda.fit import compile_plan_source
from eventide.backends.cuda.kernel import CudaKernel
from eventide.ir.expr import Sum
from eventide.ir.nodes import Invariant, Plan
from eventide.ops.program import Program
from eventide.passes.pipeline import compile_plan
from eventide.target import Target
from tests.backends.cuda.gpu import need_gpu

TOKENS, SEQS, LENGTH = 256, 4, 512
Chunks = list[tuple[int, int, int]]  # sequence, first position, tokens
# query heads, KV heads, head size, page size, queries of a tile
KINDS: dict[str, tuple[int, int, int, int, int]] = {
    "group 4": (32, 8, 128, 64, 32),
    "group 1, pages of 16": (4, 4, 64, 16, 128),
    "group 2, pages of 16": (8, 4, 128, 16, 64),
    "group 8, pages of 128": (16, 2, 64, 128, 16),
    "group 16": (16, 1, 128, 64, 8),
    "group 7, more queries than a walk takes": (14, 2, 64, 64, 100),
}
# the same for tiles of 16 rows at most, and KiB of scratch memory, which decide how many blocks are under way
FEW: dict[str, tuple[int, int, int, int, int, int]] = {
    "group 4": (32, 8, 128, 64, 4, 100),
    "group 4, less scratch": (32, 8, 128, 64, 4, 88),
    "group 1, pages of 16": (9, 9, 32, 16, 16, 100),
    "group 8, pages of 128": (16, 2, 64, 128, 2, 100),
    "group 16": (16, 1, 128, 64, 1, 100),
    "group 3, pages of 8": (12, 4, 96, 8, 5, 100),
    "head size 256": (8, 2, 256, 64, 4, 152),
}
STEPS: list[Chunks] = [
    [(0, 0, 200)],
    [(0, 100, 130), (1, 70, 1), (2, 63, 17), (3, 511, 1)],
    [(3, 0, 1), (1, 3, 9), (2, 40, 64), (0, 65, 33), (3, 400, 111)],
]


@dataclass(frozen=True)
class Step:
    symbols: dict[str, int]
    inputs: dict[str, np.ndarray]


def plan_of(kind: str) -> Plan:
    heads, kv_heads, d, page, queries = KINDS[kind]
    return _plan((heads, kv_heads, d, page), replace(target.h200(tile_tokens=64), tile_queries=queries), append=False)


def plan_of_few(kind: str) -> Plan:
    """Keys and values are appended in the same step; of few workers, so that a run has several heads."""
    *sizes, queries, _ = FEW[kind]
    return _plan(sizes, replace(target.h200(20, tile_tokens=64), tile_queries=queries), append=True)


def config_of_few(kind: str) -> Config:
    return Config(slots=8, scratch=FEW[kind][-1] << 10)


def _plan(sizes: Sequence[int], made_for: Target, append: bool) -> Plan:
    heads, kv_heads, d, page = sizes
    p = Program("attention")
    tokens, tiles = p.symbol("num_tokens", 1, TOKENS), p.symbol("num_tiles", 1, TOKENS)
    p.require_at_most(tiles, tokens)

    def below(hi: int) -> list[Invariant]:
        return [Invariant("within", Sum(0), Sum(hi))]

    ends = [Invariant("partition", Sum(0), tokens), Invariant("increasing")]
    caches = {f"{x}_cache": p.state(f"{x}_cache", (kv_heads, SEQS * LENGTH, d), "bfloat16") for x in "kv"}
    pos = p.input("pos", (tokens,), "int32", below(LENGTH))
    if append:
        qkv = p.input("qkv", (tokens, (heads + 2 * kv_heads) * d), "bfloat16")
        q = p.call(
            "rope_append",
            q_in=qkv,
            k_in=qkv,
            v_in=qkv,
            pos=pos,
            slot=p.input("slot", (tokens,), "int32", [*below(SEQS * LENGTH), Invariant("distinct")]),
            rope=p.weight("rope", (LENGTH, d), "float32"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=d,
            **caches,
        )
    else:
        q = p.state("q", (TOKENS, heads * d), "bfloat16")
    y = p.call(
        "attention",
        q=q,
        **caches,
        pos=pos,
        tile_indptr=p.input("tile_indptr", (tiles + 1,), "int32", ends),
        tile_seq=p.input("tile_seq", (tiles,), "int32", below(SEQS)),
        block_table=p.input("block_table", (SEQS, LENGTH // page), "int32", below(SEQS * LENGTH // page)),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=d,
        page_size=page,
    )
    p.output(y, "y")
    return compile_plan(p, made_for)


def step_of(chunks: Chunks, queries: int, table: np.ndarray) -> Step:
    pos, ends, seqs, slot = [], [0], [], []
    page = LENGTH // table.shape[1]
    for seq, first, count in chunks:
        for t in range(0, count, queries):
            ends.append(len(pos) + min(t + queries, count))
            seqs.append(seq)
        pos += range(first, first + count)
        slot += [table[seq, p // page] * page + p % page for p in range(first, first + count)]
    tables = {"pos": pos, "tile_indptr": ends, "tile_seq": seqs, "slot": slot}
    inputs = {name: np.asarray(values, np.int32) for name, values in tables.items()}
    return Step({"num_tokens": len(pos), "num_tiles": len(seqs)}, {**inputs, "block_table": table})


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, first: int) -> np.ndarray:
    """q [tokens, heads, d], k and v [heads, positions, d], float32."""
    scores = np.einsum("thd,hpd->htp", q, k) * np.float32(q.shape[-1] ** -0.5)
    hidden = np.arange(k.shape[1])[None, None] > (first + np.arange(len(q)))[None, :, None]
    p = np.exp(np.where(hidden, -np.inf, scores) - np.where(hidden, -np.inf, scores).max(-1, keepdims=True))
    return np.einsum("htp,hpd->thd", p / p.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_without_spills(kind: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="compiling for a GPU needs cuda-bindings; install the extra 'cuda'")
    plan = plan_of(kind)
    assert "attention_wide_op" in generate(plan).text and plan.schedule is not None
    assert plan.schedule.segments[0].distribution == "cyclic"  # later tiles see more
    _, binary = compile_plan_source(plan)
    assert binary.resources["spill_bytes"] == binary.resources["stack_bytes"] == 0
    # the compiler says so where it can't leave products under way
    assert "serialized" not in binary.log


@pytest.mark.parametrize("kind", FEW)
def test_few_rows_compile_without_spills(kind: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="compiling for a GPU needs cuda-bindings; install the extra 'cuda'")
    plan = plan_of_few(kind)
    assert plan.schedule is not None and plan.schedule.segments[1].distribution != "cyclic"  # heads share the warps
    _, binary = compile_plan_source(plan, config_of_few(kind))
    assert binary.resources["spill_bytes"] == binary.resources["stack_bytes"] == 0


def assert_near(got: np.ndarray, want: np.ndarray, which: str) -> None:
    """Every token, a row of both, within 6e-3 of the reference (relative norm)."""
    error = np.linalg.norm(got.astype(np.float32) - want, axis=1) / np.linalg.norm(want, axis=1)
    off = np.flatnonzero(~(error < 6e-3))
    assert not len(off), f"tokens {off[:8]} {which} are off by up to {error.max()}"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", FEW)
def test_few_rows_of_a_step_that_appends(kind: str) -> None:
    """What stands where the step writes is poison, too: the past is read before, the rest isn't."""
    need_gpu()
    heads, kv_heads, d, page, queries, _ = FEW[kind]
    kernel = CudaKernel(plan_of_few(kind), config_of_few(kind))
    kernel.bind_weights("rope", np.tile(np.repeat(np.float32([1, 0]), d // 2), (LENGTH, 1)))  # cosines and sines of no turn
    rng = np.random.default_rng(len(kind))
    table = rng.permutation(SEQS * LENGTH // page).reshape(SEQS, -1).astype(np.int32)
    # the last: chunks of one sequence apart from each other, the later one first
    for chunks in [*STEPS, [(s, p, 1) for s, p in enumerate((14, 15, 16, 510))], [(1, 330, 20), (2, 17, 1), (1, 300, 30)]]:
        step = step_of(chunks, queries, table)
        slot, n = step.inputs["slot"], step.symbols["num_tokens"]
        qkv = (2 * rng.standard_normal((n, (heads + 2 * kv_heads) * d))).astype(ml_dtypes.bfloat16)
        step.inputs["qkv"], new = qkv, qkv.astype(np.float32).reshape(n, -1, d)
        before, after = {}, {}
        live = np.zeros(SEQS * LENGTH, bool)
        for seq, first, count in chunks:
            p = np.arange(first + count)
            live[table[seq, p // page] * page + p % page] = True
        live[slot] = False
        for i, x in enumerate("kv"):
            before[x] = rng.standard_normal((kv_heads, SEQS * LENGTH, d)).astype(ml_dtypes.bfloat16)
            before[x][:, ~live] = np.uint16(0xFFFF).view(ml_dtypes.bfloat16)
            after[x] = before[x].astype(np.float32)
            after[x][:, slot] = new[:, heads + i * kv_heads :][:, :kv_heads].swapaxes(0, 1)
        results = []
        for _ in range(2):
            kernel.poison()
            for x, cache in before.items():
                kernel.write_state(f"{x}_cache", cache)
            results.append(kernel.run([step])[0]["y"])
        assert np.array_equal(*(r.view(np.uint16) for r in results))
        at = 0
        for seq, first, count in chunks:
            p = np.arange(first + count)
            k, v = (after[x][:, table[seq, p // page] * page + p % page].repeat(heads // kv_heads, 0) for x in "kv")
            want = reference(new[at : at + count, :heads], k, v, first).reshape(count, -1)
            assert_near(results[0][at : at + count], want, f"of {(seq, first, count)}")
            at += count
    kernel.close()
    kernel.memory.close()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_against_float32_with_poison_beyond_the_end(kind: str) -> None:
    need_gpu()
    heads, kv_heads, d, page, queries = KINDS[kind]
    kernel = CudaKernel(plan_of(kind))
    rng = np.random.default_rng(len(kind))
    table = rng.permutation(SEQS * LENGTH // page).reshape(SEQS, -1).astype(np.int32)
    slots = (table[:, :, None] * page + np.arange(page)).reshape(SEQS, LENGTH)
    q = (2 * rng.standard_normal((TOKENS, heads * d))).astype(ml_dtypes.bfloat16)
    kernel.write_state("q", q)
    for chunks in STEPS:
        live = np.zeros(SEQS * LENGTH, bool)
        for seq, first, count in chunks:
            live[slots[seq, : first + count]] = True
        found: dict[str, Any] = {x: rng.standard_normal((kv_heads, SEQS * LENGTH, d)).astype(ml_dtypes.bfloat16) for x in "kv"}
        for x, cache in found.items():
            cache[:, ~live] = np.uint16(0xFFFF).view(ml_dtypes.bfloat16)
            kernel.write_state(f"{x}_cache", cache)
        results = []
        for _ in range(2):
            kernel.poison()
            results.append(kernel.run([step_of(chunks, queries, table)])[0]["y"])
        assert np.array_equal(*(r.view(np.uint16) for r in results))
        at = 0
        for seq, first, count in chunks:
            past = slots[seq, : first + count]
            k, v = (found[x][:, past].astype(np.float32).repeat(heads // kv_heads, 0) for x in "kv")
            want = reference(q[at : at + count].astype(np.float32).reshape(count, heads, d), k, v, first).reshape(count, -1)
            assert_near(results[0][at : at + count], want, f"of {(seq, first, count)}")
            at += count
    kernel.close()
    kernel.memory.close()
