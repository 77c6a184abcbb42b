"""Weights and states on a GPU, by name, which several kernels of one model share.

    memory = CudaMemory(device)
    decode = CudaKernel(plan_a, memory=memory)      allocates what plan_a names
    mixed = CudaKernel(plan_b, memory=memory)       finds the same names, checks that they agree, adds what is new
    memory.bind_weights("lm_head", array)           once for both

Two plans agree on a tensor when role, dtype, shape and layout are the same. Weights come in pieces through staging
buffers and are repacked on the GPU, as device/cuda/weights.cuh describes. Where a weight's numbers don't fit in 12 bits, its
plan must be made again without (`layout.loosened`); LooseWeightsError names all of them, once they are there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dtypes import to_numpy
from ...errors import DeviceError, ProgramError, TensorError
from ...ir.nodes import Plan, Tensor
from .codegen import device_source
from .driver import Device, check_room
from .layout import TIGHT, max_value_const, nbytes, packed_bytes
from .nvrtc import compile_source

__all__ = ["CudaMemory", "LooseWeightsError"]

UPLOAD_BYTES = 64 << 20
COUNTS = 4096  # tight weights between two checks
Array = np.ndarray[Any, np.dtype[Any]]


class LooseWeightsError(DeviceError):
    """Weights, by `names`, of which 12 bits can't hold every number."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)
        super().__init__(f"{len(names)} weights don't fit in 12 bits, '{min(names)}' among them; use a target with tight=False")


@dataclass(frozen=True)
class _Held:
    """One tensor's memory; `agrees` is what another plan's tensor of this name must equal."""

    address: int
    nbytes: int
    agrees: tuple[str, str, tuple[int, ...], str]


def _identity(t: Tensor) -> tuple[str, str, tuple[int, ...], str]:
    return (t.role, t.dtype, tuple(max_value_const(e) for e in t.shape), t.layout)


def shared_tensors(plan: Plan) -> list[tuple[Tensor, int]]:
    """The weights and states of a plan, each with its bytes."""
    sizes = {"weight": lambda t: packed_bytes(t), "state": lambda t: nbytes(plan, t)}
    return [(t, sizes[t.role](t)) for t in plan.tensors.values() if t.role in sizes]


class CudaMemory:
    """Memory of weights and states on one GPU. `close` frees it; nothing that uses it may run afterwards."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.bound: set[str] = set()
        self._held: dict[str, _Held] = {}
        self._staging: _Staging | None = None
        self._tight: list[str] = []  # weights whose numbers may turn out not to fit

    def missing_bytes(self, plan: Plan) -> int:
        """Bytes that `reserve` would still allocate for this plan."""
        return sum(size for t, size in shared_tensors(plan) if t.name not in self._held)

    def reserve(self, plan: Plan) -> dict[str, int]:
        """Addresses of the plan's weights and states, allocated (states zeroed) where they are new."""
        for t, size in shared_tensors(plan):
            if t.name not in self._held:
                address = self.device.allocate(size, f"{t.role} '{t.name}'")
                self._held[t.name] = _Held(address, size, _identity(t))
                if t.role == "state":
                    self.device.fill(address, 0, size)
        return {t.name: self._held[t.name].address for t, _ in shared_tensors(plan)}

    def check(self, plan: Plan) -> None:
        """ProgramError when a tensor of the plan differs from the one that stands here under its name."""
        for t, _ in shared_tensors(plan):
            held = self._held.get(t.name)
            if held is not None and held.agrees != _identity(t):
                raise ProgramError(
                    f"plan '{plan.name}' can't share {t.role} '{t.name}': it is {_told(held.agrees)} already, and "
                    f"{_told(_identity(t))} here; make both programs with the same sizes"
                )

    def bind_weights(self, t: Tensor, array: Array) -> None:
        """Copies a weight [n, k] (or any shape, if plain) to the GPU in the layout that its plan asks for."""
        shape = self._held[t.name].agrees[2]
        if array.shape != shape or array.dtype != to_numpy(t.dtype):
            raise TensorError(f"weight '{t.name}': expected {t.dtype} {list(shape)}, got {array.dtype} {list(array.shape)}")
        self.bind_rows(t, array, 0, 1, last=True)
        self.check_fit()

    def bind_rows(self, t: Tensor, array: Array, first: int, step: int, *, last: bool) -> None:
        """Copies rows `first`, `first + step`, ... of a weight; `last` says that it is complete with them. Row 0 comes with
        the first of a weight's pieces, which clears what stood there. The array has been read when this returns; the GPU may
        still be at work."""
        d, held = self.device, self._held[t.name]
        shape = held.agrees[2]
        if array.dtype != to_numpy(t.dtype) or array.shape[1:] != shape[1:] or first + (len(array) - 1) * step >= shape[0]:
            raise TensorError(
                f"weight '{t.name}': expected rows of {t.dtype} {list(shape)}, got {array.dtype} {list(array.shape)} from row "
                f"{first} on"
            )
        if t.layout == "plain":
            if step != 1:
                raise TensorError(f"weight '{t.name}' is plain: its rows must follow one another, got every {step}th")
            d.upload(held.address + first * array.nbytes // max(len(array), 1), array)
        else:
            if first == 0:
                d.fill(held.address, 0, held.nbytes)  # the rows that fill the last panel, the lists of a tight layout
            self._bind_panels(t, array, first, step)
        if last:
            self.bound.add(t.name)

    def check_fit(self) -> None:
        """LooseWeightsError where a weight that was bound since the last check lost something."""
        self.device.synchronize()
        if self._tight and self._staging is not None:
            lost = self._staging.take_lost()
            tight, self._tight = self._tight, []
            if loose := {name for name, count in zip(tight, lost) if count}:
                self.bound -= loose
                raise LooseWeightsError(loose)

    def _bind_panels(self, t: Tensor, array: Array, first: int, step: int) -> None:
        """Through page-locked memory, which several threads fill while the copy engine and the GPU are at the last part."""
        n, k = array.shape
        rows = max(1, UPLOAD_BYTES // (k * 2))
        for r in range(0, n, rows):
            part = array[r : r + rows]
            staging = self._staging = self._staging or _Staging(self.device)
            self.pack(t, staging.send(part), first + r * step, step, len(part))
            staging.used()

    def pack(self, t: Tensor, source: int, first: int, step: int, rows: int) -> None:
        """Packs rows that stand on the GPU in row-major order. A tight weight's first rows must be packed into zeros."""
        staging = self._staging = self._staging or _Staging(self.device)
        values = [ctypes.c_int32(v) for v in (first, step, rows, self._held[t.name].agrees[2][1])]
        addresses = [ctypes.c_uint64(source), ctypes.c_uint64(self._held[t.name].address)]
        if t.layout != TIGHT:
            self.device.launch(staging.pack_panel, 528, 256, 0, *addresses, *values)
            return
        if t.name not in self._tight:
            if len(self._tight) == COUNTS:
                self.check_fit()
            self._tight.append(t.name)
        lost = ctypes.c_uint64(staging.lost + 4 * self._tight.index(t.name))
        self.device.launch(staging.pack_tight, 1056, 256, 0, *addresses, *values, lost)

    def write(self, name: str, array: Array, offset: int = 0) -> None:
        """A state's contents, from byte `offset` on, from an array of as many bytes."""
        self.device.upload(self._held[name].address + offset, array)

    def read(self, name: str, out: Array) -> None:
        self.device.download(self._held[name].address, out)

    def end_loading(self) -> None:
        """Frees the staging buffers; binding more weights makes new ones."""
        if self._staging is not None:
            try:
                self.check_fit()
            finally:
                self._staging.close()
                self._staging = None

    def close(self) -> None:
        try:
            with suppress(LooseWeightsError):
                self.end_loading()
        finally:
            for held in self._held.values():
                self.device.free(held.address)
            self._held.clear()
            self.bound.clear()


class _Staging:
    """Two buffers on either side, used in turn."""

    def __init__(self, device: Device) -> None:
        self._device = d = device
        cubin = compile_source(device_source("ptx.cuh", "weights.cuh", "pack.cuh")).cubin
        self._module, self.pack_panel = d.load(cubin, "pack_panel8")
        self.pack_tight = d.get(self._module, "pack_tight8")
        self.lost = d.allocate(COUNTS * 4, "counts of weights")
        d.fill(self.lost, 0, COUNTS * 4)
        self._host = [d.host_memory(UPLOAD_BYTES) for _ in range(2)]
        self._gpu = [d.allocate(UPLOAD_BYTES, "a staging buffer") for _ in range(2)]
        self._free = [d.event() for _ in range(2)]
        self._threads = ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0))), "eventide-upload")
        self._turn = 0

    def send(self, array: Array) -> int:
        """The address that the rows are copied to, by the time that the stream comes to it."""
        d, side = self._device, self._turn % 2
        d.wait(self._free[side])
        size = array.nbytes
        target = self._host[side][:size].view(array.dtype).reshape(array.shape)
        step = -(-len(array) // self._threads._max_workers)
        # NumPy copies without the interpreter's lock; the pages of a mapped file are read meanwhile
        list(self._threads.map(lambda r: np.copyto(target[r : r + step], array[r : r + step]), range(0, len(array), step)))
        d.upload(self._gpu[side], target)
        return self._gpu[side]

    def used(self) -> None:
        """After the work that reads what `send` sent."""
        self._device.record(self._free[self._turn % 2])
        self._turn += 1

    def take_lost(self) -> list[int]:
        """How many numbers of each tight weight were lost; counts from zero again."""
        counts = np.zeros(COUNTS, np.uint32)
        self._device.download(self.lost, counts)
        self._device.fill(self.lost, 0, counts.nbytes)
        return [int(n) for n in counts]

    def close(self) -> None:
        d = self._device
        d.synchronize()
        d.free(self.lost)
        self._threads.shutdown()
        for array, address in zip(self._host, self._gpu):
            d.free_host_memory(array)
            d.free(address)
        d.unload(self._module)


def _told(identity: tuple[str, str, tuple[int, ...], str]) -> str:
    _, dtype, shape, layout = identity
    return f"{dtype} {list(shape)}{'' if layout == 'plain' else ' ' + layout}"


def require_room(device: Device, what: str, needed: int) -> None:
    """OutOfMemoryError before anything is allocated."""
    check_room(what, needed, *device.free_bytes(), device.name)
