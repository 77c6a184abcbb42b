"""How a run is made: counts, tolerances, limits. Layers: defaults < operator type < definition < command line.

A settings file is JSON with three optional parts::

    {"defaults": {"iterations": 100},
     "op_types": {"moe": {"required_matched_ratio": 0.95}},
     "definitions": {"rmsnorm_h4096": {"atol": 0.001}}}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eventide.errors import BenchError, UsageError


@dataclass(frozen=True)
class Settings:
    """Everything that may be set for one (solution, workload) run."""

    warmup_runs: int = 10
    """Untimed calls at the start of each trial, on fresh inputs."""
    iterations: int = 50
    """Timed calls a trial."""
    trials: int = 3
    """Each in a new process on the CPU, so that the interval knows what a new process changes."""
    correctness_rounds: int = 3
    """Calls that are checked before anything is timed."""
    rtol: float = 1e-2
    atol: float = 1e-2
    required_matched_ratio: float | None = None
    """Share of elements that must be within the limits; None leaves it to the evaluator."""
    timeout_s: float = 300.0
    """Wall-clock limit of one solution on one workload, building excluded."""
    build_timeout_s: float = 300.0
    memory_bytes: int = 8 << 30
    """Resident memory of the solution's processes together; shared inputs and outputs do not count."""
    output_bytes: int = 16 << 20
    """What a solution may print before it is ended."""
    budget_s: float = 60.0
    """Time to spend on the timed iterations of one workload; slow kernels get fewer of them, at least
    `min_iterations`."""
    min_iterations: int = 5
    cold_cache: bool = True
    confidence: float = 0.95
    check_share: float = 1.0
    """Share of the timed iterations whose outputs are checked; which ones, the solution cannot know."""
    seed: int | None = None
    """None derives it from the workload's uuid."""
    profile_baseline: bool = True
    """Time the reference too, interleaved. Without it its latency is taken from the correctness rounds."""

    def __post_init__(self) -> None:
        for name in ("iterations", "trials", "correctness_rounds", "min_iterations", "memory_bytes", "output_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("timeout_s", "build_timeout_s", "budget_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be more than 0 seconds, got {getattr(self, name)}")
        for name in ("warmup_runs", "rtol", "atol"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be 0 or more, got {getattr(self, name)}")
        ratio = self.required_matched_ratio
        if ratio is not None and not 0 < ratio <= 1:
            raise UsageError(f"required_matched_ratio must be in (0, 1], got {ratio}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must be between 0 and 1, got {self.confidence}")
        if not 0 < self.check_share <= 1:
            raise UsageError(f"check_share must be in (0, 1], got {self.check_share}")

    def with_values(self, values: Mapping[str, Any], where: str) -> Settings:
        """A copy with `values` laid over it; raises UsageError for a name that no setting has."""
        types = {f.name: str(f.type) for f in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in types:
                raise UsageError(f"{where}: no setting is called {name!r}; known: {', '.join(types)}")
            wanted = types[name]
            fits = value is None and "None" in wanted
            fits = fits or ("bool" in wanted and isinstance(value, bool))
            fits = fits or ("float" in wanted and isinstance(value, (int, float)) and not isinstance(value, bool))
            fits = fits or ("int" in wanted and isinstance(value, int) and not isinstance(value, bool))
            if not fits:
                raise UsageError(f"{where}: {name} must be {wanted.replace(' | None', '')}, got {value!r}")
        return dataclasses.replace(self, **values)


@dataclass(frozen=True)
class SettingsLayers:
    """The four layers; `for_definition` joins them."""

    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    op_types: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    definitions: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    command_line: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None, command_line: Mapping[str, Any] | None = None) -> SettingsLayers:
        """Read a settings file; raises BenchError when it is unreadable and UsageError when a part is unknown."""
        data: Any = {}
        if path is not None:
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise BenchError(f"the settings file {path} cannot be read: {error}") from None
        known = ("defaults", "op_types", "definitions")
        if not isinstance(data, dict) or not all(isinstance(v, dict) for v in data.values()):
            raise BenchError(f"the settings file {path} must hold an object with the parts {', '.join(known)}")
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise UsageError(f"the settings file {path} has an unknown part {unknown[0]!r}; known: {', '.join(known)}")
        return cls(**data, command_line=dict(command_line or {}))

    def for_definition(self, name: str, op_type: str, own: Mapping[str, Any] | None = None) -> Settings:
        """The settings of one definition; `own` is what the definition itself declares."""
        settings = Settings().with_values(self.defaults, "settings defaults")
        settings = settings.with_values(self.op_types.get(op_type, {}), f"settings of op type {op_type}")
        settings = settings.with_values(own or {}, f"definition {name}")
        settings = settings.with_values(self.definitions.get(name, {}), f"settings of definition {name}")
        return settings.with_values(self.command_line, "command line")
