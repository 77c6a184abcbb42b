"""Small decoders with random weights, and the same steps on the CPU workers and in the interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eventide.backends.base import shape_of
from eventide.backends.cpu import CpuKernel
from eventide.backends.cpu_tiles import CpuTiles
from eventide.backends.interp import Interpreter
from eventide.backends.policies import Policy
from eventide.dtypes import to_numpy
from eventide.engine.steps import Chunk, Sampling, Step, make_step
from eventide.ir.nodes import Plan
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.models.rope import rope_table
from eventide.passes.pipeline import compile_plan
from eventide.target import cpu

LIMITS = Limits(max_tokens=40, max_rows=6, max_seqs=4, max_seq_len=64, page_size=8)
TILE_QUERIES = 16


def config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "architecture": "Qwen3ForCausalLM", "hidden_size": 48, "intermediate_size": 80, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "head_dim": 16, "vocab_size": 101, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "rope_scaling": None,
        "qkv_bias": False, "qk_norm": True, "tie_word_embeddings": True, "max_position_embeddings": 64, "dtype": "float32",
    }  # fmt: skip
    return ModelConfig(**{**values, **changes})


def plan_of(c: ModelConfig, dtype: str = "float32", schedule: str = "static", workers: int = 2) -> Plan:
    return compile_plan(build_decoder(c, LIMITS, dtype), cpu(workers), schedule)


def random_weights(plan: Plan, c: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out = {}
    for t in plan.tensors.values():
        if t.role == "weight":
            shape = shape_of(t, {})
            scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
            drawn = rng.standard_normal(shape) * scale if t.name != "rope" else rope_table(c, LIMITS.max_seq_len)
            out[t.name] = np.asarray(drawn).astype(to_numpy(t.dtype))
    return out


def cpu_kernel(plan: Plan, weights: dict[str, np.ndarray], prompts: np.ndarray, **options: Any) -> CpuKernel:
    kernel = CpuKernel(plan, **options)
    for name, array in weights.items():
        kernel.bind_weights(name, array)
    kernel.states["tokens"][:, : prompts.shape[1]] = prompts
    return kernel


def prompts(c: ModelConfig, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, c.vocab_size, (LIMITS.max_seqs, 40)).astype(np.int32)


def mixed_steps(seed: int, count: int) -> list[Step]:
    """Steps over four sequences: prompts in pieces, decoding, both at once, different samplers and rows."""
    rng = np.random.default_rng(seed)
    at = [0] * LIMITS.max_seqs
    steps = []
    while len(steps) < count:
        chunks: list[Chunk] = []
        room = LIMITS.max_tokens
        for s in rng.permutation(LIMITS.max_seqs)[: rng.integers(1, LIMITS.max_seqs + 1)]:
            n = int(min(rng.choice([1, 1, 1, 5, 17, 23]), room, 40 - at[s]))
            if n <= 0:
                at[s] = 0
                continue
            sampling = Sampling(float(rng.choice([0.0, 0.8])), int(rng.integers(0, 9)), 0.9, int(rng.integers(99)), 3)
            chunks.append(Chunk(int(s), at[s], n, str(rng.choice(["last", "last", "none"])), sampling))  # type: ignore[arg-type]
            at[s] += n
            room -= n
        if chunks:
            steps.append(make_step(LIMITS, chunks, TILE_QUERIES))
    return steps


def interpreted(
    plan: Plan,
    weights: dict[str, np.ndarray],
    tokens: np.ndarray,
    steps: Sequence[Step],
    policy: Policy,
    kernel: CpuKernel | None,
) -> Iterator[dict[str, np.ndarray]]:
    """The interpreter's outputs step by step; with `kernel`, computed by its tile functions."""
    states = {t.name: np.zeros(shape_of(t, {}), to_numpy(t.dtype)) for t in plan.tensors.values() if t.role == "state"}
    states["tokens"][:, : tokens.shape[1]] = tokens
    if kernel is None:
        interp = Interpreter(plan, weights, states)
    else:
        tiles = CpuTiles(kernel)
        interp = Interpreter(plan, weights, states, tile_fn=tiles)
        tiles.arrays = interp.arrays
    for step in steps:
        yield interp.run(step.symbols, step.inputs, policy)


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape, name
        np.testing.assert_array_equal(a[name].view(np.uint8), b[name].view(np.uint8), err_msg=name)
