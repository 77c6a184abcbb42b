"""How fast a GPU reads its memory, measured now with a kernel that does nothing else (device/cuda/read.cuh).

    measure_read_bandwidth(device)      bytes a second: the best of a few passes over a buffer far larger than the cache
"""

from __future__ import annotations

import ctypes

from ...errors import OutOfMemoryError
from .codegen import device_source
from .driver import Device
from .nvrtc import compile_source

__all__ = ["measure_read_bandwidth"]

_BUFFER_BYTES = 8 << 30
_SMALLEST = 512 << 20
_CHUNK, _SLOTS, _THREADS = 8192, 24, 288  # as in device/cuda/read.cuh


def measure_read_bandwidth(device: Device, passes: int = 8) -> float:
    """Bytes a second. Takes some 30 ms, and 8 GiB of the GPU's memory for that long, or half of what is free.

    Raises OutOfMemoryError where less than 1 GiB is free.
    """
    device.enter()
    nbytes = min(_BUFFER_BYTES, device.free_bytes()[0] // 2 // _CHUNK * _CHUNK)
    if nbytes < _SMALLEST:
        free = f"{2 * nbytes / 2**30:.2f}"
        raise OutOfMemoryError(f"measuring how fast {device.name} reads needs 1 GiB of free memory, and {free} are free")
    text = device_source("ptx.cuh", "read.cuh")
    module, function = device.load(compile_source(text).cubin, "read_all")
    device.shared_memory(function, _SLOTS * _CHUNK)
    buffer = device.allocate(nbytes, "the read test")
    begin, end = device.event(), device.event()
    try:
        # zeros read faster than data would
        device.fill(buffer, 0x5A, nbytes)
        chunks, found = nbytes // _CHUNK, []
        read = chunks // device.num_sms * device.num_sms * _CHUNK
        for _ in range(passes + 1):
            device.record(begin)
            values = (ctypes.c_uint64(buffer), ctypes.c_int64(chunks), ctypes.c_uint64(buffer))
            device.launch(function, device.num_sms, _THREADS, _SLOTS * _CHUNK, *values)
            device.record(end)
            device.synchronize()
            found.append(read / device.milliseconds(begin, end) * 1e3)
        return max(found[1:])
    finally:
        device.free(buffer)
        device.unload(module)
