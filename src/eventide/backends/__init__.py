"""Backends: what runs a plan. `interp` defines its meaning, `null` needs no hardware, `cpu` and `cuda` are fast.

`build(plan, "cpu")` gives a kernel (see `base`); each backend is imported only when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..ir.nodes import Plan
    from .base import Kernel

__all__ = ["BACKENDS", "build"]

BACKENDS = ("cpu", "cuda", "interp", "null")


def build(plan: Plan, backend: str, **options: Any) -> Kernel:
    """A kernel that runs the plan; `options` are those of the backend's kernel class."""
    kernel: Any
    if backend == "cpu":
        from .cpu import CpuKernel as kernel
    elif backend == "interp":
        from .interp_kernel import InterpKernel as kernel
    elif backend == "null":
        from .null import NullKernel as kernel
    elif backend == "cuda":
        from .cuda.kernel import CudaKernel as kernel
    else:
        raise UsageError(f"unknown backend '{backend}'; known are: {', '.join(BACKENDS)}")
    built: Kernel = kernel(plan, **options)
    return built
