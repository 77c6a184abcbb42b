"""Seeded random weights, for measuring a model's speed from its config.json alone (``load_format="dummy"``).

Matrices and biases are near-normal with standard deviation 0.02 and mean 0, norm weights with mean 1. Random numbers
for every element of a large model would take longer than a first token may, so one block of `BLOCK_LEN` of them is
made, and a tensor reads it round and round from a place that its name and the seed decide. `BLOCK_LEN` is prime: two
rows of a matrix with fewer than `BLOCK_LEN` rows never read the same place (a repeated row would tie two logits),
though rows do overlap. Made with integer arithmetic alone, the values are the same on every machine and NumPy.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from eventide.models.weights import Kind, Source

__all__ = ["BLOCK_LEN", "STD", "DummyWeights"]

BLOCK_LEN = 1_048_573  # the largest prime below 2^20
STD = 0.02


def _mix(counter: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014): 64 well-mixed bits for each 64-bit counter."""
    x = counter * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    mixed: npt.NDArray[np.uint64] = x
    return mixed


def _near_normal(seed: int, num: int) -> npt.NDArray[np.float32]:
    """`num` values of mean 0 and standard deviation 1: sums of four 16-bit uniforms (Irwin-Hall), within ±3.5."""
    counter = np.arange(1, num + 1, dtype=np.uint64) + np.uint64(seed % 2**31 << 32)
    uniforms = _mix(counter).view(np.uint16).reshape(num, 4)
    centred = uniforms.astype(np.int32).sum(axis=1, dtype=np.int32) - 2 * 65535
    normal: npt.NDArray[np.float32] = centred.astype(np.float32)
    normal *= np.float32(np.sqrt(3.0) / 65536.0)
    return normal


class DummyWeights:
    """A `WeightSource` of random values: the same for the same tensor name, shape and seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._normal = _near_normal(seed, BLOCK_LEN)
        self._blocks: dict[tuple[str, float], npt.NDArray[Any]] = {}

    def view(self, source: Source) -> None:
        """Nothing is stored."""
        return None

    def fill(self, source: Source, kind: Kind, out: npt.NDArray[Any]) -> None:
        """Write the values of tensor `source.name` into `out`."""
        if not out.flags.c_contiguous:
            values = np.empty(out.shape, out.dtype)
            self.fill(source, kind, values)
            out[...] = values
            return
        block = self._block(out.dtype, 1.0 if kind == "norm" else 0.0)
        flat = out.reshape(-1)
        start = (zlib.crc32(source.name.encode()) + self._seed * 0x9E3779B1) % BLOCK_LEN
        written = 0
        while written < flat.size:
            num = min(BLOCK_LEN - start, flat.size - written)
            flat[written : written + num] = block[start : start + num]
            written += num
            start = 0

    def _block(self, dtype: np.dtype[Any], mean: float) -> npt.NDArray[Any]:
        key = (dtype.name, mean)
        if key not in self._blocks:
            self._blocks[key] = (self._normal * np.float32(STD) + np.float32(mean)).astype(dtype)
        return self._blocks[key]
