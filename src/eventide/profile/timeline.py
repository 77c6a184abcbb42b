"""What every worker did, and a file of it that opens in Perfetto (ui.perfetto.dev).

    qkv = Span(worker=0, grid="layers.0.qkv", op="linear", task=3, wait_ns=100, start_ns=250, end_ns=900)
    timeline = Timeline((qkv,))
    timeline.by_grid()                 {"layers.0.qkv": Share("linear", num_tasks=1, work_ns=650, wait_ns=150)}
    write_trace(timeline, path)        Chrome trace events: one track a worker, waits and work as slices of their own

A span has three times of one monotonic clock, in nanoseconds: `wait_ns`, when its worker was free to take it up;
`start_ns`, when all its events had triggered; `end_ns`, when it had notified. Waiting is the first to the second, work
the second to the third. A GPU says more: of the work, how long it waited for operands from memory (`memory_ns`); when the
last of those had arrived (`weights_ns`) and when the notifications had been sent (`published_ns`), 0 where there were none;
and a span there may be `count` consecutive tasks that ran as one.

The format: "Trace Event Format", Google, 2016 (complete events, `ph: X`, times in microseconds).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError

__all__ = ["Share", "Span", "Timeline", "to_chrome", "write_trace"]


@dataclass(frozen=True)
class Span:
    """One task on one worker. `task` is its linear index in the grid, `step` counts from the first step recorded."""

    worker: int
    grid: str
    op: str
    task: int
    wait_ns: int
    start_ns: int
    end_ns: int
    step: int = 0
    count: int = 1
    memory_ns: int = 0
    weights_ns: int = 0
    published_ns: int = 0


@dataclass(frozen=True)
class Share:
    """What the tasks of one grid took, summed over workers. `memory_ns` is a part of `work_ns`."""

    op: str
    num_tasks: int
    work_ns: int
    wait_ns: int
    memory_ns: int = 0


@dataclass(frozen=True)
class Timeline:
    """The spans of one or more steps."""

    spans: tuple[Span, ...]
    name: str = ""

    @property
    def num_workers(self) -> int:
        return len({span.worker for span in self.spans})

    @property
    def elapsed_ns(self) -> int:
        """From the first moment to the last."""
        if not self.spans:
            return 0
        return max(span.end_ns for span in self.spans) - min(span.wait_ns for span in self.spans)

    def by_grid(self) -> dict[str, Share]:
        """Work and waits of each grid, in order of first appearance in a step."""
        found: dict[str, list[int]] = {}
        ops: dict[str, str] = {}
        for span in self.spans:
            sums = found.setdefault(span.grid, [0, 0, 0, 0])
            ops[span.grid] = span.op
            sums[0] += span.count
            sums[1] += span.end_ns - span.start_ns
            sums[2] += span.start_ns - span.wait_ns
            sums[3] += span.memory_ns
        return {grid: Share(ops[grid], *sums) for grid, sums in found.items()}


def to_chrome(timeline: Timeline) -> dict[str, Any]:
    """The timeline as a Chrome trace: plain data for `json.dump`."""
    origin = min((span.wait_ns for span in timeline.spans), default=0)
    name = timeline.name or "eventide"
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": name}}]
    for worker in sorted({span.worker for span in timeline.spans}):
        label = {"name": f"worker {worker}"}
        events.append({"ph": "M", "pid": 0, "tid": worker, "name": "thread_name", "args": label})
        events.append({"ph": "M", "pid": 0, "tid": worker, "name": "thread_sort_index", "args": {"sort_index": worker}})
    for span in timeline.spans:
        where = {"grid": span.grid, "task": span.task, "step": span.step, **_more(span, origin)}
        if span.start_ns > span.wait_ns:
            events.append(_slice(span.worker, "wait", "wait", span.wait_ns - origin, span.start_ns - origin, where))
        events.append(_slice(span.worker, span.grid, span.op, span.start_ns - origin, span.end_ns - origin, where))
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _more(span: Span, origin: int) -> dict[str, Any]:
    """What a GPU knows of a span, in microseconds where it is a time."""
    found: dict[str, Any] = {"tasks": span.count} if span.count > 1 else {}
    if span.memory_ns:
        found["memory_us"] = span.memory_ns / 1000
    for name, value in (("weights_at_us", span.weights_ns), ("published_at_us", span.published_ns)):
        if value:
            found[name] = (value - origin) / 1000
    return found


def _slice(worker: int, name: str, category: str, start: int, end: int, args: dict[str, Any]) -> dict[str, Any]:
    times = {"ts": start / 1000, "dur": (end - start) / 1000}
    return {"ph": "X", "pid": 0, "tid": worker, "name": name, "cat": category, **times, "args": args}


def write_trace(timeline: Timeline, path: str | Path) -> None:
    """Write the trace to `path`; `UsageError` where that can't be written."""
    try:
        with open(path, "w") as file:
            json.dump(to_chrome(timeline), file, separators=(",", ":"))
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from None


def merge(parts: Iterable[Timeline]) -> Timeline:
    """Several timelines of one clock as one, steps numbered on."""
    spans: list[Span] = []
    name = ""
    first = 0
    for part in parts:
        name = name or part.name
        spans += [Span(**{**vars(span), "step": span.step + first}) for span in part.spans]
        first = max((span.step for span in spans), default=-1) + 1
    return Timeline(tuple(spans), name)
