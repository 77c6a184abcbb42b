"""What every backend offers, and what they share.

    kernel = backend.build(plan)                     a Kernel: a plan made ready on a device
    kernel.bind_weights("w", array)                  once for every weight
    kernel.bind_state("cache", array)                arrays that live from step to step
    kernel.run([Step(symbols, inputs)])              [{"y": array}]     one dictionary of outputs a step

Arrays are NumPy arrays in logical shape; bfloat16 is ml_dtypes' type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..dtypes import to_numpy
from ..errors import ProgramError
from ..ir.expr import evaluate
from ..ir.nodes import Plan, Tensor

__all__ = ["Array", "Kernel", "OnStep", "Outputs", "StepLike", "as_array", "shape_of", "tensor_of"]

Array = np.ndarray[Any, np.dtype[Any]]
Outputs = dict[str, Array]
OnStep = Callable[[int, Outputs], Any]  # (steps done before this one, its outputs) -> True to stop


class StepLike(Protocol):
    """Values for the symbols and the input tensors of one step."""

    @property
    def symbols(self) -> Mapping[str, int]: ...

    @property
    def inputs(self) -> Mapping[str, Array]: ...


class Kernel(Protocol):
    """A plan made ready to run."""

    plan: Plan

    def bind_weights(self, name: str, array: Array) -> None:
        """Gives a weight its values, in its logical shape; the array may be freed afterwards."""

    def bind_state(self, name: str, array: Array) -> None:
        """Makes an array, C-contiguous and writable, the memory of a state."""

    def run(self, steps: Sequence[StepLike], on_step: OnStep | None = None) -> list[Outputs]:
        """Runs the steps one after another; `on_step` may end the launch by returning True."""


def tensor_of(plan: Plan, name: str, role: str) -> Tensor:
    """The tensor of that name; ProgramError unless it has the role."""
    t = plan.tensors.get(name)
    if t is None or t.role != role:
        known = [n for n, x in plan.tensors.items() if x.role == role]
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise ProgramError(f"plan '{plan.name}' has no {role} '{name}'; it has: {shown or 'none'}")
    return t


def shape_of(tensor: Tensor, symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The extents of a tensor in one step."""
    return tuple(max(int(evaluate(e, symbols)), 0) for e in tensor.shape)


def as_array(tensor: Tensor, value: Any, shape: tuple[int, ...]) -> Array:
    """`value` as a C-contiguous array of the tensor's dtype; ProgramError if its shape or kind does not fit."""
    want = to_numpy(tensor.dtype)
    if type(value) is np.ndarray and value.dtype == want and value.shape == shape and value.flags.c_contiguous:
        return value
    array = np.asarray(value)
    if array.dtype != want:
        # numbers without a dtype of their own, and integer tables of another width, lose nothing
        plain = array.size == 0 or isinstance(value, (list, tuple, int, float))
        if not plain and not (array.dtype.kind in "iu" and want.kind in "iu"):
            raise ProgramError(f"{tensor.role} '{tensor.name}': expected dtype {tensor.dtype}, got {array.dtype.name}")
        array = array.astype(want)
    if array.shape != shape:
        raise ProgramError(f"{tensor.role} '{tensor.name}': expected shape {shape}, got {array.shape}")
    return np.ascontiguousarray(array).reshape(shape)
