"""One kernel an operator, as a CUDA graph: the baseline that a persistent kernel must beat.

    graph = OperatorGraph(device, module, source, workers)     captured once; a launch of it is one step
    graph.begin(block, num_steps)                              the launch's parameters, into memory that the graph reads
    while not graph.feed(done): ...                            keeps a few steps queued

A plan of three operators gives a graph of three kernels in a row, each with programmatic dependent launch: it starts while
the one before still runs, fetches its weights, and waits. The first kernel of a step waits for all of the step before.
Neither positions nor sizes stand in the graph (`Launch` and the step's number are read from memory; see
device/cuda/per_op.cuh), so it is captured once for the life of the kernel.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .codegen import Source
from .driver import Device
from .launch import LaunchBlock

__all__ = ["OperatorGraph"]

_QUEUED = 6  # steps ahead of the one that runs: enough to hide the host, few enough to end early


class OperatorGraph:
    """The kernels of one step. `close` frees what it holds."""

    def __init__(self, device: Device, module: Any, source: Source, workers: int) -> None:
        self._device, self._workers = device, workers
        self._parameters = device.allocate(ctypes.sizeof(LaunchBlock), "launch parameters")
        self.left = self._queued = 0  # steps yet to queue, and those queued, of this launch
        shared = source.config.shared_bytes
        functions = [device.get(module, f"operator_{i}") for i in range(len(source.threads))]
        for function in functions:
            device.shared_memory(function, shared)
        address, last = ctypes.c_uint64(self._parameters), len(source.segments) - 1
        with device.capturing() as captured:
            for i, arguments in enumerate(source.segments):
                cls = int(arguments[0].value)
                values = (address, ctypes.c_int32(i), ctypes.c_int32(i == last))
                device.launch(functions[cls], workers, source.threads[cls], shared, *values, overlapping=i > 0)
        self.num_kernels = len(source.segments)
        self._graph = captured[0]

    def begin(self, block: LaunchBlock, num_steps: int) -> None:
        """Makes the next `num_steps` launches of the graph steps of this launch."""
        self._device.upload(self._parameters, np.frombuffer(bytes(block), np.uint8))
        self._device.upload(block.stop, np.array([0, num_steps], np.uint32))
        self.left, self._queued = num_steps, 0

    def feed(self, done: int, stopped: bool) -> bool:
        """Queues steps as `done` of them have ended; True once nothing is left to queue."""
        if stopped:
            self.left = 0
        while self.left and self._queued - done < _QUEUED:
            self._device.launch_graph(self._graph)
            self._queued += 1
            self.left -= 1
        return self.left == 0

    def close(self) -> None:
        self._device.free_graph(self._graph)
        self._device.free(self._parameters)
