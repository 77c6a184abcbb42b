"""What a value-returning solution gave back: check its form, then copy it to shared memory.

A lazy object that computes when it is read would move work out of the timed part, so only exact arrays, tensors and
numbers count. A wrong count or shape is INCORRECT_SHAPE, a wrong element type INCORRECT_DTYPE.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from eventide.bench.worker.arrays import Arena, TensorInfo, numpy_dtype, to_torch, torch_dtype


class ResultError(Exception):
    """Carries the status that the result earns."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


def as_list(result: Any, outputs: list[TensorInfo]) -> list[Any]:
    """The results in the order of `outputs`: a tuple, a list, a dictionary by name or a single value."""
    if isinstance(result, dict):
        missing = [info.name for info in outputs if info.name not in result and not info.optional]
        if missing:
            raise ResultError("INCORRECT_SHAPE", f"the result lacks {missing[0]!r}")
        return [result.get(info.name) for info in outputs]
    values = list(result) if type(result) in (tuple, list) else [result]
    while len(values) < len(outputs) and outputs[len(values)].optional:
        values.append(None)
    if len(values) != len(outputs):
        raise ResultError("INCORRECT_SHAPE", f"expected {len(outputs)} results, got {len(values)}")
    return values


def store(value: Any, info: TensorInfo, arena: Arena, slot: int, *, cast: bool = False) -> None:
    """Copy one result into its place; raises ResultError when it is not what the definition says.

    `cast` converts element types instead of refusing them: a reference may compute in a wider type.
    """
    if value is None and info.optional:
        return
    place = arena.view(info, slot)
    if info.shape is None:
        if not isinstance(value, (bool, int, float, np.generic)):
            raise ResultError("INCORRECT_DTYPE", f"{info.name}: expected a Python number, got {_kind(value)}")
        place[...] = value
        return
    if isinstance(value, np.generic) and info.shape == ():
        value = np.asarray(value)  # what NumPy's reductions give instead of a 0-D array
    if type(value) is np.ndarray:
        value = value.astype(place.dtype) if cast else value
        _check(info, str(value.dtype), str(numpy_dtype(info.dtype)), value.shape)
        place[...] = value
        return
    if type(value).__module__.split(".")[0] == "torch":
        import torch

        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise ResultError("RUNTIME_ERROR", f"{info.name}: expected a plain torch.Tensor, got {_kind(value)}")
        value = value.to(torch_dtype(info.dtype)) if cast else value
        _check(info, str(value.dtype), str(torch_dtype(info.dtype)), tuple(value.shape))
        if value.device.type == "cpu" and value.is_contiguous():
            ctypes.memmove(place.ctypes.data, value.data_ptr(), place.nbytes)
            return
        # copies bytes, so that types which torch cannot copy between devices work as well
        plain = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        flat = value.detach().contiguous().reshape(-1).view(plain)
        to_torch(place, info.dtype).reshape(-1).view(plain).copy_(flat)
        return
    raise ResultError("INCORRECT_DTYPE", f"{info.name}: expected an array of {info.dtype}, got {_kind(value)}")


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _check(info: TensorInfo, dtype: str, wanted_dtype: str, shape: tuple[int, ...]) -> None:
    if tuple(shape) != info.stored_shape:
        raise ResultError("INCORRECT_SHAPE", f"{info.name}: expected shape {info.stored_shape}, got {tuple(shape)}")
    if dtype != wanted_dtype:
        raise ResultError("INCORRECT_DTYPE", f"{info.name}: expected {wanted_dtype}, got {dtype}")
