"""The header of one safetensors file, checked, with the place of every tensor.

A file is eight bytes (the header's length, little-endian), a JSON header ``{name: {dtype, shape, data_offsets}}``,
and the tensors' bytes. The safetensors package checks a header and copies tensors out; it gives neither the offsets
that mapping a tensor without a copy takes, nor bfloat16 to NumPy without a framework, nor does it tell a
half-downloaded file from a corrupt one. So the header is read here (about thirty lines), and the package's own
validation runs over the whole file.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from eventide import dtypes
from eventide.errors import CheckpointError, MissingFileError

__all__ = ["StoredTensor", "map_tensor", "read_header"]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `code` is the file's dtype name (``BF16``), `offset` counts bytes from the file's start."""

    path: Path
    code: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a file, by name.

    Raises `MissingFileError` for a file that is absent or shorter than its header says (a download that stopped), and
    `CheckpointError` for a header that breaks the format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            _reject_pointer(path, start)
            if len(start) < 8:
                raise _incomplete(path, size, 8)
            (header_bytes,) = struct.unpack("<Q", start)
            if not 2 <= header_bytes <= _MAX_HEADER_BYTES:
                raise _corrupt(path, f"a header of {header_bytes} bytes")
            if 8 + header_bytes > size:
                raise _incomplete(path, size, 8 + header_bytes)
            text = file.read(header_bytes)
    except FileNotFoundError:
        raise MissingFileError(f"{path.name} is missing in {path.parent}; fetch the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}") from None
    tensors = _parse(path, text, 8 + header_bytes)
    end = max((tensor.offset + tensor.num_bytes for tensor in tensors.values()), default=8 + header_bytes)
    if end > size:
        raise _incomplete(path, size, end)
    try:
        # overlaps, holes and bytes after the last tensor: the package's own check
        with safetensors.safe_open(path, framework="np"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise _corrupt(path, str(error)) from None
    return tensors


def map_tensor(tensor: StoredTensor) -> npt.NDArray[Any]:
    """A read-only array over the mapped file, in the stored dtype; nothing is read until it is used."""
    name = dtypes.from_safetensors(tensor.code)
    assert name is not None, tensor.code
    dtype = dtypes.to_numpy(name)
    if tensor.num_bytes == 0:
        return np.empty(tensor.shape, dtype)
    # the header's length needn't be a multiple of the element's size, so map bytes and look at them as elements
    raw = np.memmap(tensor.path, np.uint8, "r", tensor.offset, (tensor.num_bytes,))
    return np.asarray(raw).view(dtype).reshape(tensor.shape)


def _parse(path: Path, text: bytes, data_start: int) -> dict[str, StoredTensor]:
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            code, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, first, last))
            if not whole or not isinstance(code, str) or last < first:
                raise ValueError(f"tensor {name} has shape {list(shape)} and offsets {[first, last]}")
            tensors[name] = StoredTensor(path, code, shape, data_start + first, last - first)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"{type(error).__name__}: {error}") from None
    for name, tensor in tensors.items():
        known = dtypes.from_safetensors(tensor.code)
        if known is not None and prod(tensor.shape) * dtypes.itemsize(known) != tensor.num_bytes:
            raise _corrupt(path, f"tensor {name} of shape {list(tensor.shape)} in {tensor.num_bytes} bytes")
    return tensors


def _reject_pointer(path: Path, start: bytes) -> None:
    if start == b"version ":
        raise MissingFileError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in {path.parent}")


def _incomplete(path: Path, size: int, least: int) -> MissingFileError:
    return MissingFileError(
        f"{path.name} is half downloaded: expected at least {least} bytes, the file has {size}; fetch it again ({path})"
    )


def _corrupt(path: Path, found: str) -> CheckpointError:
    return CheckpointError(f"{path.name} has a corrupt safetensors header: {found[:200]}; fetch it again ({path})")
