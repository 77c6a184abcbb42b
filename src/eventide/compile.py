"""The one place that joins passes, schedule and backend.

    kernel = eventide.compile(program, target="cpu", schedule="static")
    y = kernel(x=x, w=w)                      NumPy arrays, or anything with DLPack; bf16 through ml_dtypes
    print(kernel.plan)

A call binds weights the first time it sees them (they are packed once: pass the same array object again, or leave it out),
takes the symbols' values from the shapes of the inputs, runs one step, and returns the output: an array, or a dictionary
of arrays where the program has several. States start as zeros and stay from call to call: `kernel.states`.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import target as targets
from .backends import build
from .backends.base import Array, Kernel, Outputs, as_array, shape_of
from .dtypes import to_numpy
from .env import NUM_THREADS
from .errors import ProgramError, UsageError
from .ir.expr import Var, linear, substitute
from .ir.nodes import Plan
from .ops.program import Program
from .passes.pipeline import Observer, compile_plan
from .target import Target

__all__ = ["CompiledKernel", "compile", "default_num_threads"]

_KINDS = {"cpu": "cpu", "cuda": "cuda", "interp": "cpu", "null": "cpu"}


@dataclass(frozen=True)
class _Step:
    symbols: Mapping[str, int]
    inputs: Mapping[str, Array]


def default_num_threads() -> int:
    """CPU workers when nobody says how many: EVENTIDE_NUM_THREADS, or one for each CPU this process may use."""
    return NUM_THREADS.get() or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def compile(
    program: Program,
    target: str | Target = "cpu",
    schedule: str = "static",
    *,
    backend: str | None = None,
    num_threads: int | None = None,
    weights: Mapping[str, Any] | None = None,
    verify: bool = True,
    observe: Observer | None = None,
    **options: Any,
) -> CompiledKernel:
    """Compiles a program and makes it ready to run.

    target: "cpu", "cuda", "interp" or "null" (the last two with a CPU's tiles), or a `Target`. backend: where to run it, if not
    where the target says: a GPU's plan runs in the interpreter with ``target=eventide.target.h200(), backend="interp"``.
    num_threads: CPU workers. `options` go to the backend's kernel. Raises ProgramError, or PlanError from the verifier.
    """
    if not isinstance(program, Program):
        raise UsageError(f"compile takes an eventide.Program, got {type(program).__name__}")
    if num_threads is not None and (type(num_threads) is not int or not 1 <= num_threads <= 1024):
        raise UsageError(f"num_threads must be an integer from 1 to 1024, got {num_threads!r}")
    if isinstance(target, str):
        if target not in _KINDS:
            raise UsageError(f"unknown target '{target}'; known are: {', '.join(_KINDS)}")
        backend = backend or target
        target = targets.cpu(num_threads or default_num_threads()) if _KINDS[target] == "cpu" else targets.h200()
    plan = compile_plan(program, target, schedule, verify=verify, observe=observe)
    kernel = CompiledKernel(plan, build(plan, backend or target.kind, **options))
    kernel.bind(weights or {})
    return kernel


class CompiledKernel:
    """A compiled program that is called like a function; `kernel` is the backend's."""

    def __init__(self, plan: Plan, kernel: Kernel) -> None:
        self.plan, self.kernel = plan, kernel
        self._bound: dict[str, Any] = {}
        self._outputs = [t.name for t in plan.tensors.values() if t.role == "output"]

    def __repr__(self) -> str:
        names = [t.name for t in self.plan.tensors.values() if t.role in ("input", "weight", "state")]
        return f"CompiledKernel({self.plan.name!r}, {self.plan.target}, arguments: {', '.join(names)})"

    @property
    def states(self) -> Mapping[str, Array]:
        """The arrays that live from call to call."""
        states: Mapping[str, Array] = getattr(self.kernel, "states", {})
        return states

    def bind(self, arrays: Mapping[str, Any]) -> None:
        """Gives weights their values, and states their memory (which is then updated in place)."""
        for name, value in arrays.items():
            t = self.plan.tensors.get(name)
            if t is None or t.role not in ("weight", "state"):
                known = ", ".join(n for n, x in self.plan.tensors.items() if x.role in ("weight", "state"))
                raise ProgramError(f"'{name}' is no weight or state of program '{self.plan.name}'; it has: {known or 'none'}")
            if self._bound.get(name) is value:
                continue
            array = to_array(value, name)
            if t.role == "weight":
                self.kernel.bind_weights(name, as_array(t, array, shape_of(t, {})))
            else:
                self.kernel.bind_state(name, array)
            self._bound[name] = value

    def __call__(self, *, symbols: Mapping[str, int] | None = None, **arrays: Any) -> Any:
        """Runs one step; `symbols` gives values that the shapes of the inputs do not."""
        inputs = {}
        for name, value in arrays.items():
            t = self.plan.tensors.get(name)
            if t is None or t.role not in ("input", "weight", "state"):
                known = ", ".join(n for n, x in self.plan.tensors.items() if x.role in ("input", "weight", "state"))
                raise ProgramError(f"program '{self.plan.name}' has no argument '{name}'; it has: {known}")
            if t.role == "input":
                inputs[name] = to_array(value, name)
            else:
                self.bind({name: value})
        values = infer_symbols(self.plan, inputs, symbols or {})
        outputs: Outputs = self.kernel.run([_Step(values, inputs)])[0]
        return outputs[self._outputs[0]] if len(self._outputs) == 1 else outputs


def infer_symbols(plan: Plan, inputs: Mapping[str, Array], given: Mapping[str, int]) -> dict[str, int]:
    """Values of all symbols: those given, those with one possible value, and those that the inputs' extents determine."""
    values = {name: lo for name, (lo, hi) in plan.symbols.items() if lo == hi}
    values.update(given)
    found = True
    while found and len(values) < len(plan.symbols):
        found = False
        for name, array in inputs.items():
            t = plan.tensors[name]
            if array.ndim != t.ndim:
                raise ProgramError(f"input '{name}': expected {t.ndim} dimensions, got shape {array.shape}")
            for extent, n in zip(t.shape, array.shape):
                const, terms = linear(substitute(extent, values))
                if len(terms) != 1:
                    continue
                (atom, coef), *_ = terms.items()
                if isinstance(atom, Var) and (n - const) % coef == 0:
                    values[atom.name] = (n - const) // coef
                    found = True
    if missing := [s for s in plan.symbols if s not in values]:
        raise ProgramError(
            f"the symbol '{missing[0]}' of program '{plan.name}' does not follow from the shapes of the inputs given "
            f"({', '.join(inputs) or 'none'}); pass symbols={{'{missing[0]}': ...}}"
        )
    return values


_DLPACK = {(0, 32): "int32", (0, 64): "int64", (2, 16): "float16", (2, 32): "float32", (4, 16): "bfloat16"}


def to_array(value: Any, name: str) -> Array:
    """A NumPy array that shares memory with `value`: an array, or anything with DLPack on a CPU; numbers are copied."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    try:
        return np.from_dlpack(value)
    except (TypeError, RuntimeError, BufferError):
        return _from_dlpack(value, name)  # bfloat16, which NumPy does not know


def _from_dlpack(value: Any, name: str) -> Array:
    import ctypes

    from . import _native

    try:
        address, shape, strides, code, bits = _native.from_dlpack(value)
    except TypeError:
        raise ProgramError(
            f"'{name}' ({type(value).__name__}) cannot be read through DLPack: it must be in CPU memory"
        ) from None
    if (code, bits) not in _DLPACK:
        raise ProgramError(f"'{name}': its element type is none of {', '.join(_DLPACK.values())}")
    dtype = to_numpy(_DLPACK[code, bits])
    if 0 in shape:
        return np.zeros(shape, dtype)
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides))
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * (span * dtype.itemsize)).from_address(address))
    flat = np.asarray(_Keeper(raw, value)).view(dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in strides])


class _Keeper:
    """Bytes together with the object whose memory they are."""

    def __init__(self, raw: Array, owner: Any) -> None:
        self.owner = owner
        self.__array_interface__ = raw.__array_interface__


class _CallableModule(types.ModuleType):
    """`eventide.compile` names this module and its function alike: calling either compiles."""

    def __call__(self, *args: Any, **kwargs: Any) -> CompiledKernel:
        return compile(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
