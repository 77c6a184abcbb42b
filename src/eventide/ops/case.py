"""A case of an operator: arrays to call it with and how far a backend may be from the reference.

    Case("odd rows", lambda rng, dtype: {"a": normal(rng, dtype, 3, 7), "b": normal(rng, dtype, 3, 7)})

`make(rng, dtype)` returns an array for every operand that is read or updated; a string says that the operand shares the
tensor of another one. Tolerances are the largest error allowed, relative to the reference's largest magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dtypes import to_numpy

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One call of an operator. `dtypes`: those of activations, weights and caches that it makes sense for."""

    name: str
    make: Callable[[np.random.Generator, str], Arrays]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"float32": 2e-6, "bfloat16": 8e-3})


def normal(rng: np.random.Generator, dtype: str, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Normally distributed numbers of a float dtype."""
    return (rng.standard_normal(shape) * scale).astype(to_numpy(dtype))


def ints(values: Any) -> np.ndarray:
    """An int32 table."""
    return np.asarray(values, np.int32)
