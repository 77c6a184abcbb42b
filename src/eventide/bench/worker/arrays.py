"""Tensors in shared memory: layout, NumPy and torch views of them, and element types by name.

An arena is one memory file. It holds `slots` copies of a list of tensors, each at its own page-aligned offset:

    slot 0: x @ 0, w @ 4096 | slot 1: x @ 8192, w @ 12288

The runner maps the inputs' arena for writing and hands the worker a descriptor opened read-only, so that not even
``mprotect`` can turn it writable: a solution that writes into an input faults. ``float4_e2m1`` is stored as torch and
the original do, two elements a byte along the last axis.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

PAGE = 4096
Array = npt.NDArray[Any]

_ML_DTYPES = {
    "bfloat16": "bfloat16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e5m2": "float8_e5m2",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
    "float8_e8m0fnu": "float8_e8m0fnu",
}
PACKED = {"float4_e2m1": 2}  # elements a byte


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type that stores `name`; packed types are bytes."""
    if name in PACKED:
        return np.dtype(np.uint8)
    if name in _ML_DTYPES:
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
        return dtype
    return np.dtype(name)


def torch_dtype(name: str) -> Any:
    """The torch type of `name`."""
    import torch

    return getattr(torch, {"float4_e2m1": "float4_e2m1fn_x2"}.get(name, name))


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a call. A scalar has no shape and carries its value; an absent input has neither."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    value: bool | int | float | None = None
    offsets: tuple[int, ...] = ()
    generate: dict[str, Any] = field(default_factory=dict)  # how a device draws it, where the host does not
    optional: bool = False  # an output that a solution may leave out

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in elements of `numpy_dtype`; raises ValueError for a packed axis of odd length."""
        assert self.shape is not None
        per_byte = PACKED.get(self.dtype, 1)
        if per_byte == 1 or not self.shape:
            return self.shape
        if self.shape[-1] % per_byte:
            raise ValueError(f"{self.name}: the last axis of {self.dtype} must be even, got {self.shape[-1]}")
        return (*self.shape[:-1], self.shape[-1] // per_byte)

    @property
    def num_bytes(self) -> int:
        """Bytes of one copy (eight for a scalar)."""
        if self.shape is None:
            return 8
        count = 1
        for length in self.stored_shape:
            count *= length
        return count * numpy_dtype(self.dtype).itemsize

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TensorInfo:
        shape = data["shape"]
        return cls(
            data["name"],
            data["dtype"],
            None if shape is None else tuple(shape),
            data["value"],
            tuple(data["offsets"]),
            data["generate"],
            data["optional"],
        )


def lay_out(infos: list[TensorInfo], slots: int) -> tuple[list[TensorInfo], int]:
    """`infos` with an offset for each slot, and the arena's size in bytes. Neighbours never share a page."""
    offsets: list[list[int]] = [[] for _ in infos]
    end = 0
    for _ in range(slots):
        for info, places in zip(infos, offsets):
            places.append(end)
            end += -(-max(info.num_bytes, 1) // PAGE) * PAGE
    placed = [replace(info, offsets=tuple(places)) for info, places in zip(infos, offsets)]
    return placed, max(end, PAGE)


class Arena:
    """A memory file and its mapping in this process."""

    def __init__(self, fd: int, num_bytes: int, *, writable: bool) -> None:
        self.fd = fd
        self.num_bytes = num_bytes
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.map = mmap.mmap(fd, num_bytes, mmap.MAP_SHARED, protection)
        self.bytes: Array = np.frombuffer(self.map, dtype=np.uint8)

    @classmethod
    def create(cls, name: str, num_bytes: int) -> Arena:
        """A fresh arena of zeros, writable here. Raises OSError when memory is short."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, num_bytes)
            return cls(fd, num_bytes, writable=True)
        except BaseException:
            os.close(fd)
            raise

    def open_read_only(self) -> int:
        """A new descriptor of the same memory that can never be mapped for writing."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def view(self, info: TensorInfo, slot: int) -> Array:
        """`info`'s copy in `slot` as an array over the mapping (a scalar: one 8-byte element)."""
        start = info.offsets[slot]
        raw = self.bytes[start : start + info.num_bytes]
        if info.shape is None:
            return raw.view(np.int64 if info.dtype.startswith(("int", "uint", "bool")) else np.float64)
        array: Array = raw.view(numpy_dtype(info.dtype)).reshape(info.stored_shape)
        return array

    def close(self) -> None:
        os.close(self.fd)


def to_torch(array: Array, dtype: str) -> Any:
    """A torch tensor over the same memory. A read-only array gives a tensor whose writes fault."""
    import warnings

    import torch

    plain = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[array.dtype.itemsize]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns about arrays that are not writable
        # torch cannot reinterpret a 0-d tensor, so it is made flat and reshaped
        flat = torch.from_numpy(array.reshape(-1).view(plain))
    return flat.view(torch_dtype(dtype)).reshape(array.shape)
