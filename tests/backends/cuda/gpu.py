"""Small decoders on a GPU, their weights, and what the interpreter says of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from eventide import target
from eventide.backends.cuda.driver import Device
from eventide.backends.cuda.kernel import CudaKernel
from eventide.engine.sizes import Size, direct
from eventide.engine.steps import Chunk, Step, make_step
from eventide.errors import EventideError
from eventide.ir.nodes import Plan
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.models.rope import rope_table
from eventide.passes.pipeline import compile_plan
from tests import numpy_model

LIMITS = Limits(max_tokens=8, max_rows=8, max_seqs=3, max_seq_len=128, page_size=16)
# the engine leaves weights as small as these in 16 bits
H200 = replace(target.h200(), tight_bytes=0)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"head_dim": 64, "num_heads": 16, "num_kv_heads": 4, "qk_norm": False, "tie_word_embeddings": False},
    "long": {"intermediate_size": 16712},  # an input that isn't staged, of one token neither
    "narrow": {"hidden_size": 320, "vocab_size": 4001},  # panels of less than a chunk, several a worker
    "qwen2": {"head_dim": 128, "num_heads": 4, "num_kv_heads": 1, "qk_norm": False, "qkv_bias": True},
}


def config(**changes: Any) -> ModelConfig:
    facts: dict[str, Any] = {
        "architecture": "Qwen3ForCausalLM", "hidden_size": 256, "intermediate_size": 512, "num_layers": 2, "num_heads": 8,
        "num_kv_heads": 2, "head_dim": 64, "vocab_size": 1003, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "rope_scaling": None,
        "qkv_bias": False, "qk_norm": True, "tie_word_embeddings": True, "max_position_embeddings": 256, "dtype": "bfloat16",
    }  # fmt: skip
    return ModelConfig(**{**facts, **changes})


def plan_of(
    c: ModelConfig, limits: Limits = LIMITS, *, decode: bool = False, verify: bool = True, schedule: str = "static", tile: int = 8,
    splits: int = 0, workers: int = H200.num_workers,
) -> Plan:
    """`decode`: with tiles of so many tokens, so that several sequences take part; the engine has one with tiles of 1, too."""
    program = build_decoder(c, limits, "bfloat16", decode=decode, splits=splits)
    size = Size(tile, limits.max_tokens, decode=decode, splits=splits, direct=decode and splits > 1 and direct(c, tile))
    made_for = size.target_of(replace(H200, num_workers=workers))
    return compile_plan(program, made_for, schedule, verify=verify)


def plan_of_one(c: ModelConfig, limits: Limits = LIMITS, schedule: str = "static") -> Plan:
    """Steps of one token of one sequence, as the engine's."""
    one = replace(limits, max_tokens=1, max_rows=1)
    return compile_plan(build_decoder(c, one, "bfloat16", decode=True), replace(H200, tile_tokens=1), schedule)


def weights(plan: Plan, c: ModelConfig, limits: Limits = LIMITS) -> dict[str, np.ndarray]:
    """Seeded: norms near 1, matrices that keep magnitudes."""
    found = {}
    for t in plan.tensors.values():
        if t.role != "weight":
            continue
        shape = tuple(int(str(e)) for e in t.shape)
        rng = np.random.default_rng(sum(t.name.encode()))
        if t.name == "rope":
            found[t.name] = rope_table(c, shape[0])
            continue
        array = rng.standard_normal(shape) * (shape[-1] ** -0.5 if len(shape) == 2 else 0.1) + ("norm" in t.name)
        found[t.name] = array.astype(ml_dtypes.bfloat16)
    return found


@cache
def device() -> Device | str:
    """The GPU, or why there is none."""
    try:
        return Device()
    except EventideError as e:
        return str(e)


def need_gpu() -> Device:
    found = device()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def open_kernel(plan: Plan, c: ModelConfig, **options: Any) -> CudaKernel:
    if "memory" not in options:
        options["device"] = need_gpu()
    kernel = CudaKernel(plan, **options)
    if not kernel.bound:
        for name, array in weights(plan, c).items():
            kernel.bind_weights(name, array)
    return kernel


def write_tokens(kernel: CudaKernel, prompts: list[np.ndarray], limits: Limits = LIMITS) -> np.ndarray:
    tokens = np.zeros((limits.max_seqs, limits.max_seq_len + 1), np.int32)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
    kernel.write_state("tokens", tokens)
    return tokens


def clear_caches(kernel: CudaKernel) -> None:
    for t in kernel.plan.tensors.values():
        if t.role == "state" and t.name.endswith("_cache"):
            kernel.device.fill(kernel.addresses[t.name], 0, kernel.read_state(t.name).nbytes)


def prompt_steps(prompts: list[np.ndarray], limits: Limits = LIMITS) -> list[Step]:
    """All prompts, in steps of as many tokens as there may be; the last tokens draw."""
    steps, most = [], limits.max_tokens
    for seq, prompt in enumerate(prompts):
        for start in range(0, len(prompt), most):
            count = min(most, len(prompt) - start)
            last = start + count == len(prompt)
            steps.append(make_step(limits, [Chunk(seq, start, count, rows="last" if last else "none", sample=last)], 1))
    return steps


def decode_steps(starts: list[int], n: int, splits: int = 0) -> list[Step]:
    """n steps that continue sequences 0, 1, ... from these positions."""
    return [make_step(LIMITS, [Chunk(s, at + i, 1) for s, at in enumerate(starts)], 1, splits=splits) for i in range(n)]


def reference(
    c: ModelConfig, plan: Plan, token_ids: list[int], seen: dict[str, np.ndarray] | None = None, dtype: type = np.float32
) -> np.ndarray:
    """Logits in float32 (or float64) arithmetic of the same weights: [num_tokens, vocab_size]; see tests/numpy_model.py."""
    exact = {name: array.astype(dtype) for name, array in weights(plan, c).items()}
    return numpy_model.logits(c, exact, token_ids, seen)


def apart(plan: Plan) -> Plan:
    """The plan with memory of its own for every scratch tensor, so that all of them can be read after a step."""
    return replace(plan, offsets={}, arena_bytes=0)
