"""Timelines from what the persistent kernel's workers record on a GPU.

    trace = kernel.read_trace()              uint64 [workers, records, 8], see `Worker::trace` in device/cuda/runtime.cuh
    first, second = timelines(plan, trace)   one `Timeline` a step, times in nanoseconds of the GPU's common clock

Every multiprocessor counts its own cycles. A worker's first and last record are {cycles, nanoseconds} at one moment, and a
straight line through the two turns its other cycles into nanoseconds:

    record 0     ..., 1_000 ns, 500 cycles          record n - 1   ..., 3_000 ns, 4_500 cycles
    a record of 2_500 cycles                        1_000 + (2_500 - 500) * 2_000 / 4_000 = 2_000 ns
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


def timelines(plan: Plan, trace: npt.NDArray[np.uint64], parts: int = 1) -> list[Timeline]:
    """A timeline for each `parts` steps of a launch. DeviceError where the records had no room for all of it."""
    assert plan.schedule is not None
    names = [segment.grid for segment in plan.schedule.segments]
    ops = {grid.name: grid.op for grid in plan.grids}
    found: dict[int, list[Span]] = {}
    for worker, records in enumerate(trace.astype(np.int64)):
        used = int(np.count_nonzero(records[:-1, _BEGIN])) if len(records) > 1 else 0
        if used >= len(records) - 1:
            raise DeviceError("the records of a timeline are full; record fewer steps at once")
        clock = _clock(records[0], records[-1])
        for record in records[1:used].tolist():
            step = record[_STEP] >> 32
            grid = names[record[_STEP] & _HALF]
            begin, ready, done, published, weights = (
                int(clock(record[i])) if record[i] else 0 for i in (_BEGIN, _READY, _DONE, _PUBLISHED, _WEIGHTS)
            )
            span = Span(
                worker, grid, ops[grid], record[_TASK] >> 32, begin, ready, done, step % parts,
                count=record[_TASK] & _HALF, memory_ns=int(record[_MEMORY] * clock.rate),
                published_ns=published, weights_ns=weights,
            )  # fmt: skip
            found.setdefault(step // parts, []).append(span)
    return [Timeline(tuple(found[k]), plan.name) for k in sorted(found)]


class _clock:
    def __init__(self, first: Any, last: Any) -> None:
        self.ns, self.cycles = int(first[1]), int(first[2])
        self.rate = (int(last[1]) - self.ns) / max(int(last[2]) - self.cycles, 1)

    def __call__(self, cycles: int) -> float:
        return self.ns + (cycles - self.cycles) * self.rate
