"""The extension's packing of weights against the layouts that task.h and narrow_format.h promise, written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from eventide import _native
from eventide.dtypes import to_numpy
from eventide.ops.case import normal

from .native import DTYPES, pack, pack_narrow


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


def halves(w: np.ndarray) -> np.ndarray:
    return w.astype(to_numpy("bfloat16")).view(np.uint16)


def unpack_narrow(packed: np.ndarray, n: int, k: int) -> tuple[np.ndarray, int, bool]:
    """The weights' bits [n, k] that narrow_format.h promises, written in NumPy, how many exceptions there were, and whether
    they suit products of integers."""
    num_panels, groups = -(-n // 32), -(-k // 8)
    words = packed.view(np.uint32)
    panels = words[: num_panels * (32 + groups * 96)].reshape(num_panels, -1)
    base, word = panels[:, None, :32], panels[:, 32:].reshape(num_panels, groups, 3, 32).transpose(2, 0, 1, 3)
    own = word & 0x87FF87FF
    last = (word[0] >> 4 & 0x07800780) | (word[1] >> 8 & 0x00780078) | ((word[2] >> 12 | word[2] << 20) & 0x80078007)
    pairs = np.stack([*own, last], 2) + base[:, :, None]  # [panels, groups, 4, 32]
    values = np.stack([pairs & 0xFFFF, pairs >> 16], 3).astype(np.uint16)
    bits = values.transpose(0, 4, 1, 2, 3).reshape(num_panels * 32, groups * 8)
    rest = words[panels.size :]
    assert rest[num_panels] in (0, 1)
    entries = rest[(num_panels + 2) // 2 * 2 :].reshape(-1, 2)
    count = 0
    for panel, at in enumerate(rest[:num_panels]):
        order = []
        while entries[at, 0] != 0xFFFFFFFF:
            place, value = entries[at]
            bits[panel * 32 + int(value & 0xFFFF), place] = value >> 16
            order.append(place)
            at += 1
        assert order == sorted(order)
        count += len(order)
    assert count + num_panels == len(entries)
    return bits, count, bool(rest[num_panels])


def with_specials(rng: np.random.Generator) -> np.ndarray:
    bits = halves(rng.standard_normal((64, 4096)) * 0.02)
    # zeros of both signs, the smallest subnormal, infinities, NaN with and without payload, the largest number
    for i, value in enumerate([0, 0x8000, 1, 0x807F, 0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81, 0x7F7F]):
        bits[rng.integers(0, 64, 20), rng.integers(0, 4096, 20)] = value
        bits[i, [0, 7, 4095]] = value
    return bits


WEIGHTS = {
    "one value": lambda rng: halves(np.full((1, 1), 3.0)),
    "odd shape": lambda rng: halves(rng.standard_normal((37, 131))),
    "normal": lambda rng: halves(rng.standard_normal((256, 1024)) * 0.02),
    "heavy tails": lambda rng: halves(rng.standard_t(4, (64, 4096))),
    "rows of very different size": lambda rng: halves(
        rng.standard_normal((64, 1024)) * 2.0 ** rng.integers(-120, 120, (64, 1))
    ),
    "zeros": lambda rng: halves(np.zeros((40, 24))),
    "rows of zeros, half of them -0": lambda rng: np.where(
        np.arange(64)[:, None] % 8, halves(rng.standard_normal((64, 256))), rng.integers(0, 2, (64, 256)) * 0x8000
    ).astype(np.uint16),
    "subnormal": lambda rng: rng.integers(0, 128, (33, 100)).astype(np.uint16) | np.uint16(0x8000),
    "infinite and NaN alone": lambda rng: rng.integers(0x7F80, 0x8000, (33, 100)).astype(np.uint16),
    "specials": with_specials,
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", WEIGHTS)
def test_twelve_bits_hold_every_weight(name: str, threads: int) -> None:
    bits = WEIGHTS[name](np.random.default_rng(1))
    packed = pack_narrow(bits, threads)
    assert packed is not None
    found, exceptions, _ = unpack_narrow(packed.data, *bits.shape)
    np.testing.assert_array_equal(found[: len(bits), : bits.shape[1]], bits)
    assert not found[len(bits) :].any(), "rows beyond the weight are zeros"
    assert exceptions * 512 <= bits.size
    if name == "normal":
        assert 0 < exceptions < 3e-4 * bits.size
        assert packed.data.nbytes < 0.77 * bits.nbytes


@pytest.mark.parametrize("share", [0.001, 0.003])
def test_too_many_exceptions_keep_sixteen_bits(share: float) -> None:
    rng = np.random.default_rng(2)
    bits = halves(1 + rng.random((256, 512)))
    bits.reshape(-1)[: int(share * bits.size)] = 0
    rng.shuffle(bits.reshape(-1))
    assert (pack_narrow(bits) is None) == (share > 1 / 512)


@pytest.mark.parametrize(("columns", "fixed"), [(0, True), (1, True), (82, False)])
def test_large_columns_cost_no_weight_its_twelve_bits(columns: int, fixed: bool) -> None:
    """One in 4,096 is an exception beside the others' integers; one in 50 is within a window that doesn't suit integers."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((64, 4096)) * 0.02
    w[:, rng.permutation(4096)[:columns]] *= 40
    packed = pack_narrow(halves(w))
    assert packed is not None
    found, exceptions, suits = unpack_narrow(packed.data, *w.shape)
    np.testing.assert_array_equal(found, halves(w))
    assert suits == fixed
    assert (exceptions > 16 * columns) == fixed, "large values are exceptions where the window is kept from them"
