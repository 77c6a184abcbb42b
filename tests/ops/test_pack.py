"""The extension's packing of weights against the layout that task.h promises, written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from eventide import _native
from eventide.ops.case import normal

from .native import DTYPES, pack


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (32, 8), (33, 7), (95, 130), (256, 64)])
@pytest.mark.parametrize("threads", [1, 3])
def test_pack(dtype: str, n: int, k: int, threads: int) -> None:
    w = normal(np.random.default_rng(0), dtype, n, k)
    want = pack(w).data
    got = np.full(want.nbytes + 64, 0xAB, np.uint8)
    assert _native.packed_bytes(n, k, DTYPES[dtype]) == want.nbytes
    _native.pack(w.ctypes.data, n, k, DTYPES[dtype], got.ctypes.data, threads)
    assert got[: want.nbytes].tobytes() == want.tobytes()
    assert (got[want.nbytes :] == 0xAB).all(), "packing wrote beyond its end"
