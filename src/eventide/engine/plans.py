"""Compiled plans, kept on disk, so that a model starts without compiling and verifying its plan again.

    plan = compiled_plan(loaded, target.cpu(2), "static")      ~/.cache/eventide/plans/3f9c….json after the first time

The file's name is a digest of all that the plan depends on: configuration, limits, dtype, target, schedule, and the size
and time of every Python file of this package. A plan is kept only when the verifier has accepted it. A file that can't be
read is made again; a folder that can't be written means that nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

from .. import __version__
from ..env import CACHE_DIR
from ..ir import serial
from ..ir.nodes import Plan
from ..passes.pipeline import compile_plan
from ..target import Target
from .load import Loaded

__all__ = ["compiled_plan"]

PACKAGE = Path(__file__).parents[1]
_KEPT = 64  # plans; older ones go


def compiled_plan(loaded: Loaded, target: Target, schedule: str) -> Plan:
    """The plan of a model for a target, from the cache or compiled now."""
    path = CACHE_DIR.get() / "plans" / f"{_key(loaded, target, schedule)}.json"
    try:
        return serial.load(path)
    except Exception:
        # no file, or whatever half of one brings about: making the plan again mends it
        pass
    plan = compile_plan(loaded.program(), target, schedule)
    _keep(plan, path)
    return plan


def _key(loaded: Loaded, target: Target, schedule: str) -> str:
    program = loaded.config, loaded.limits, loaded.dtype, loaded.decode, loaded.splits
    parts = [__version__, sys.version, *program, target, schedule, *_sources()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _sources() -> list[tuple[str, int, int]]:
    found = []
    for folder in ("", "ir", "ops", "passes", "schedule", "models"):
        for root, folders, files in os.walk(PACKAGE / folder):
            folders[:] = sorted(name for name in folders if folder and name not in ("__pycache__", "bundled"))
            for name in sorted(name for name in files if name.endswith(".py")):
                facts = os.stat(os.path.join(root, name))
                found.append((os.path.relpath(os.path.join(root, name), PACKAGE), facts.st_size, facts.st_mtime_ns))
    return found


def _keep(plan: Plan, path: Path) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        serial.save(plan, part)
        # renamed into place, so that no process ever reads half a plan
        part.replace(path)
        plans = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in plans[:-_KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        with suppress(OSError):
            part.unlink()
