"""What the engine needs of a device: `Runner`. A device's class says here how steps reach its backend.

    runner.tokens[seq, :n] = prompt       the histories; the host writes prompts, sampling appends
    runner.run(step)                      one step → {"logits": …, "next_token": …, "logprob": …, …}
    runner.start(runner.prepare(step), keep)      the same, its small outputs [1, …] given when they are asked for
    runner.decode(chunks, 32, table, …)   up to 32 decode steps, each continuing the last, part by part as they come

A device has kernels for two kinds of steps, and chooses among them itself: those in which every sequence has one token, and
mixed ones, of any number of tokens of any sequences. `cpu` has one for both, and runs each part of a `decode` in one native
call; `cuda` runs all of it in one launch, and its parts are what has come since. `interp` runs the plan in the interpreter:
slow, of use to see what a plan does, and to check the other devices.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import dtypes
from ..backends.base import shape_of
from ..backends.cpu import RECORD, CpuKernel, Stop
from ..backends.interp import Interpreter, Tile
from ..backends.policies import InOrder
from ..ir.nodes import Plan, TaskGrid
from ..models.decoder import Limits
from ..profile.bandwidth import measure_read_bandwidth
from ..profile.timeline import Span, Timeline
from .steps import Chunk, Step, decode_steps, decode_tables

__all__ = ["CpuRunner", "InterpRunner", "Outputs", "Parts", "Runner", "Running", "once", "stop_rule"]

_MAX_PART = 256  # steps of one native call
Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


class Running(Protocol):
    """Steps that were asked for; an iterator over parts of their outputs, [steps, …]."""

    def __iter__(self) -> Iterator[Outputs]: ...

    def __next__(self) -> Outputs: ...

    def end(self) -> None:
        """No step after the one under way; what has been drawn till then is still given."""

    def close(self) -> None:
        """The same, and nothing more is given."""


class Parts:
    """A `Running` whose parts are computed when they are asked for."""

    def __init__(self, parts: Generator[Outputs, None, None]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Outputs]:
        return self

    def __next__(self) -> Outputs:
        return next(self._parts)

    def end(self) -> None:
        self._parts.close()

    def close(self) -> None:
        self._parts.close()


class Runner(Protocol):
    """A loaded model on a device.

    overlaps: whether steps begin when they are asked for, so that the host may work meanwhile; else when their outputs are.
    exact: whether a token's keys and values are the same bits whichever kind of step computes them.
    """

    plan: Plan
    limits: Limits
    tile_queries: int
    overlaps: bool
    exact: bool

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The state `tokens`, int32 `[max_seqs, max_seq_len + 1]`, writable between steps."""

    def write_tokens(self, seq: int, tokens: Sequence[int]) -> None:
        """The history of a sequence that no step under way has a token of."""

    def run(self, step: Step) -> Outputs:
        """One step; the arrays hold until the next call."""

    def prepare(self, step: Step) -> Any:
        """A step for `start`, with what can be done before its time has come."""

    def start(self, prepared: Any, keep: Collection[str]) -> Running:
        """A prepared step; the outputs in `keep` as its only part. Where steps overlap, one that was started comes to its end, and
        another may be started, or a `decode`, before its outputs are asked for."""

    def decode(
        self,
        chunks: Sequence[Chunk],
        num_steps: int,
        block_table: Array,
        stop_tokens: Sequence[Collection[int]],
        keep: Collection[str],
        part_s: float,
    ) -> Running:
        """Steps in which every chunk of one token moves on by one: parts of about `part_s` seconds, each the outputs in
        `keep`. They end early after a step that draws for some chunk one of its `stop_tokens`."""

    def profile(self, step: Step, num_steps: int) -> list[Timeline]:
        """The same step several times, with a record of every task."""

    def parts(self, step: Step) -> tuple[Plan, list[Step]]:
        """The plan that runs a step, and the step as that plan takes it: its parts, if it is too large for one pass."""

    def read_bandwidth(self) -> float:
        """Bytes a second that this device's memory gives, measured now."""

    def close(self) -> None:
        """Give threads and memory back; the runner is of no use afterwards."""


def stop_rule(stop_tokens: Sequence[Collection[int]]) -> Stop | None:
    """The rule of a loop that ends after a step that draws for some row one of its tokens."""
    width = max(len(stops) for stops in stop_tokens)
    return Stop("next_token", [[*stops, *[-1] * (width - len(stops))] for stops in stop_tokens]) if width else None


def _met(drawn: Array, stop_tokens: Sequence[Collection[int]]) -> bool:
    return any(token in stops for token, stops in zip(drawn.tolist(), stop_tokens, strict=True))


def make_states(plan: Plan) -> dict[str, Array]:
    """Zeros for every state of a plan. The system maps their memory when it is first touched."""
    states = {}
    for tensor in plan.tensors.values():
        if tensor.role == "state":
            states[tensor.name] = np.zeros(shape_of(tensor, {}), dtypes.to_numpy(tensor.dtype))
    return states


def once(runner: Runner, step: Step, keep: Collection[str]) -> Generator[Outputs, None, None]:
    """The parts of `Runner.start` for a device whose steps begin when they are asked for."""
    found = runner.run(step)
    yield {name: found[name][None] for name in keep}


class InterpRunner:
    """The interpreter as a device."""

    overlaps, exact = False, True

    def __init__(self, plan: Plan, limits: Limits, tile_queries: int, weights: Mapping[str, Array]) -> None:
        self.plan, self.limits, self.tile_queries = plan, limits, tile_queries
        states = make_states(plan)
        self._kernel = Interpreter(plan, weights, states)
        self._tokens: npt.NDArray[np.int32] = states["tokens"]

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        return self._tokens

    def write_tokens(self, seq: int, tokens: Sequence[int]) -> None:
        self._tokens[seq, : len(tokens)] = tokens

    def run(self, step: Step) -> Outputs:
        return self._kernel.run(step.symbols, step.inputs, InOrder())

    def prepare(self, step: Step) -> Step:
        return step

    def start(self, prepared: Step, keep: Collection[str]) -> Running:
        return Parts(once(self, prepared, keep))

    def decode(
        self,
        chunks: Sequence[Chunk],
        num_steps: int,
        block_table: Array,
        stop_tokens: Sequence[Collection[int]],
        keep: Collection[str],
        part_s: float,
    ) -> Running:
        return Parts(self._decode(chunks, num_steps, block_table, stop_tokens, keep, part_s))

    def _decode(
        self,
        chunks: Sequence[Chunk],
        num_steps: int,
        block_table: Array,
        stop_tokens: Sequence[Collection[int]],
        keep: Collection[str],
        part_s: float,
    ) -> Generator[Outputs, None, None]:
        for step in decode_steps(self.limits, chunks, num_steps, block_table):
            found = self.run(step)
            ended = _met(found["next_token"], stop_tokens)
            yield {name: np.array(found[name])[None] for name in keep}
            if ended:
                return

    def parts(self, step: Step) -> tuple[Plan, list[Step]]:
        return self.plan, [step]

    def profile(self, step: Step, num_steps: int) -> list[Timeline]:
        return [self._profile(step) for _ in range(num_steps)]

    def _profile(self, step: Step) -> Timeline:
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

    def read_bandwidth(self) -> float:
        return measure_read_bandwidth(1)

    def close(self) -> None:
        pass


class CpuRunner:
    """Persistent workers on this machine's cores."""

    overlaps, exact = False, True

    def __init__(self, kernel: CpuKernel, limits: Limits, tile_queries: int) -> None:
        self.plan, self.limits, self.tile_queries = kernel.plan, limits, tile_queries
        self._kernel = kernel

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        return self._kernel.states["tokens"]

    def write_tokens(self, seq: int, tokens: Sequence[int]) -> None:
        self.tokens[seq, : len(tokens)] = tokens

    def run(self, step: Step) -> Outputs:
        return self._kernel.run([step])[0]

    def prepare(self, step: Step) -> Step:
        return step

    def start(self, prepared: Step, keep: Collection[str]) -> Running:
        return Parts(once(self, prepared, keep))

    def decode(
        self,
        chunks: Sequence[Chunk],
        num_steps: int,
        block_table: Array,
        stop_tokens: Sequence[Collection[int]],
        keep: Collection[str],
        part_s: float,
    ) -> Running:
        return Parts(self._decode(chunks, num_steps, block_table, stop_tokens, keep, part_s))

    def _decode(
        self,
        chunks: Sequence[Chunk],
        num_steps: int,
        block_table: Array,
        stop_tokens: Sequence[Collection[int]],
        keep: Collection[str],
        part_s: float,
    ) -> Generator[Outputs, None, None]:
        stop, done, pace = stop_rule(stop_tokens), 0, 1 if part_s < _MAX_PART else _MAX_PART
        while done < num_steps:
            count = min(pace, num_steps - done, _MAX_PART)
            now = [replace(chunk, start=chunk.start + done) for chunk in chunks]
            symbols, inputs, stacked = decode_tables(self.limits, now, count, block_table)
            began = time.perf_counter()
            found = self._kernel.run_loop(symbols, inputs, count, stacked=stacked, keep=keep, stop=stop)
            pace = max(1, min(_MAX_PART, int(count * min(part_s / (time.perf_counter() - began), _MAX_PART))))
            done += found.num_steps
            ended = found.num_steps < count or _met(found.outputs["next_token"][-1], stop_tokens)
            yield {name: found.outputs[name] for name in keep}
            if ended:
                return

    def parts(self, step: Step) -> tuple[Plan, list[Step]]:
        return self.plan, [step]

    def profile(self, step: Step, num_steps: int) -> list[Timeline]:
        return [self._profile(step) for _ in range(num_steps)]

    def _profile(self, step: Step) -> Timeline:
        self._kernel.run([step], profile=True)
        grids = self.plan.grids
        spans = (
            Span(r["worker"], grids[r["grid"]].name, grids[r["grid"]].op, r["task"], r["free"], r["start"], r["end"], r["step"])
            for r in (dict(zip(RECORD.names or (), row)) for row in self._kernel.records.tolist())
        )
        return Timeline(tuple(spans), self.plan.name)

    def read_bandwidth(self) -> float:
        return measure_read_bandwidth(self.plan.schedule.num_workers if self.plan.schedule else 1)

    def close(self) -> None:
        # the workers end with the last reference to their kernel
        del self._kernel
