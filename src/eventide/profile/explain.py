"""Where a step's time and bytes go, operator by operator, against what the machine's memory can give.

    report = explain(plan, [step], timelines, bandwidth=44e9)
    report.rows[0]      Row(name="linear gate_up", num_tasks=5376, bytes=352_321_536, work_ms=8.9, wait_ms=0.2, …)
    print(report)

Rows gather the grids that differ in their layer alone. A row's time is what its tasks worked, summed over workers and
divided by their number: the part of the step it would fill if nobody ever waited. `bound_ms` is its bytes at the
measured bandwidth; efficiency is the bound divided by the time. On a GPU the time is two: waiting for streamed operands
(`memory_ms`) and computing; with the waits for events and what lies between tasks they add up to the step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from ..backends.base import StepLike
from ..ir.nodes import Plan
from .timeline import Share, Timeline
from .traffic import traffic

__all__ = ["Report", "Row", "explain"]


@dataclass(frozen=True)
class Row:
    """One kind of operator call in a step. Times are milliseconds, None where nothing was measured."""

    name: str
    op: str
    num_grids: int
    num_tasks: int
    read_bytes: int
    written_bytes: int
    bound_ms: float
    work_ms: float | None = None
    wait_ms: float | None = None
    memory_ms: float | None = None

    @property
    def total_bytes(self) -> int:
        return self.read_bytes + self.written_bytes

    @property
    def efficiency(self) -> float | None:
        return None if not self.work_ms else self.bound_ms / self.work_ms


@dataclass(frozen=True)
class Report:
    """One step. `elapsed_ms` is the median of the measured steps, from first to last moment."""

    plan: str
    num_workers: int
    bandwidth: float  # bytes a second
    rows: tuple[Row, ...]
    elapsed_ms: float | None = None

    @property
    def total_bytes(self) -> int:
        return sum(row.total_bytes for row in self.rows)

    @property
    def bound_ms(self) -> float:
        return sum(row.bound_ms for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `json.dumps`."""
        rows = [{**asdict(row), "efficiency": row.efficiency} for row in self.rows]
        return {**asdict(self), "rows": rows, "total_bytes": self.total_bytes, "bound_ms": self.bound_ms}


def explain(
    plan: Plan,
    steps: Sequence[StepLike],
    timelines: Sequence[Timeline] = (),
    *,
    bandwidth: float,
) -> Report:
    """Join the traffic of a step (or of its parts, if it takes several passes) with timelines of steps like it (medians over
    them; none: bytes alone)."""
    num_workers = plan.schedule.num_workers if plan.schedule else 1
    shares = [timeline.by_grid() for timeline in timelines]
    groups: dict[str, list[str]] = {}
    for grid in plan.grids:
        groups.setdefault(kind(grid.name), []).append(grid.name)
    moved = [traffic(plan, step.symbols, step.inputs) for step in steps]
    rows = []
    for name, grids in groups.items():
        parts = [step[grid] for step in moved for grid in grids]
        read, written = sum(p.read_bytes for p in parts), sum(p.written_bytes for p in parts)
        rows.append(
            Row(
                name=name,
                op=parts[0].op,
                num_grids=len(grids),
                num_tasks=sum(p.num_tasks for p in parts),
                read_bytes=read,
                written_bytes=written,
                bound_ms=(read + written) / bandwidth * 1e3,
                work_ms=_milliseconds(shares, grids, "work_ns", num_workers),
                wait_ms=_milliseconds(shares, grids, "wait_ns", num_workers),
                memory_ms=_milliseconds(shares, grids, "memory_ns", num_workers),
            )
        )
    elapsed = median(timeline.elapsed_ns for timeline in timelines) / 1e6 if timelines else None
    return Report(plan.name, num_workers, bandwidth, tuple(rows), elapsed)


def kind(grid: str) -> str:
    """A grid's name without its layer: layers.3.gate_up → gate_up."""
    return re.sub(r"^layers\.\d+\.", "", grid)


def _milliseconds(
    shares: Sequence[Mapping[str, Share]], grids: Sequence[str], what: str, num_workers: int
) -> float | None:
    if not shares:
        return None
    sums = [sum(getattr(step[grid], what) for grid in grids if grid in step) for step in shares]
    return float(median(sums)) / num_workers / 1e6
