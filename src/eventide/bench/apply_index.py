"""Which solution to use for which axes, worked out once from the traces of one hardware.

    measured      axes of a workload → the fastest solution that passed there
    complete      solutions that passed on every workload of the definition; only these go where nobody measured

For axes that were measured the winner is the fastest newest PASSED trace. For others, a complete solution is taken from
the nearest measured point (in the logarithm of the axes), as long as each axis lies between the smallest and the
largest measured value, or the solution declares (`eventide.supports`) that it is valid there. What a solution's
declaration excludes is never chosen. A trace of other sources than the data set's is ignored.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import UsageError
from .dataset import TraceSet
from .schema_expr import UnevaluableError, evaluate
from .schema_solution import Solution
from .schema_trace import Trace

Point = tuple[tuple[str, int], ...]
"""Axes in the order of their names."""
_FORMAT = 1


@dataclass(frozen=True)
class ApplyConfig:
    """How winners are chosen and when they are built."""

    max_relative_error: float | None = None
    """Limit beside the evaluator's verdict; None trusts PASSED."""
    max_absolute_error: float | None = None
    on_miss: Literal["fallback", "best"] = "fallback"
    """Outside every measured range: the decorated function, or the definition's best complete solution."""
    ranges: bool = True
    """Whether a shape between measured ones may use the nearest one's winner."""
    aot_ratio: float = 0.0
    """Share of a definition's winners that are built when apply() is enabled; the rest are built when first needed."""
    hardware: str | None = None
    """Use the traces of this hardware instead of the device's own name."""
    cache_dir: Path | None = None
    """Where built solutions and indices are kept; None is Eventide's cache folder."""

    def __post_init__(self) -> None:
        if self.on_miss not in ("fallback", "best"):
            raise UsageError(f'on_miss must be "fallback" or "best", got {self.on_miss!r}')
        if not 0 <= self.aot_ratio <= 1:
            raise UsageError(f"aot_ratio must be between 0 and 1, got {self.aot_ratio}")


@dataclass
class DefinitionIndex:
    """The choices of one definition on one hardware."""

    measured: dict[Point, list[str]] = field(default_factory=dict)
    """Solutions by measured axes, fastest first."""
    complete: set[str] = field(default_factory=set)
    supports: dict[str, list[str]] = field(default_factory=dict)
    """Declared conditions of the solutions that have some."""

    def candidates(self, axes: Mapping[str, int], constants: Mapping[str, int], config: ApplyConfig) -> list[str]:
        """Solutions to try for these axes, best first; empty for a miss."""
        values = {**constants, **axes}
        here = self.measured.get(point(axes))
        if here is not None:
            return [name for name in here if self._declared(name, values) is not False]
        if not self.measured:
            return []
        nearest = min(self.measured, key=lambda p: (_distance(p, axes), p))
        inside = config.ranges and self._inside(axes)
        chosen = []
        for name in self.measured[nearest] + [n for n in self.ranking() if n not in self.measured[nearest]]:
            declared = self._declared(name, values)
            if name in self.complete and declared is not False and (inside or declared or config.on_miss == "best"):
                chosen.append(name)
        return chosen

    def ranking(self) -> list[str]:
        """Solutions by how many measured points they win, most first."""
        wins: dict[str, int] = defaultdict(int)
        for names in self.measured.values():
            for place, name in enumerate(names):
                wins[name] += place == 0
        return sorted(wins, key=lambda n: (-wins[n], n))

    def winners(self) -> list[str]:
        """Solutions that win somewhere, most often first."""
        first = {names[0] for names in self.measured.values() if names}
        return [name for name in self.ranking() if name in first]

    def _declared(self, name: str, values: Mapping[str, int]) -> bool | None:
        # true: declared valid here, false: declared invalid or not decidable, none: says nothing
        conditions = self.supports.get(name)
        if not conditions:
            return None
        try:
            return all(bool(evaluate(text, values)) for text in conditions)
        except UnevaluableError:
            return False

    def _inside(self, axes: Mapping[str, int]) -> bool:
        for axis, value in axes.items():
            known = [dict(p)[axis] for p in self.measured if axis in dict(p)]
            if not known or not min(known) <= value <= max(known):
                return False
        return True


def point(axes: Mapping[str, int]) -> Point:
    """Axes as a key."""
    return tuple(sorted(axes.items()))


def _distance(p: Point, axes: Mapping[str, int]) -> float:
    known = dict(p)
    return math.fsum(abs(math.log1p(v) - math.log1p(known.get(a, 0))) for a, v in axes.items())


def build_index(data: TraceSet, definition: str, hardware: str, config: ApplyConfig) -> DefinitionIndex:
    """The choices for one definition, in one pass over its traces."""
    newest: dict[tuple[str, str], Trace] = {}
    for trace in data.traces[definition]:
        result = trace.evaluation
        if result is None or trace.solution is None or result.environment.hardware != hardware:
            continue
        key = (trace.solution, trace.uuid)
        before = newest.get(key)
        if before is None or before.evaluation is None or before.evaluation.timestamp <= result.timestamp:
            newest[key] = trace
    wanted = {t.uuid for t in data.workloads[definition]} or {uuid for _, uuid in newest}
    solutions: dict[str, Solution] = {s.name: s for s in data.solutions[definition]}
    latency: dict[Point, dict[str, float]] = defaultdict(dict)
    passed: dict[str, set[str]] = defaultdict(set)
    for (name, uuid), trace in newest.items():
        solution = solutions.get(name)
        if solution is None or not _counts(trace, solution, config):
            continue
        passed[name].add(uuid)
        assert trace.evaluation is not None and trace.evaluation.performance is not None
        axes_key = point(trace.axes)
        now = trace.evaluation.performance.latency_ms
        # several workloads can share their axes and differ in their data: the slowest decides
        latency[axes_key][name] = max(now, latency[axes_key].get(name, 0.0))
    failed_at: dict[Point, set[str]] = defaultdict(set)
    for (name, uuid), trace in newest.items():
        if uuid not in passed[name]:
            failed_at[point(trace.axes)].add(name)
    index = DefinitionIndex()
    for p, by_name in latency.items():
        names = [n for n in sorted(by_name, key=lambda n: (by_name[n], n)) if n not in failed_at[p]]
        if names:
            index.measured[p] = names
    index.complete = {name for name, uuids in passed.items() if wanted <= uuids}
    for name in passed:
        extension = solutions[name].eventide
        if extension is not None and extension.supports:
            index.supports[name] = list(extension.supports)
    return index


def _counts(trace: Trace, solution: Solution, config: ApplyConfig) -> bool:
    result = trace.evaluation
    if not trace.passed or result is None or result.correctness is None:
        return False
    ran = result.eventide.solution_hash if result.eventide else None
    if ran is not None and ran != solution.content_hash:
        return False
    limits = (
        (config.max_relative_error, result.correctness.max_relative_error),
        (config.max_absolute_error, result.correctness.max_absolute_error),
    )
    # written so that a NaN error is over any limit
    return all(limit is None or error <= limit for limit, error in limits)


class IndexCache:
    """Indices in memory and, for a data set with a folder, on disk, keyed by the state of the files they come from."""

    def __init__(self, data: TraceSet, config: ApplyConfig, folder: Path) -> None:
        self.data, self.config, self.folder = data, config, folder
        self._held: dict[tuple[str, str], DefinitionIndex] = {}
        self._state = _files_digest(data.root) if data.root is not None else None

    def get(self, definition: str, hardware: str) -> DefinitionIndex:
        """The index of a definition on a hardware."""
        key = (definition, hardware)
        if key not in self._held:
            path = self._path(definition, hardware)
            found = _read(path) if path is not None else None
            if found is None:
                found = build_index(self.data, definition, hardware, self.config)
                if path is not None:
                    _write(path, found)
            self._held[key] = found
        return self._held[key]

    def _path(self, definition: str, hardware: str) -> Path | None:
        if self._state is None:
            return None
        limits = [self.config.max_relative_error, self.config.max_absolute_error]
        text = json.dumps([_FORMAT, self._state, definition, hardware, limits])
        return self.folder / "apply" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _files_digest(root: Path) -> str:
    whole = hashlib.sha256(str(root.resolve()).encode())
    for folder in ("definitions", "workloads", "solutions", "traces"):
        for file in sorted((root / folder).rglob("*.json*")):
            state = file.stat()
            whole.update(f"{file.relative_to(root)}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return whole.hexdigest()


def _read(path: Path) -> DefinitionIndex | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        measured = {tuple((str(a), int(v)) for a, v in p): [str(n) for n in names] for p, names in data["measured"]}
        return DefinitionIndex(measured, set(data["complete"]), {k: list(v) for k, v in data["supports"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or torn: worked out again


def _write(path: Path, index: DefinitionIndex) -> None:
    data = {
        "measured": [[list(p), names] for p, names in index.measured.items()],
        "complete": sorted(index.complete),
        "supports": index.supports,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(data), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        return  # a cache that cannot be written only costs time
