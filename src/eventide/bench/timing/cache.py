"""A cold cache on the CPU: every core reads through twice the last-level cache before a timed call.

The runner does this while the worker is stopped, from one thread pinned to each core the worker may use, so that
private caches are replaced as well. Reading moves less than writing and evicts as much.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_FALLBACK_BYTES = 32 << 20


def last_level_cache_bytes() -> int:
    """Size of the largest cache of core 0 as the kernel tells it, 32 MiB when it does not."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
        if match:
            sizes.append(int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]])
    return max(sizes) or _FALLBACK_BYTES


class CacheFlusher:
    """Holds the buffer and one thread a core. `flush` returns when all caches hold nothing of the worker's."""

    def __init__(self, num_bytes: int | None = None) -> None:
        self.num_bytes = num_bytes if num_bytes is not None else min(2 * last_level_cache_bytes(), 512 << 20)
        self.cores = sorted(os.sched_getaffinity(0))
        self._buffer = np.ones(self.num_bytes // 8, dtype=np.int64)
        self._pool = ThreadPoolExecutor(len(self.cores), thread_name_prefix="flush")

    def _read(self, core: int) -> int:
        os.sched_setaffinity(0, {core})  # 0 is the calling thread
        share = len(self._buffer) // len(self.cores)
        first = self.cores.index(core) * share
        # a share of a shared cache, and at least a private cache's worth
        part = self._buffer[first : first + max(share, (4 << 20) // 8)]
        return int(part.sum())

    def flush(self) -> None:
        for future in [self._pool.submit(self._read, core) for core in self.cores]:
            future.result()

    def close(self) -> None:
        self._pool.shutdown()
