"""A GPU's kernel behind the common interface of backends.

States live on the GPU: `bind_state` copies an array there, and `states[name]` copies it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..ir.nodes import Plan
from .base import Array, OnStep, Outputs, StepLike
from .cuda.kernel import CudaKernel

__all__ = ["GpuKernel"]


class _States(Mapping[str, Array]):
    def __init__(self, kernel: CudaKernel) -> None:
        self._kernel = kernel
        self._names = [t.name for t in kernel.plan.tensors.values() if t.role == "state"]

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._kernel.read_state(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class GpuKernel:
    """A plan on one GPU; `options` are those of `CudaKernel`."""

    def __init__(self, plan: Plan, **options: Any) -> None:
        self.plan = plan
        self.device_kernel = CudaKernel(plan, **options)
        self.states: Mapping[str, Array] = _States(self.device_kernel)

    def bind_weights(self, name: str, array: Array) -> None:
        self.device_kernel.bind_weight(name, array)

    def bind_state(self, name: str, array: Array) -> None:
        self.device_kernel.write_state(name, array)

    def run(self, steps: Sequence[StepLike], on_step: OnStep | None = None) -> list[Outputs]:
        return self.device_kernel.run(steps, on_step)
