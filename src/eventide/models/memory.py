"""How much memory a model may take, asked before it takes any.

    require_memory(1_200_000_000, "the weights of Qwen3-0.6B")
    OutOfMemoryError: the weights of Qwen3-0.6B need 1.1 GiB of memory and 800.0 MiB are available; ...

Pages of mapped files count as available: the system drops them when it must.
"""

from __future__ import annotations

from pathlib import Path

from eventide import env
from eventide.errors import OutOfMemoryError

__all__ = ["available_bytes", "readable", "require_memory"]


def available_bytes() -> int | None:
    """Bytes that this process may still take: EVENTIDE_MEMORY_LIMIT, or the least of what Linux and its control group
    report; None where neither can be read."""
    limit = env.MEMORY_LIMIT.get()
    if limit is not None:
        return limit
    found = [value for value in (_meminfo(), _control_group()) if value is not None]
    return min(found, default=None)


def require_memory(needed_bytes: int, purpose: str) -> None:
    """Raise `OutOfMemoryError` with both figures if `needed_bytes` aren't available; do nothing where that is
    unknown."""
    available = available_bytes()
    if available is not None and needed_bytes > available:
        raise OutOfMemoryError(
            f"{purpose} need {readable(needed_bytes)} of memory and {readable(available)} are available; "
            "free some, take a smaller model or dtype, or set EVENTIDE_MEMORY_LIMIT if this figure is wrong"
        )


def readable(num_bytes: int) -> str:
    """A number of bytes with its unit."""
    unit, size = next(((u, s) for u, s in (("GiB", 2**30), ("MiB", 2**20)) if num_bytes >= s), ("KiB", 2**10))
    return f"{num_bytes / size:.1f} {unit}"


def _meminfo(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _control_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    # version 2 as a container sees it; file pages that nobody uses count as free, as in MemAvailable
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((root / "memory.current").read_text())
        for line in (root / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                used -= int(line.split()[1])
        return max(0, int(limit) - used)
    except (OSError, ValueError, IndexError):
        return None
