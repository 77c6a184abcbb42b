"""Every environment variable that Eventide reads, as one typed table.

A variable is read when it is asked for, never at import, so that a program (or a test) may set it at any time. A value
that can't be understood raises `UsageError`; it is never ignored. To add one: a line below, nothing else.

    NUM_THREADS.get()          4 with EVENTIDE_NUM_THREADS=4, None when it isn't set
    MEMORY_LIMIT.get()         8589934592 with EVENTIDE_MEMORY_LIMIT=8GiB
    table()                    name, meaning and current value of each, for `--help` and docs
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from eventide.errors import UsageError

__all__ = ["CACHE_DIR", "CPU_ISA", "MEMORY_LIMIT", "NUM_THREADS", "VARIABLES", "Variable", "table"]

T = TypeVar("T")
_ISAS = ("portable", "avx2", "avx512", "avx512bf16")
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def positive_int(text: str) -> int:
    """A decimal integer of at least 1."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ValueError("a positive integer")
    return int(text)


def num_bytes(text: str) -> int:
    """A number of bytes, with an optional unit: ``4096``, ``512MiB``, ``8 GB``."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([a-z]*)", text.lower())
    if not match or match[2] not in _UNITS:
        raise ValueError("a number of bytes such as 4096, 512MiB or 8GB")
    return int(float(match[1]) * _UNITS[match[2]])


def directory(text: str) -> Path:
    """A directory, which may not exist yet; ``~`` is the home directory."""
    path = Path(text).expanduser()
    if path.exists() and not path.is_dir():
        raise ValueError("a directory (this path is a file)")
    return path


@dataclass(frozen=True)
class Variable(Generic[T]):
    """One environment variable. `parse` raises ``ValueError`` with what it expected; `default` holds when it is
    unset."""

    name: str
    parse: Callable[[str], T]
    default: T
    meaning: str

    def get(self, environ: Mapping[str, str] | None = None) -> T:
        """The parsed value, or the default when the variable is unset or empty; a bad value raises `UsageError`."""
        text = (os.environ if environ is None else environ).get(self.name, "").strip()
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise UsageError(f"environment variable {self.name}: expected {error}, got {text!r}") from None


def instruction_set(text: str) -> str:
    """The name of an instruction set that CPU operators are compiled for."""
    if text not in _ISAS:
        raise ValueError(f"one of {', '.join(_ISAS)}")
    return text


NUM_THREADS: Variable[int | None] = Variable(
    "EVENTIDE_NUM_THREADS", positive_int, None, "CPU workers when num_threads isn't given (otherwise one a core)"
)
MEMORY_LIMIT: Variable[int | None] = Variable(
    "EVENTIDE_MEMORY_LIMIT", num_bytes, None, "memory a model may take, in place of what the system reports as free"
)
CACHE_DIR: Variable[Path] = Variable(
    "EVENTIDE_CACHE_DIR", directory, Path("~/.cache/eventide").expanduser(), "where compiled kernels and plans are kept"
)
CPU_ISA: Variable[str | None] = Variable(
    "EVENTIDE_CPU_ISA", instruction_set, None, "instruction set of CPU operators (otherwise the best of the processor)"
)

VARIABLES: tuple[Variable[Any], ...] = (NUM_THREADS, MEMORY_LIMIT, CACHE_DIR, CPU_ISA)


def table(environ: Mapping[str, str] | None = None) -> list[tuple[str, str, Any]]:
    """(name, meaning, current value) of every variable; raises `UsageError` at the first bad value."""
    return [(variable.name, variable.meaning, variable.get(environ)) for variable in VARIABLES]
