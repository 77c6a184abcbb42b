import numpy as np

from ...dtypes import to_numpy
from ..case import Case, normal


def _make(rows, cols):  # type: ignore[no-untyped-def]
    return lambda rng, dtype: {"x": normal(rng, dtype, rows, 2 * cols, scale=4.0)}


def _extremes(rng, dtype):  # type: ignore[no-untyped-def]
    x = np.array([-200.0, -88.5, -87.0, -1e-30, 0.0, 1e-30, 20.0, 88.0, 200.0], np.float32)
    return {"x": np.repeat(x, 2)[None].astype(to_numpy(dtype))}


CASES = [
    Case("one element", _make(1, 1)),
    Case("odd sizes", _make(3, 37)),
    Case("several tiles", _make(300, 64)),
    Case("extremes", _extremes),
]
