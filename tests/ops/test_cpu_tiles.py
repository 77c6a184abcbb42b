"""Every operator's CPU tiles against its NumPy reference, on every instruction set that this machine runs."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from eventide.dtypes import to_numpy
from eventide.ops import get_op
from eventide.ops.case import Case, ints, normal

from .calls import by_reference, by_tiles, plan_of
from .native import FLAGS, Library, Panel, cpu_ops, library, pack, pack_narrow, runnable

ISAS = [pytest.param(i, marks=pytest.mark.skipif(not runnable(i), reason=f"this CPU does not run {i}")) for i in FLAGS]
FIXED = {"avx2"}  # there bfloat16 weights in 12 bits and bfloat16 x are multiplied as integers (device/cpu/fixed.h)
CASES = [
    pytest.param(name, case, dtype, id=f"{name}: {case.name}, {dtype}")
    for name in cpu_ops()
    for case in get_op(name).cases
    for dtype in case.dtypes
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "case", "dtype"), CASES)
def test_tiles_match_the_reference(isa: str, name: str, case: Case, dtype: str) -> None:
    arrays = case.make(np.random.default_rng(zlib.crc32(case.name.encode())), dtype)
    plan = plan_of(name, arrays, case.attrs)
    want, got = by_reference(plan, arrays), by_tiles(library(isa), plan, arrays)
    assert want.keys() == got.keys()
    for key, expected in want.items():
        if expected.dtype.kind in "iu":
            np.testing.assert_array_equal(got[key], expected, err_msg=key)
            continue
        w, g = expected.astype(np.float64), got[key].astype(np.float64)
        finite = np.isfinite(w)
        np.testing.assert_array_equal(np.where(finite, 0, g), np.where(finite, 0, w), err_msg=key)
        error = np.max(np.abs(g - w)[finite], initial=0) / max(np.max(np.abs(w[finite]), initial=0), 1e-30)
        assert error <= case.tolerance[dtype], f"{key}: relative error {error:.2e}"


def narrow_with_exceptions(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, Panel]:
    """A weight that does not lack exceptions, in groups by themselves, in rows and columns that touch, at both ends."""
    w = normal(rng, "bfloat16", n, k, scale=k**-0.5)
    for _ in range(max(1, n * k // 600)):
        w[rng.integers(n), rng.integers(k)] = rng.choice([0.0, -0.0, 1e-30, -3e-9, 1e-38])
    packed = pack_narrow(w)
    assert packed is not None
    return w, packed


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_twelve_bits_give_the_bits_of_sixteen(isa: str, dtype: str) -> None:
    if isa in FIXED and dtype == "bfloat16":
        pytest.skip("products of integers: see test_products_of_fixed_point_numbers")
    rng, lib = np.random.default_rng(3), library(isa)
    for n, k in [(70, 461), (32, 128), (96, 1024), (40, 261), (40, 1100), (33, 2049)]:
        w, packed = narrow_with_exceptions(rng, n, k)
        for tokens in (*range(1, 14), 25, 131):
            x, residual = normal(rng, dtype, tokens, k), normal(rng, dtype, tokens, n)
            norm = normal(rng, dtype, k)
            results = []
            for weight in (pack(w), packed):
                y = np.full((tokens, n), np.nan, x.dtype)
                operands = {"x": x, "w": weight, "norm_weight": norm, "residual": residual, "y": y}
                extents = [-(-tokens // 128), -(-n // 32)]
                lib.run("linear", operands, {"eps": 1e-6}, {"tile_m": 128, "tile_n": 32}, extents)
                results.append(y)
            assert results[0].tobytes() == results[1].tobytes(), f"{tokens} tokens, w {w.shape}"


@pytest.mark.parametrize("isa", ISAS)
def test_products_too_small_for_float32_are_zero_without_a_sign(isa: str) -> None:
    if isa in FIXED:
        pytest.skip("products of integers: see test_products_of_fixed_point_numbers")
    lib, tokens, n, k = library(isa), 20, 32, 1026
    w = np.full((n, k), 2.0**-100).astype(to_numpy("bfloat16"))
    x = np.full((tokens, k), -0.0).astype(w.dtype)
    x[:, 1024] = -(2.0**-100)
    packed = pack_narrow(w)
    assert packed is not None
    for weight in (pack(w), packed):
        y = np.full((tokens, n), np.nan, w.dtype)
        lib.run("linear", {"x": x, "w": weight, "y": y}, {}, {"tile_m": 128, "tile_n": 32}, [1, 1])
        assert not np.frombuffer(y.tobytes(), np.uint16).any()


def linear(lib: Library, weight: Panel, x: np.ndarray, norm: np.ndarray, residual: np.ndarray) -> np.ndarray:
    tokens, n = residual.shape
    y = np.full((tokens, n), np.nan, np.float32)
    operands = {"x": x, "w": weight, "norm_weight": norm, "residual": residual, "y": y}
    lib.run("linear", operands, {"eps": 1e-6}, {"tile_m": 128, "tile_n": 32}, [-(-tokens // 128), -(-n // 32)])
    return y


# By what x and weights are multiplied in every so many columns, and what y may be off by. Rounding it to bfloat16 costs 1.7e-3.
OUTLIERS = {
    "none": (97, 1, 1, 2e-4),
    "x": (97, 100, 1, 2e-4),
    "x, which weights make up for": (97, 256, 1 / 256, 1.7e-3),
    "far x, which weights make up for": (4096, 1e4, 1e-4, 2e-4),
    "often x, which weights make up for": (5, 64, 1 / 64, 1.7e-3),
    "weights": (4096, 1, 100, 4e-4),
    "far weights, which x makes up for": (4096, 1e-4, 1e4, 4e-4),
    "often weights, which x makes up for": (48, 1 / 20, 20, 0),  # too many: products of floats
}


@pytest.mark.parametrize("isa", [p for p in ISAS if p.values[0] in FIXED])
@pytest.mark.parametrize("outliers", OUTLIERS)
def test_products_of_fixed_point_numbers(isa: str, outliers: str) -> None:
    """Off by less than rounding y to bfloat16 costs, in the same bits whichever tokens are multiplied together."""
    rng, lib = np.random.default_rng(6), library(isa)
    apart, of_x, of_w, most = OUTLIERS[outliers]
    for n, k in [(70, 461), (32, 128), (96, 1024), (40, 261)] if apart == 97 else [(96, 3072), (40, 2701)]:
        w, x = normal(rng, "bfloat16", n, k, scale=k**-0.5), normal(rng, "bfloat16", 131, k)
        residual, norm = normal(rng, "float32", 131, n, scale=0.1), normal(rng, "bfloat16", k)
        x[7] = 0
        x[:, ::11] = 0
        last = [k - 1] if of_x > 1 and apart > 5 else []  # in a block that may not be whole
        for columns in (slice(5, None, apart), last):
            x[:, columns] *= of_x
            w[:, columns] *= of_w
        if outliers.startswith("far x"):  # one that hides another
            x[:, 20] *= 1e8
            w[:, 20] *= 1e-8
        for _ in range(n * k // 6000):
            w[rng.integers(n), rng.integers(k)] = rng.choice([0.0, -0.0, 1e-30, -3e-9, 1e-38])
        packed = pack_narrow(w)
        assert packed is not None, f"w {w.shape}"
        exact, found = (linear(lib, weight, x, norm, np.zeros_like(residual)) for weight in (pack(w), packed))
        whole = linear(lib, packed, x, norm, residual)
        error = np.linalg.norm(found - exact, axis=1) / np.maximum(np.linalg.norm(exact, axis=1), 1e-30)
        assert error[7] == 0 and error.max() <= most, f"w {w.shape}: {error.max():.1e}"
        assert (error.max() > 0) == (most > 0), "products of floats are exact"
        for tokens in range(1, 26):
            first = int(rng.integers(131 - tokens))
            some = slice(first, first + tokens)
            again = linear(lib, packed, x[some], norm, residual[some])
            assert again.tobytes() == whole[some].tobytes(), f"{tokens} tokens, w {w.shape}"


@pytest.mark.parametrize("isa", [p for p in ISAS if p.values[0] in FIXED])
def test_fixed_point_numbers_at_their_limits(isa: str) -> None:
    """Sums of the largest integers do not overflow, in blocks that are full and that are not; values that are not finite make
    their own token's results NaN."""
    lib = library(isa)
    largest = np.float32(255 / 128)
    for k in (1024, 200, 2):
        w = np.full((32, k), largest, np.float32).astype("bfloat16")
        w[1] *= -1
        packed = pack_narrow(w)
        for value in (1.0, 1.9921875, 2.0**-90, 2.0**115):
            x = np.full((9, k), value, np.float32).astype("bfloat16")
            x[1] *= -1
            x[2, 1:], x[3, 1:], x[4, 0], x[5, k - 1] = 0, x[3, 1:] / 16384, np.nan, np.inf
            y = np.zeros((9, 32), np.float32)
            lib.run("linear", {"x": x, "w": packed, "y": y}, {}, {"tile_m": 128, "tile_n": 32}, [1, 1])
            assert np.isnan(y[4:6]).all()
            with np.errstate(invalid="ignore"):
                want = x.astype(np.float64) @ w.astype(np.float64).T
            finite = [0, 1, 2, 3, 6, 7, 8]
            np.testing.assert_allclose(y[finite], want[finite], rtol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_reach_their_row_alone(isa: str, dtype: str) -> None:
    rng, lib = np.random.default_rng(4), library(isa)
    w = normal(rng, "bfloat16", 64, 1024, scale=0.02)
    w[3, 200], w[40, 1023] = np.inf, np.nan  # among exceptions
    w[50] = np.inf  # among codes
    x = np.abs(normal(rng, dtype, 20, 1024))
    packed = pack_narrow(w)
    assert packed is not None
    for tokens in (1, 20):
        y = np.zeros((tokens, 64), np.float32)
        lib.run("linear", {"x": x[:tokens], "w": packed, "y": y}, {}, {"tile_m": 128, "tile_n": 32}, [1, 2])
        assert (y[:, 3] == np.inf).all() and np.isnan(y[:, 40]).all()
        assert not np.isfinite(y[:, 50]).any()
        assert np.isfinite(np.delete(y, [3, 40, 50], axis=1)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_embedding_of_twelve_bits(isa: str) -> None:
    rng, lib = np.random.default_rng(5), library(isa)
    w, packed = narrow_with_exceptions(rng, 70, 131)
    tokens = ints([[*range(70)]])
    operands = {"seq": ints(np.zeros(70)), "pos": ints(np.arange(70)), "tokens": tokens, "w": packed, "y": np.zeros_like(w)}
    lib.run("embed", operands, {}, {"tile_m": 16}, [5])
    assert operands["y"].tobytes() == w.tobytes()
