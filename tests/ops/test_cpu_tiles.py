"""Every operator's CPU tiles against its NumPy reference, on every instruction set that this machine runs."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from eventide.ops import get_op
from eventide.ops.case import Case

from .calls import by_reference, by_tiles, plan_of
from .native import FLAGS, cpu_ops, library, runnable

ISAS = [pytest.param(i, marks=pytest.mark.skipif(not runnable(i), reason=f"this CPU does not run {i}")) for i in FLAGS]
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
