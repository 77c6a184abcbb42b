"""How fast this machine reads memory, measured now.

    measure_read_bandwidth(num_threads=2)      bytes a second: the best pass over a buffer larger than the caches

Every thread takes the maximum of its part of the buffer with NumPy, which releases the interpreter's lock and compares
vectors faster than memory brings them. The best pass is the figure: a slower one was disturbed.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import numpy as np

__all__ = ["measure_read_bandwidth"]

_BUFFER_BYTES = 256 * 2**20


def measure_read_bandwidth(num_threads: int, *, seconds: float = 0.5, buffer_bytes: int = _BUFFER_BYTES) -> float:
    """Bytes a second that `num_threads` threads read together. Takes about `seconds`, and `buffer_bytes` of memory."""
    data = np.ones(buffer_bytes // 4, np.float32)
    parts = np.array_split(data, num_threads)
    best = 0.0
    end = time.perf_counter() + seconds
    while not best or time.perf_counter() < end:
        best = max(best, data.nbytes / _one_pass(parts))
    return best


def _one_pass(parts: list[np.ndarray]) -> float:
    """Seconds in which every thread reads its part once."""
    barrier = threading.Barrier(len(parts) + 1)

    def read(part: np.ndarray) -> None:
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
            # a maximum needs one pass and no second operand, so nothing but the reads takes time
            part.max()
            barrier.wait()

    threads = [threading.Thread(target=read, args=(part,)) for part in parts]
    try:
        for thread in threads:
            thread.start()
        barrier.wait()
        start = time.perf_counter()
        barrier.wait()
        seconds = time.perf_counter() - start
    except BaseException:
        barrier.abort()  # Ctrl-C, say: readers that waited on would keep the process from ending
        raise
    for thread in threads:
        thread.join()
    return seconds
