"""Random weights: their statistics, that they repeat, and that they don't depend on anything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eventide import dtypes
from eventide.models.dummy import BLOCK_LEN, STD, DummyWeights
from eventide.models.weights import Kind, Source, decoder_weights, iter_weights
from tests.models.test_config import parse

PINNED = [0.029061323, 0.021061797, -0.036142182]


def fill(
    name: str = "w", shape: tuple[int, ...] = (300, 64), kind: Kind = "matrix", seed: int = 0, dtype: str = "float32"
) -> npt.NDArray[Any]:
    out = np.full(shape, np.nan, dtypes.to_numpy(dtype))
    DummyWeights(seed).fill(Source(name, shape), kind, out)
    return out


def test_same_for_same_name_and_seed_only() -> None:
    np.testing.assert_array_equal(fill(), fill())
    assert not np.array_equal(fill(), fill(seed=1))
    assert not np.array_equal(fill(), fill(name="v"))


def test_known_values() -> None:
    # pinned: integer arithmetic gives these on every machine
    np.testing.assert_allclose(fill(shape=(3,)), PINNED, rtol=1e-6)


@pytest.mark.parametrize(("kind", "mean"), [("matrix", 0.0), ("bias", 0.0), ("norm", 1.0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_statistics(kind: Kind, mean: float, dtype: str) -> None:
    values = fill(shape=(1000, 1000), kind=kind, dtype=dtype).astype(np.float64)
    assert values.mean() == pytest.approx(mean, abs=1e-4)
    assert values.std() == pytest.approx(STD, rel=0.01)
    # near normal: the share within one deviation is 68.3 %, the fourth moment of four uniforms 2.7 (normal: 3)
    assert np.mean(np.abs(values - mean) < STD) == pytest.approx(0.683, abs=0.02)


def test_bfloat16_is_the_rounded_float32() -> None:
    rounded = fill().astype(dtypes.to_numpy("bfloat16"))
    np.testing.assert_array_equal(fill(dtype="bfloat16").astype(np.float32), rounded.astype(np.float32))


def test_no_two_rows_are_equal_beyond_one_block() -> None:
    values = fill(shape=(3000, 1024))
    assert values.size > 2 * BLOCK_LEN
    assert len(np.unique(values, axis=0)) == 3000
    assert np.isfinite(values).all()


def test_block_length_is_prime() -> None:
    assert all(BLOCK_LEN % divisor for divisor in range(2, int(BLOCK_LEN**0.5) + 1))


def test_every_weight_of_a_model() -> None:
    specs = decoder_weights(parse())
    arrays = dict(iter_weights(specs, DummyWeights(3), "bfloat16"))
    assert {name: array.shape for name, array in arrays.items()} == {spec.name: spec.shape for spec in specs}
    assert all(np.isfinite(array.astype(np.float32)).all() for array in arrays.values())


def test_rows_apart_get_the_same_values() -> None:
    out = np.zeros((600, 64), np.float32)
    DummyWeights().fill(Source("w", (300, 64)), "matrix", out[1::2])
    np.testing.assert_array_equal(out[1::2], fill())
    assert not out[::2].any()
