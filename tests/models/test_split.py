"""The programs for many tokens on a GPU mean what the plain one means."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from eventide import target
from eventide.backends.interp import Interpreter
from eventide.backends.policies import Random
from eventide.engine.sizes import Size
from eventide.engine.steps import Chunk, make_step
from eventide.errors import ProgramError
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.ops.linear_part import most_splits
from eventide.ops.linear_residual import block_of
from eventide.ops.program import Program
from eventide.passes.pipeline import compile_plan
from tests.backends.cuda.gpu import config, reference, weights

LIMITS = Limits(max_tokens=16, max_rows=16, max_seqs=3, max_seq_len=48, page_size=16)


def small(**changes: Any) -> ModelConfig:
    sizes = {"hidden_size": 1024, "intermediate_size": 512, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "vocab_size": 64}
    return config(**{**sizes, **changes})


def empty_states(c: ModelConfig) -> dict[str, np.ndarray]:
    shape = (c.num_kv_heads, LIMITS.slots, c.head_dim)
    caches = {f"layers.{i}.{kind}_cache": np.zeros(shape, ml_dtypes.bfloat16) for i in range(c.num_layers) for kind in "kv"}
    return {"tokens": np.zeros((3, 49), np.int32), **caches}


QWEN2: dict[str, Any] = {"qk_norm": False, "qkv_bias": True, "tie_word_embeddings": False}
PROMPTS: dict[str, Any] = {"num_heads": 16, "num_kv_heads": 4}  # as the kernel for prompts, whose slabs wait for all of their input


# the model, tokens of a tile, slabs, how products are made, outputs to the residual that are cut and that aren't
KINDS: dict[str, tuple[dict[str, Any], int, int, dict[str, bool], dict[str, int]]] = {
    "qwen3": ({}, 16, 4, {}, {"linear_part": 4}),
    "prompts": (PROMPTS, 128, 2, {}, {"linear_part": 4}),
    "batches": ({}, 16, 1, {"slim": True}, {"linear_residual": 3, "half_norm": 1}),
    "batches of qwen2": (QWEN2, 16, 1, {"slim": True}, {"linear_residual": 3, "half_norm": 1}),
    "direct batches": ({}, 16, 4, {"direct": True}, {"linear_part": 4}),
}


@pytest.mark.parametrize("changes, tokens, splits, products, grids", KINDS.values(), ids=KINDS)
def test_the_same_logits(
    changes: dict[str, Any], tokens: int, splits: int, products: dict[str, bool], grids: dict[str, int]
) -> None:
    c = small(**changes)
    made_for = replace(target.h200(tile_tokens=tokens), num_workers=7, **products)
    plan = compile_plan(build_decoder(c, LIMITS, "bfloat16", splits=splits), made_for)
    found = Counter(g.op for g in plan.grids)
    assert {op: found[op] for op in ("linear_part", "linear_residual", "half_norm") if op in found} == grids
    w = weights(plan, c, LIMITS)
    states = empty_states(c)
    states["tokens"][1, :11] = np.random.default_rng(0).integers(0, 64, 11)
    kernel = Interpreter(plan, w, states)
    for chunk in (Chunk(1, 0, 9, rows="all", sample=False), Chunk(1, 9, 2, rows="all", sample=False)):
        step = make_step(LIMITS, [chunk], 4)
        got = kernel.run(step.symbols, step.inputs, Random(1))["logits"]
        want = reference(c, plan, states["tokens"][1, :11].tolist())[chunk.start : chunk.start + chunk.count]
        assert 1e-5 < np.linalg.norm(got - want) / np.linalg.norm(want) < 0.02


@pytest.mark.parametrize("changes", [{}, QWEN2], ids=["qwen3", "qwen2"])
def test_tokens_alone_of_their_sequences(changes: dict[str, Any]) -> None:
    """Three sequences, one of them without a past, with a token each in one step, and another step."""
    c = small(**changes)
    made_for = Size(16, 16, decode=True, splits=4, direct=True).target_of(target.h200(7))
    limits = replace(LIMITS, max_tokens=3, max_rows=3)
    plan = compile_plan(build_decoder(c, limits, "bfloat16", decode=True, splits=4), made_for)
    assert {"attention_append"} == {g.op for g in plan.grids if g.op.startswith(("rope", "attention"))}
    mixed = compile_plan(build_decoder(c, LIMITS, "bfloat16", splits=4), made_for)
    w, states = weights(plan, c, LIMITS), empty_states(c)
    rng, starts = np.random.default_rng(0), (5, 0, 16)
    states["tokens"][:, :20] = rng.integers(0, 64, (3, 20))
    read, kernel = Interpreter(mixed, w, states), Interpreter(plan, w, states)
    for seq, start in enumerate(starts):
        if start:
            step = make_step(LIMITS, [Chunk(seq, 0, start, rows="none", sample=False)], 4)
            read.run(step.symbols, step.inputs, Random(1))
    names = {t.name for t in plan.tensors.values() if t.role == "input"}
    for ahead in range(2):
        step = make_step(limits, [Chunk(s, start + ahead, 1, sample=False) for s, start in enumerate(starts)], 1)
        symbols = {name: n for name, n in step.symbols.items() if name in plan.symbols}
        got = kernel.run(symbols, {name: a for name, a in step.inputs.items() if name in names}, Random(ahead))["logits"]
        for s, start in enumerate(starts):
            want = reference(c, plan, states["tokens"][s, : start + ahead + 1].tolist())[-1]
            assert 1e-5 < np.linalg.norm(got[s] - want) / np.linalg.norm(want) < 0.02


def test_how_many_slabs() -> None:
    assert [most_splits(k, 4) for k in (4096, 12288, 1024, 3072, 512, 320, 2560)] == [4, 4, 2, 3, 1, 1, 1]
    assert most_splits(12288, 12) == 12 and most_splits(4096, 0) == 1


def test_how_wide_blocks_are() -> None:
    assert [block_of(n, 132) for n in (4096, 1024, 2560, 5120, 16)] == [32, 16, 32, 16, 16]
    with pytest.raises(ProgramError, match="1000 columns can't be cut into blocks of 16"):
        block_of(1000, 132)
    p = Program("p")
    x = p.input("x", (p.symbol("num_tokens", 1, 16), 64), "bfloat16")
    norm, w = p.weight("norm", (64,), "bfloat16"), p.weight("w", (64, 32), "bfloat16")
    with pytest.raises(ProgramError, match="64 columns can't be cut into blocks of 48"):
        p.call("half_norm", x=x, norm_weight=norm, block=48)
    with pytest.raises(ProgramError, match="x has 64 columns but w has 32"):
        p.call("linear_residual", x=x, w=w, residual=x, norm_weight=norm, block=16)


def test_slabs_that_cannot_be() -> None:
    for splits in (0, 3):
        p = Program("p")
        x, w = p.input("x", (p.symbol("num_tokens", 1, 16), 1024), "bfloat16"), p.weight("w", (8, 1024), "bfloat16")
        with pytest.raises(ProgramError, match=f"1024 columns can't be cut into {splits} slabs of a multiple of 512"):
            p.call("linear_part", x=x, w=w, splits=splits, name="part")
