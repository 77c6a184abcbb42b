"""Runs plans in the interpreter on drawn arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eventide.backends.interp import Interpreter, TileFn, reference_tile
from eventide.backends.policies import Policy
from eventide.dtypes import to_numpy
from eventide.engine.steps import Chunk, Sampling, make_step
from eventide.ir.expr import evaluate
from eventide.ir.nodes import Plan
from eventide.models.decoder import Limits

Arrays = dict[str, np.ndarray]


def drawn(plan: Plan, role: str, symbols: Mapping[str, int], seed: int = 0) -> Arrays:
    """Random floating-point tensors of a role; integer ones are zeros."""
    rng = np.random.default_rng(seed)
    out = {}
    for t in plan.tensors.values():
        if t.role == role:
            shape = tuple(int(evaluate(e, symbols)) for e in t.shape)
            dtype = to_numpy(t.dtype)
            out[t.name] = np.zeros(shape, dtype) if t.dtype.startswith("int") else rng.normal(size=shape).astype(dtype)
    return out


def run(
    plan: Plan, symbols: Mapping[str, int], policy: Policy, inputs: Arrays | None = None, tile_fn: TileFn = reference_tile
) -> tuple[Arrays, Interpreter]:
    """One step with weights and inputs that depend on the plan alone; states start as zeros (tokens as ones)."""
    weights = drawn(plan, "weight", symbols)
    states = {k: np.zeros_like(v) for k, v in drawn(plan, "state", symbols).items()}
    given = {**drawn(plan, "input", symbols, seed=1), **(inputs or {})}
    kernel = Interpreter(plan, weights, states, tile_fn)
    out = kernel.run(symbols, given, policy)
    return {**out, **{f"state {k}": v.copy() for k, v in states.items()}}, kernel


def decoder_step(limits: Limits) -> tuple[dict[str, int], Arrays]:
    """A prompt of 5 tokens beside one that starts with 2, both sampled."""
    chunks = [Chunk(0, 0, 5, sampling=Sampling()), Chunk(1, 0, 2, sampling=Sampling(temperature=0.7, seed=3))]
    step = make_step(limits, chunks, tile_queries=2)
    return step.symbols, step.inputs


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Bit for bit; NaN equals NaN."""
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)
