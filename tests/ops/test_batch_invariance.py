"""A row's result depends on nothing but the row: the same bits in any batch, at any place of a tile, under any tiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eventide.ops.case import ints, normal

from .native import FLAGS, Library, library, pack, runnable

ISAS = [pytest.param(i, marks=pytest.mark.skipif(not runnable(i), reason=f"this CPU does not run {i}")) for i in FLAGS]
DTYPES = ["float32", "bfloat16"]
K, N = 461, 70


def _linear(lib: Library, arrays: dict[str, np.ndarray], rows: slice, tile_m: int, **attrs: Any) -> np.ndarray:
    x = np.ascontiguousarray(arrays["x"][rows])
    residual = np.ascontiguousarray(arrays["residual"][rows])
    y = np.zeros((len(x), N), x.dtype)
    operands = {"x": x, "w": pack(arrays["w"]), "norm_weight": arrays["norm"], "residual": residual, "y": y}
    tiles = {"tile_m": tile_m, "tile_n": 32}
    lib.run("linear", operands, {"eps": 1e-6, **attrs}, tiles, [-(-len(x) // tile_m), -(-N // 32)])
    return y


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(isa: str, dtype: str) -> None:
    rng, lib = np.random.default_rng(1), library(isa)
    shapes = {"x": (70, K), "w": (N, K), "norm": (K,), "residual": (70, N)}
    arrays = {name: normal(rng, dtype, *shape) for name, shape in shapes.items()}
    alone = np.concatenate([_linear(lib, arrays, slice(i, i + 1), 128) for i in range(70)])
    for tile_m, count in [(128, 70), (128, 13), (128, 12), (128, 8), (128, 7), (128, 4), (128, 3), (128, 2), (32, 70), (5, 9)]:
        for start in (0, 70 - count):
            rows = slice(start, start + count)
            got = _linear(lib, arrays, rows, tile_m)
            assert got.tobytes() == alone[rows].tobytes(), f"{count} tokens in tiles of {tile_m}"


def _attention(lib: Library, a: dict[str, np.ndarray], first: int, count: int, tile: int) -> np.ndarray:
    """Positions first .. first + count - 1 of one sequence whose cache is full."""
    q = np.ascontiguousarray(a["q"][first : first + count])
    indptr = [*range(0, count, tile), count]
    y = np.zeros_like(q)
    operands = {
        "q": q,
        "k_cache": a["k"],
        "v_cache": a["v"],
        "pos": ints(np.arange(first, first + count)),
        "tile_indptr": ints(indptr),
        "tile_seq": ints(np.zeros(len(indptr) - 1)),
        "block_table": a["table"],
        "y": y,
    }
    attrs = {"num_heads": 6, "num_kv_heads": 2, "head_dim": 64, "page_size": 64}
    lib.run("attention", operands, attrs, {"tile_queries": tile}, [len(indptr) - 1, 2])
    return y


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(isa: str, dtype: str) -> None:
    rng, lib = np.random.default_rng(2), library(isa)
    a = {"q": normal(rng, dtype, 150, 6 * 64), "k": normal(rng, dtype, 2, 256, 64), "v": normal(rng, dtype, 2, 256, 64)}
    a["table"] = ints(rng.permutation(4)[None])
    a["k"][:, a["table"][0, 2] * 64 + 22 : (a["table"][0, 2] + 1) * 64] = np.nan  # positions that nobody has written
    a["v"][:, a["table"][0, 2] * 64 + 22 : (a["table"][0, 2] + 1) * 64] = np.nan
    alone = np.concatenate([_attention(lib, a, i, 1, 16) for i in range(150)])
    assert np.isfinite(alone.astype(np.float32)).all()
    for first, count, tile in [(0, 150, 16), (0, 150, 7), (60, 10, 16), (128, 22, 32), (149, 1, 1)]:
        got = _attention(lib, a, first, count, tile)
        assert got.tobytes() == alone[first : first + count].tobytes(), f"{count} positions in tiles of {tile}"
