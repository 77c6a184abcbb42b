"""Timelines from what the persistent kernel's workers record on a GPU.

    trace = kernel.read_trace()              uint64 [workers, records, 8], see `Worker::trace` in device/cuda/runtime.cuh
    first, second = timelines(plan, trace)   one `Timeline` a step, times in nanoseconds of the GPU's common clock

Every multiprocessor counts its own cycles. A worker's first and last record are {cycles, nanoseconds} at one moment, and a
straight line through the two turns its other cycles into nanoseconds:

    record 0     ..., 1_000 ns, 500 cycles          record n - 1   ..., 3_000 ns, 4_500 cycles
    a record of 2_500 cycles                        1_000 + (2_500 - 500) * 2_000 / 4_000 = 2_000 ns

Such lines are up to 2 us apart: the common clock goes on in leaps of a microsecond, which not all multiprocessors see at once,
and their own clocks change speed by themselves. So each worker records, too, when it learnt that all had ended the step before,
which they learn within one poll, 0.3 us. That was when half of the lines say it was; times between two such meetings are put
right by what lies between the errors of both:

    meetings at 2_000 and 3_000 ns by this line, at 1_800 and 3_000 by the median      2_500 ns becomes 2_400
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError
from ..ir.nodes import Plan
from .timeline import Span, Timeline

__all__ = ["timelines"]

_STEP, _TASK, _BEGIN, _READY, _DONE, _MEMORY, _PUBLISHED, _WEIGHTS = range(8)
_HALF = 0xFFFFFFFF
_MEETING = -1  # in place of step and segment, as in the first and last record; then the step, and cycles


def timelines(plan: Plan, trace: npt.NDArray[np.uint64], parts: int = 1) -> list[Timeline]:
    """A timeline for each `parts` steps of a launch. DeviceError where the records had no room for all of it."""
    assert plan.schedule is not None
    names = [segment.grid for segment in plan.schedule.segments]
    ops = {grid.name: grid.op for grid in plan.grids}
    found: dict[int, list[Span]] = {}
    signed = trace.astype(np.int64)
    clocks = _clocks(signed) if trace.shape[1] > 1 else []
    for worker, records in enumerate(signed):
        used = int(np.count_nonzero(records[:-1, _BEGIN])) if len(records) > 1 else 0
        if used >= len(records) - 1:
            raise DeviceError("the records of a timeline are full; record fewer steps at once")
        clock = clocks[worker]
        for record in records[1:used].tolist():
            if record[_STEP] == _MEETING:
                continue
            step = record[_STEP] >> 32
            grid = names[record[_STEP] & _HALF]
            begin, ready, done, published, weights = (
                clock(record[i]) if record[i] else 0 for i in (_BEGIN, _READY, _DONE, _PUBLISHED, _WEIGHTS)
            )
            span = Span(
                worker, grid, ops[grid], record[_TASK] >> 32, begin, ready, done, step % parts,
                count=record[_TASK] & _HALF, memory_ns=int(record[_MEMORY] * clock.rate),
                published_ns=published, weights_ns=weights,
            )  # fmt: skip
            found.setdefault(step // parts, []).append(span)
    return [Timeline(tuple(found[k]), plan.name) for k in sorted(found)]


class _Clock:
    """A worker's cycles as nanoseconds of the common clock. `base`: a time near, for a float holds no nanoseconds since 1970."""

    def __init__(self, first: Any, last: Any, base: int) -> None:
        self.base, self.ns, self.cycles = base, int(first[1]) - base, int(first[2])
        self.rate = (int(last[1]) - int(first[1])) / max(int(last[2]) - self.cycles, 1)
        self.met: list[int] = []  # cycles
        self.errors: list[float] = []

    def line(self, cycles: int) -> float:
        """Nanoseconds after `base`, by the straight line."""
        return self.ns + (cycles - self.cycles) * self.rate

    def __call__(self, cycles: int) -> int:
        error = float(np.interp(cycles, self.met, self.errors)) if self.met else 0.0
        return self.base + int(self.line(cycles) - error)


def _clocks(trace: npt.NDArray[np.int64]) -> list[_Clock]:
    """One for each worker."""
    clocks = [_Clock(records[0], records[-1], int(trace[0, 0, 1])) for records in trace]
    meetings: dict[int, list[tuple[_Clock, int]]] = {}
    for clock, records in zip(clocks, trace):
        for record in records[records[:, _STEP] == _MEETING][1:-1]:
            meetings.setdefault(int(record[_TASK]), []).append((clock, int(record[_BEGIN])))
    for step in sorted(meetings):
        then = float(np.median([clock.line(cycles) for clock, cycles in meetings[step]]))
        for clock, cycles in meetings[step]:
            clock.met.append(cycles)
            clock.errors.append(clock.line(cycles) - then)
    return clocks
