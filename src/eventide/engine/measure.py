"""Steps of a chosen shape, run and recorded: what `explain` and `profile` look at.

    plan, steps, timelines = measured_steps(llm, batch=8, context=512, prefill=False, num_steps=9)

The sequences hold seeded random tokens. They are read first (unless reading them is what is measured), then the same
step runs again and again: it writes the same cache slots each time, so every run does the same work.
"""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from ..ir.nodes import Plan
from ..profile.timeline import Timeline
from .llm import LLM
from .pool import Place
from .steps import Chunk, Step, make_step

__all__ = ["measured_steps", "read_bandwidth"]

_WARM_UP = 2


def measured_steps(
    llm: LLM, batch: int, context: int, prefill: bool, num_steps: int
) -> tuple[Plan, list[Step], list[Timeline]]:
    """(the plan that runs the step, the step or its parts, a timeline of each of `num_steps` runs of it). Raises
    `UsageError` for a shape that doesn't fit."""
    limits, pool, runner = llm.limits, llm._pool, llm._runner
    _within("--batch", batch, limits.max_seqs)
    _within("--context", context, limits.max_seq_len - 1)
    _within("--steps", num_steps, 10_000)
    if prefill:
        _within("--batch times --context", batch * context, limits.max_tokens)
    places = _places(llm, batch, context + 1)
    try:
        prompts = np.random.default_rng(0).integers(0, llm.config.vocab_size, (batch, context + 1))
        for place, prompt in zip(places, prompts):
            runner.tokens[place.seq, : context + 1] = prompt
        if prefill:
            chunks = [Chunk(place.seq, 0, context) for place in places]
        else:
            for place in places:
                for start in range(0, context, limits.max_tokens):
                    count = min(limits.max_tokens, context - start)
                    chunk = Chunk(place.seq, start, count, rows="none", sample=False)
                    runner.run(make_step(limits, [chunk], runner.tile_queries, pool.table))
            chunks = [Chunk(place.seq, context, 1) for place in places]
        step = make_step(limits, chunks, runner.tile_queries, pool.table)
        for _ in range(_WARM_UP):
            runner.run(step)
        return *runner.parts(step), runner.profile(step, num_steps)
    finally:
        for place in places:
            pool.close(place)


def read_bandwidth(llm: LLM) -> float:
    """Bytes a second that the memory of the model's device gives, measured now."""
    return llm._runner.read_bandwidth()


def _places(llm: LLM, batch: int, num_tokens: int) -> list[Place]:
    places: list[Place] = []
    for _ in range(batch):
        place = llm._pool.open()
        places += [place] if place else []
        if place is None or not llm._pool.reserve(place, num_tokens):
            for taken in places:
                llm._pool.close(taken)
            raise UsageError(f"{batch} sequences of {num_tokens} tokens don't fit the cache; take fewer")
    return places


def _within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise UsageError(f"{name} must be from 1 to {most} here, got {value}")
