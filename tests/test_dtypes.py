"""Dtype names against NumPy, ml_dtypes and safetensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from eventide import dtypes
from eventide.errors import UsageError


@pytest.mark.parametrize("name", dtypes.DTYPES)
def test_facts_agree_with_numpy(name: str) -> None:
    array_type = dtypes.to_numpy(name)
    assert array_type.itemsize == dtypes.itemsize(name)
    assert dtypes.from_numpy(array_type) == name
    assert dtypes.is_float(name) == (np.array(0.5).astype(array_type).astype(np.float64) == 0.5)


def test_bfloat16_is_ml_dtypes() -> None:
    assert dtypes.to_numpy("bfloat16") == ml_dtypes.bfloat16
    assert dtypes.from_numpy(ml_dtypes.bfloat16) == "bfloat16"


def test_safetensors_codes() -> None:
    assert dtypes.from_safetensors("BF16") == "bfloat16"
    assert dtypes.from_safetensors("F8_E4M3") is None


@pytest.mark.parametrize("ask", [dtypes.check, dtypes.itemsize, dtypes.is_float, dtypes.to_numpy])
def test_unknown_names(ask: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match=r"unknown dtype 'fp32'; expected one of float32, bfloat16"):
        ask("fp32")


def test_unknown_numpy_dtype() -> None:
    with pytest.raises(UsageError, match="unknown dtype 'complex64'"):
        dtypes.from_numpy(np.complex64)


def test_importing_needs_no_numpy() -> None:
    program = "import sys, eventide.dtypes, eventide.env; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
