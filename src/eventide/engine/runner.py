"""What the engine needs of a device: `Runner`. A device's class says here how steps reach its backend.

    runner.tokens[seq, :n] = prompt       the histories; the host writes prompts, sampling appends
    runner.run(step)                      one step → {"logits": …, "next_token": …, "logprob": …, …}
    runner.decode(chunks, 32, table)      up to 32 decode steps, each continuing the last

`interp` runs the plan in the interpreter: slow, of use to see what a plan does, and to check the other devices.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import dtypes
from ..backends.interp import Interpreter, Tile
from ..backends.policies import InOrder
from ..ir.expr import as_int
from ..ir.nodes import Plan, TaskGrid
from ..models.decoder import Limits
from ..profile.timeline import Span, Timeline
from .steps import Chunk, Step, make_step

__all__ = ["InterpRunner", "Outputs", "Runner", "decode_step_by_step", "make_states"]

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


class Runner(Protocol):
    """A loaded model on a device."""

    plan: Plan
    limits: Limits
    tile_queries: int

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The state `tokens`, int32 `[max_seqs, max_seq_len + 1]`, writable between steps."""

    def run(self, step: Step) -> Outputs:
        """One step; the arrays hold until the next call."""

    def decode(self, chunks: Sequence[Chunk], num_steps: int, block_table: Array) -> Iterator[Outputs]:
        """The outputs of at most `num_steps` steps, in which every chunk of one token moves on by one each time."""

    def profile(self, step: Step) -> Timeline:
        """One step, with a record of every task."""

    def close(self) -> None:
        """Give threads and memory back; the runner is of no use afterwards."""


def make_states(plan: Plan) -> dict[str, Array]:
    """Zeros for every state of a plan. The system maps their memory when it is first touched."""
    states = {}
    for tensor in plan.tensors.values():
        if tensor.role == "state":
            shape = [as_int(extent) for extent in tensor.shape]
            states[tensor.name] = np.zeros([n for n in shape if n is not None], dtypes.to_numpy(tensor.dtype))
    return states


def advance(chunk: Chunk) -> Chunk:
    """The decode chunk that follows `chunk`, once its token has been drawn."""
    return replace(chunk, start=chunk.start + chunk.count, count=1)


def decode_step_by_step(
    runner: Runner, chunks: Sequence[Chunk], num_steps: int, block_table: Array
) -> Iterator[Outputs]:
    """`Runner.decode` by one `run` a step, for devices without a token loop of their own."""
    for _ in range(num_steps):
        yield runner.run(make_step(runner.limits, chunks, runner.tile_queries, block_table))
        chunks = [advance(chunk) for chunk in chunks]


class InterpRunner:
    """The interpreter as a device."""

    def __init__(self, plan: Plan, limits: Limits, tile_queries: int, weights: Mapping[str, Array]) -> None:
        self.plan, self.limits, self.tile_queries = plan, limits, tile_queries
        states = make_states(plan)
        self._kernel = Interpreter(plan, weights, states)
        self._tokens: npt.NDArray[np.int32] = states["tokens"]

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        return self._tokens

    def run(self, step: Step) -> Outputs:
        return self._kernel.run(step.symbols, step.inputs, InOrder())

    def decode(self, chunks: Sequence[Chunk], num_steps: int, block_table: Array) -> Iterator[Outputs]:
        return decode_step_by_step(self, chunks, num_steps, block_table)

    def profile(self, step: Step) -> Timeline:
        """All on worker 0, without waits: the interpreter is one thread that plays every worker in turn."""
        spans: list[Span] = []
        num_done: dict[str, int] = {}

        def timed(grid: TaskGrid, tile: Tile) -> None:
            start = time.perf_counter_ns()
            compute(grid, tile)
            task = num_done[grid.name] = num_done.get(grid.name, -1) + 1
            spans.append(Span(0, grid.name, grid.op, task, start, start, time.perf_counter_ns()))

        compute, self._kernel.tile_fn = self._kernel.tile_fn, timed
        try:
            self.run(step)
        finally:
            self._kernel.tile_fn = compute
        return Timeline(tuple(spans), self.plan.name)

    def close(self) -> None:
        pass
