"""Weights and states on a GPU, by name, which several kernels of one model share.

    memory = CudaMemory(device)
    decode = CudaKernel(plan_a, memory=memory)      allocates what plan_a names
    mixed = CudaKernel(plan_b, memory=memory)       finds the same names, checks that they agree, adds what is new
    memory.bind_weights("lm_head", array)           once for both

Two plans agree on a tensor when role, dtype, shape and layout are the same. Weights come in pieces through a staging
buffer and are repacked on the GPU: PANEL8 is described in device/cuda/runtime.cuh.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dtypes import to_numpy
from ...errors import ProgramError, TensorError
from ...ir.nodes import Plan, Tensor
from .codegen import DEVICE
from .driver import Device, check_room
from .layout import max_value_const, nbytes, packed_bytes, pad_k
from .nvrtc import compile_source

__all__ = ["CudaMemory"]

UPLOAD_BYTES = 64 << 20
Array = np.ndarray[Any, np.dtype[Any]]


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
        self._pack: Any = None

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
        d, held = self.device, self._held[t.name]
        shape = held.agrees[2]
        if array.shape != shape or array.dtype != to_numpy(t.dtype):
            raise TensorError(f"weight '{t.name}': expected {t.dtype} {list(shape)}, got {array.dtype} {list(array.shape)}")
        if t.layout == "plain":
            d.upload(held.address, array)
            d.synchronize()
        else:
            self._bind_panels(held.address, array)
        self.bound.add(t.name)

    def _bind_panels(self, address: int, array: Array) -> None:
        d = self.device
        if self._pack is None:
            binary = compile_source((DEVICE / "pack.cuh").read_text())
            self._pack = d.function(binary.cubin, "pack_panel8")
        n, k = array.shape
        rows = min(n, max(8, UPLOAD_BYTES // (k * 2) // 8 * 8))
        staging = d.allocate(rows * k * 2, "a staging buffer")
        try:
            for r in range(0, n, rows):
                have = min(rows, n - r)
                d.upload(staging, array[r : r + have])
                values = (ctypes.c_int32(v) for v in (r, -(-have // 8) * 8, have, k, pad_k(k)))
                d.launch(self._pack, 528, 256, 0, ctypes.c_uint64(staging), ctypes.c_uint64(address), *values)
                d.synchronize()
        finally:
            d.free(staging)

    def write(self, name: str, array: Array) -> None:
        """A state's contents from an array of the same number of bytes."""
        self.device.upload(self._held[name].address, array)

    def read(self, name: str, out: Array) -> None:
        self.device.download(self._held[name].address, out)

    def close(self) -> None:
        for held in self._held.values():
            self.device.free(held.address)
        self._held.clear()
        self.bound.clear()


def _told(identity: tuple[str, str, tuple[int, ...], str]) -> str:
    _, dtype, shape, layout = identity
    return f"{dtype} {list(shape)}{'' if layout == 'plain' else ' ' + layout}"


def require_room(device: Device, what: str, needed: int) -> None:
    """OutOfMemoryError before anything is allocated."""
    check_room(what, needed, *device.free_bytes(), device.name)
