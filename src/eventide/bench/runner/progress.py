"""Progress on standard error: one bar over all measurements, one line a device, one line a result."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from eventide.bench.schema import Trace

_STYLES = {"PASSED": "green", "INCORRECT_NUMERICAL": "yellow", "INCORRECT_SHAPE": "yellow", "INCORRECT_DTYPE": "yellow"}


class Progress:
    """A context manager around rich's bars; does nothing unless enabled."""

    def __init__(self, total: int, *, enabled: bool) -> None:
        self.enabled, self.total = enabled, total
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            # few redraws: the bars must not take time from what is measured
            self._bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), refresh_per_second=2)
            self._bars.start()
            self._tasks[""] = self._bars.add_task("measuring", total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, device: str, text: str) -> None:
        """What `device` is doing."""
        if self._bars is None:
            return
        with self._lock:
            if device not in self._tasks:
                self._tasks[device] = self._bars.add_task(device, total=None)
            self._bars.update(self._tasks[device], description=f"{device}  {text}")

    def reporter(self, device: str, label: str) -> Callable[[str], None]:
        """A function that tells in which phase `label` is."""
        return lambda phase: self.show(device, f"{label}: {phase}")

    def advance(self) -> None:
        """One measurement fewer to do."""
        if self._bars is not None:
            self._bars.advance(self._tasks[""])

    def result(self, trace: Trace) -> None:
        """Print one line for a finished measurement."""
        self.advance()
        if self._bars is not None:
            from rich.markup import escape

            style = _STYLES.get(str(trace.evaluation.status) if trace.evaluation else "", "red")
            self._bars.console.print(f"[{style}]{escape(describe(trace))}[/]")


def describe(trace: Trace) -> str:
    """One line: status, solution, workload, latency with its interval, speed-up with its interval, or the reason."""
    outcome = trace.evaluation
    if outcome is None:
        return f"{trace.definition} {trace.uuid}"
    head = f"{outcome.status!s:<20} {trace.solution} on {trace.uuid[:8]}"
    extension = outcome.eventide
    if outcome.performance is None:
        reason = extension.reason if extension is not None else ""
        return f"{head}  {reason or ''}".rstrip()
    timing = extension.timing if extension is not None else None
    latency, speedup = timing.latency_ms if timing else None, timing.speedup_factor if timing else None
    text = f"{head}  {outcome.performance.latency_ms:.4g} ms"
    text += f" [{latency[0]:.4g}, {latency[1]:.4g}]" if latency else ""
    text += f"  {outcome.performance.speedup_factor:.3g}x the reference"
    text += f" [{speedup[0]:.3g}, {speedup[1]:.3g}]" if speedup else ""
    return text
