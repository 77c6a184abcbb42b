"""bfloat16 weights in 12 bits on a GPU: what is packed comes back bit for bit, and what 12 bits can't hold is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from eventide.backends.cuda.codegen import device_source
from eventide.backends.cuda.layout import (
    BLOCK,
    BLOCK_BYTES,
    PANEL,
    SLAB,
    TAIL,
    TIGHT,
    loosened,
    packed_bytes,
    slab_bytes,
)
from eventide.backends.cuda.memory import CudaMemory, LooseWeightsError
from eventide.backends.cuda.nvrtc import compile_source
from eventide.ir.expr import wrap
from eventide.ir.nodes import Tensor

from .gpu import config, need_gpu, plan_of, weights


def weight(n: int, k: int, layout: str = TIGHT) -> Tensor:
    return Tensor("w", (wrap(n), wrap(k)), "bfloat16", "weight", layout)


def unpacked(raw: np.ndarray, n: int, k: int) -> tuple[np.ndarray, int]:
    """The weights [n, k] as uint16 by the description in device/cuda/weights.cuh, and how many of them were listed."""
    columns = -(-k // BLOCK) * BLOCK
    found = np.zeros((-(-n // 8) * 8, columns), np.uint16)
    at = listed = 0
    for first in range(0, len(found), 8):
        for left in range(0, columns, SLAB):
            width = min(SLAB, columns - left)
            blocks = raw[at : at + width // BLOCK * BLOCK_BYTES].view(np.uint32)
            # [block, piece, lane, word] -> [block, row, q, tile, word of three]
            words = blocks.reshape(-1, 3, 32, 4).transpose(0, 2, 1, 3).reshape(-1, 8, 4, 4, 3)
            at += blocks.nbytes
            tops, more = raw[at : at + 8].astype(int), raw[at + 8 : at + TAIL].view(np.uint32)
            at += TAIL
            a, b, c = (words[..., i] for i in range(3))
            last = (a >> 4 & 0x07800780) | (b >> 8 & 0x00780078) | (c >> 11 & 0x00070007) | (c << 1 & 0x80008000)
            pairs = np.stack([a & 0x87FF87FF, b & 0x87FF87FF, c & 0x87FF87FF, last], -1)  # [block, row, q, tile, pair]
            bits = np.ascontiguousarray(pairs.transpose(1, 0, 3, 2, 4)).reshape(8, -1).view(np.uint16)
            for row, top in enumerate(tops):
                found[first + row, left : left + width] = bits[row] + ((top - 15) << 7) if top else 0
            for word in more[: np.argmin(more) if not more.all() else len(more)]:
                found[first + (int(word) >> 9 & 7), left + (int(word) & 511)] = int(word) >> 16
                listed += 1
    assert at == len(raw)
    return found[:n, :k], listed


def drawn(kind: str, n: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(n * k)
    array = 0.02 * (rng.standard_t(4, (n, k)) if kind == "heavy tails" else rng.standard_normal((n, k)))
    if kind == "odd ones":
        array[1] = 0
        array[2, 5], array[2, 6], array[3, k - 1] = 0, -0.0, 1e-39
    if kind == "wide range":
        array *= 2.0 ** rng.integers(-30, 30, (n, k))
    if kind == "no numbers":
        array[4, 4] = np.inf
    return array.astype(ml_dtypes.bfloat16)


def bound(array: np.ndarray) -> np.ndarray:
    """The memory of a tight weight after binding."""
    tensor = weight(*array.shape)
    memory = CudaMemory(need_gpu())
    try:
        plan: Any = SimpleNamespace(name="one weight", tensors={"w": tensor})
        memory.reserve(plan)
        memory.bind_weights(tensor, array)
        raw = np.zeros(packed_bytes(tensor), np.uint8)
        memory.read("w", raw)
        return raw
    finally:
        memory.close()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "kind, n, k",
    [
        ("normal", 16, 512),
        ("normal", 1003, 320),
        ("normal", 2048, 4096),
        ("heavy tails", 64, 2048),
        ("odd ones", 24, 648),
    ],
)
def test_what_is_packed_comes_back(kind: str, n: int, k: int) -> None:
    array = drawn(kind, n, k)
    found, listed = unpacked(bound(array), n, k)
    assert np.array_equal(found, array.view(np.uint16))
    assert listed <= n * k / 1000 + 8 and (listed > 0 or n * k < 10_000)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["wide range", "no numbers"])
def test_what_12_bits_cannot_hold_is_told(kind: str) -> None:
    with pytest.raises(LooseWeightsError, match="'w'") as e:
        bound(drawn(kind, 64, 512))
    assert e.value.names == {"w"}


@pytest.mark.parametrize("n, k, panels", [(8, 512, 1), (1003, 320, 126), (4096, 12288, 512)])
def test_sizes(n: int, k: int, panels: int) -> None:
    columns = -(-k // BLOCK) * BLOCK
    assert packed_bytes(weight(n, k, PANEL)) == panels * 8 * columns * 2
    tails = panels * -(-columns // SLAB) * TAIL
    assert packed_bytes(weight(n, k)) == panels * 8 * columns * 3 // 2 + tails
    assert slab_bytes(TIGHT) == 6208 and slab_bytes(PANEL) == 8192


def test_a_plan_without_some_tight_weights() -> None:
    plan = plan_of(config(), verify=False)
    tight = {t.name for t in plan.tensors.values() if t.layout == TIGHT}
    other = loosened(plan, {"layers.0.down_proj"})
    assert "layers.0.down_proj" in tight
    assert {t.name for t in other.tensors.values() if t.layout == TIGHT} == tight - {"layers.0.down_proj"}


def test_packing_compiles() -> None:
    assert compile_source(device_source("ptx.cuh", "weights.cuh", "pack.cuh")).resources["spill_bytes"] == 0


def test_reference_weights_are_those_of_the_kernel() -> None:
    c = config()
    a, b = weights(plan_of(c), c), weights(plan_of(c, decode=True), c)
    assert a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)
