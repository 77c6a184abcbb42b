"""One definition's dispatcher: from the arguments of a call to the kernel for them, in about a microsecond.

A kernel is right for one set of shapes, element types, device and layout, so all of these are the key: a call with
another hidden size, in float32 instead of float16, on another GPU, or with a transposed view never meets a kernel that
was measured for something else. The kernel of the last call is kept in a function made for it:

    def hit(a0, a1, a2):                                   # for rmsnorm(x, weight, eps) with NumPy arrays
        if (a0.__class__ is c0 and a0.shape == s0 and a0.dtype == d0 and a0.flags.c_contiguous and ...
                and a2.__class__ is c2):
            return kernel(a0, a1, a2)
        return miss((a0, a1, a2))

For torch tensors one call of the guard that torch.compile itself uses compares them all at once; where that class is
absent, the same tests are spelled out. Other known keys are one dictionary look-up away; an unknown one is resolved
(index, build, adapt) and remembered, also when the answer is the fallback.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BenchError, UsageError
from .schema_definition import Definition

if TYPE_CHECKING:
    from .apply_api import Applier

Kernel = Callable[..., Any]
Framework = Literal["torch", "numpy"]
_MOST_KEYS = 16384  # then everything is forgotten, so that ever-new shapes do not fill the memory

_TORCH_TEST = (
    "a{i}.__class__ is c{i} and a{i}.shape == s{i} and a{i}.dtype is d{i} and a{i}.get_device() == g{i} "
    "and a{i}.is_contiguous()"
)
_NUMPY_TEST = "a{i}.__class__ is c{i} and a{i}.shape == s{i} and a{i}.dtype == d{i} and a{i}.flags.c_contiguous"


class Dispatcher:
    """The calls of one definition, for one fallback."""

    def __init__(self, applier: Applier, definition: Definition, fallback: Kernel | None) -> None:
        self.applier, self.definition, self.fallback = applier, definition, fallback
        self.num_in, self.num_all = len(definition.inputs), len(definition.inputs) + len(definition.outputs)
        self._lock = threading.RLock()
        self._table: dict[Any, tuple[Kernel, Kernel]] = {}
        # by number of arguments: for calls that return values, and for calls that write outputs
        self._current: dict[int, Kernel] = {self.num_in: self._first, self.num_all: self._first}
        self.call = self._make_call()

    def _make_call(self) -> Kernel:
        current, by_name = self._current, self._call_by_name

        def call(*args: Any, **kwargs: Any) -> Any:
            if kwargs or len(args) not in current:
                return by_name(args, kwargs)
            return current[len(args)](*args)

        return call

    def make_compilable_call(self, compiling: Callable[[], bool], compiled: Kernel) -> Kernel:
        """As `call`, with `compiled` in its place while torch.compile looks at it; one function, to save a call."""
        current, by_name, merge = self._current, self._call_by_name, self.merge

        def call(*args: Any, **kwargs: Any) -> Any:
            if compiling():
                return compiled(*merge(args, kwargs)) if kwargs else compiled(*args)
            if kwargs or len(args) not in current:
                return by_name(args, kwargs)
            return current[len(args)](*args)

        return call

    def _call_by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.call(*self.merge(args, kwargs))

    def merge(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments in order; raises UsageError (a ValueError) for a count or name that does not fit."""
        try:
            return self.definition.merge_arguments(args, kwargs)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _first(self, *args: Any) -> Any:
        return self.miss(args)

    def miss(self, args: tuple[Any, ...]) -> Any:
        """A call whose key is not that of the last one."""
        key = _key(args)
        kernel, hit = self._table.get(key, (None, None))
        if kernel is None or hit is None:
            with self._lock:
                kernel, lasting = self._resolve(args)
            if not lasting:
                return kernel(*args)
            if len(self._table) >= _MOST_KEYS:
                self._table.clear()
            hit = self._make_hit(key, args, kernel)
            self._table[key] = kernel, hit
        elif self._current[len(args)] is hit:
            # a guard can see differences that do not matter here (strides of axes of length one): look again
            hit = self._make_hit(key, args, kernel)
            self._table[key] = kernel, hit
        self._current[len(args)] = hit
        return kernel(*args)

    def _make_hit(self, key: Any, args: tuple[Any, ...], kernel: Kernel) -> Kernel:
        framework = _framework(args)
        if framework is None or key[0] or not all(map(_contiguous, args)):
            # only ever the fallback: comparing it in the fast form is not worth another form
            return self._make_slow_hit(key, kernel)
        tests = tuple("tensor" if hasattr(a, "shape") and hasattr(a, "dtype") else "other" for a in args)
        constants: dict[str, Any] = {"kernel": kernel, "miss": self.miss}
        for i, a in enumerate(args):
            constants[f"c{i}"] = a.__class__
            if tests[i] == "tensor":
                constants |= {f"s{i}": a.shape, f"d{i}": a.dtype}
                if framework == "torch":
                    constants[f"g{i}"] = a.get_device()
        form: str = framework
        if framework == "torch":
            import torch

            constants["grad"] = torch.is_grad_enabled
            constants["check"] = check = _tensor_guard([a for a, t in zip(args, tests) if t == "tensor"])
            form = "torch guard" if check is not None else "torch"
        hit: Kernel = _hit_factory(form, tests)(constants)
        return hit

    def _make_slow_hit(self, key: Any, kernel: Kernel) -> Kernel:
        def hit(*args: Any) -> Any:
            return kernel(*args) if _key(args) == key else self.miss(args)

        return hit

    def _resolve(self, args: tuple[Any, ...]) -> tuple[Kernel, bool]:
        chosen, reason, lasting = self.applier.choose(self.definition, args)
        if chosen is not None:
            return chosen, lasting
        if self.fallback is None:
            raise BenchError(
                f"{self.definition.name}: no solution fits this call ({reason}) and no fallback was given to apply()"
            )
        return self.fallback, lasting


def _framework(args: Sequence[Any]) -> Framework | None:
    kinds = {type(a).__module__.split(".")[0] for a in args if hasattr(a, "dtype") and hasattr(a, "shape")}
    if kinds == {"torch"} and all(hasattr(a, "get_device") for a in args if hasattr(a, "dtype")):
        return "torch"
    return "numpy" if kinds == {"numpy"} else None


def _tensor_guard(tensors: list[Any]) -> Callable[..., bool] | None:
    """torch's own comparison of tensors (class, dispatch keys, dtype, device, sizes, strides, gradient) in one call.

    None where this release of torch has no such class, or where it says no to the very tensors it was made from (the
    same tensor twice).
    """
    try:
        from torch._C._dynamo.guards import TensorGuards

        sizes = [list(t.shape) for t in tensors]
        strides = [list(t.stride()) for t in tensors]
        make: Any = TensorGuards
        check: Callable[..., bool] = make(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides).check
        return check if check(*tensors) is True else None
    except Exception:  # a private class: whatever it says in another release, the spelled-out tests remain
        return None


def _contiguous(a: Any) -> bool:
    if hasattr(a, "is_contiguous"):
        return bool(a.is_contiguous())
    return bool(a.flags.c_contiguous) if hasattr(a, "flags") else True


def _wants_grad(args: Sequence[Any]) -> bool:
    if "torch" not in sys.modules:
        return False
    import torch

    return torch.is_grad_enabled() and any(getattr(a, "requires_grad", False) for a in args)


def _key(args: Sequence[Any]) -> tuple[Any, ...]:
    parts: list[Any] = [_wants_grad(args)]
    for a in args:
        if hasattr(a, "shape") and hasattr(a, "dtype"):
            device = a.get_device() if hasattr(a, "get_device") else None
            parts.append((a.__class__, tuple(a.shape), a.dtype, device, _contiguous(a)))
        else:
            parts.append(a.__class__)
    return tuple(parts)


@cache
def _hit_factory(form: str, tests: tuple[str, ...]) -> Callable[[dict[str, Any]], Kernel]:
    """The maker of `hit` functions for arguments of these kinds; their constants become closure variables."""
    tensors = [f"a{i}" for i, t in enumerate(tests) if t == "tensor"]
    others = [f"a{i}.__class__ is c{i}" for i, t in enumerate(tests) if t == "other"]
    test = {"torch": _TORCH_TEST, "numpy": _NUMPY_TEST}.get(form, "")
    conditions = [test.format(i=i) for i, t in enumerate(tests) if t == "tensor"] if test else []
    if form == "torch guard":
        conditions.append(f"check({', '.join(tensors)})")
    if form == "torch":
        conditions.append(f"not (grad() and ({' or '.join(f'{a}.requires_grad' for a in tensors)}))")
    arguments = ", ".join(f"a{i}" for i in range(len(tests)))
    names = ["kernel", "miss", "grad", "check", *(f"c{i}" for i in range(len(tests)))]
    names += [f"{k}{i}" for i, t in enumerate(tests) if t == "tensor" for k in "sdg"]
    lines = [
        "def make(constants):",
        *(f"    {n} = constants.get({n!r})" for n in names),
        f"    def hit({arguments}):",
        f"        if {' and '.join(conditions + others)}:",
        f"            return kernel({arguments})",
        f"        return miss(({arguments},))",
        "    return hit",
    ]
    scope: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<eventide apply: {form} {tests}>", "exec"), scope)
    make: Callable[[dict[str, Any]], Kernel] = scope["make"]
    return make
