"""The interpreter behind the common interface of backends: one interleaving, chosen by a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dtypes import to_numpy
from ..errors import ProgramError
from ..ir.nodes import Plan
from .base import Array, OnStep, Outputs, StepLike, as_array, shape_of, tensor_of
from .interp import Interpreter
from .policies import Policy, Random

__all__ = ["InterpKernel"]


class InterpKernel:
    """A plan in the interpreter. `policy` decides the interleaving (default: random with seed 0)."""

    def __init__(self, plan: Plan, policy: Policy | None = None) -> None:
        self.plan, self.policy = plan, policy or Random(0)
        self._weights: dict[str, Array] = {}
        self.states: dict[str, Array] = {
            t.name: np.zeros(shape_of(t, {}), to_numpy(t.dtype)) for t in plan.tensors.values() if t.role == "state"
        }
        self._interp: Interpreter | None = None

    def bind_weights(self, name: str, array: Array) -> None:
        t = tensor_of(self.plan, name, "weight")
        self._weights[name] = as_array(t, array, shape_of(t, {}))
        self._interp = None

    def bind_state(self, name: str, array: Array) -> None:
        t = tensor_of(self.plan, name, "state")
        if array.shape != shape_of(t, {}) or array.dtype != to_numpy(t.dtype):
            raise ProgramError(f"state '{name}': expected {t.dtype} {shape_of(t, {})}, got {array.dtype.name} {array.shape}")
        self.states[name] = array
        self._interp = None

    def run(self, steps: Sequence[StepLike], on_step: OnStep | None = None) -> list[Outputs]:
        if self._interp is None:
            self._interp = Interpreter(self.plan, self._weights, self.states)
        out: list[Outputs] = []
        for k, step in enumerate(steps):
            out.append(self._interp.run(step.symbols, step.inputs, self.policy))
            if on_step is not None and on_step(k, out[-1]):
                break
        return out
