"""apply(): the measured winner in place of a function, and the function itself wherever nothing was measured.

    enable_apply("my_dataset")

    @apply("rmsnorm_h4096")                                  # by name
    def rmsnorm(x, weight): ...

    @apply(lambda x, weight: f"rmsnorm_h{x.shape[1]}")       # by a resolver, asked at each call
    def rmsnorm(x, weight): ...

    y = apply("rmsnorm_h4096", args=(x, weight), fallback=rmsnorm)

A call with as many arguments as the definition has inputs returns values; with inputs and outputs it writes the outputs
and returns None; any other count is a ValueError. While apply() is off, or the data set does not have the definition,
`@apply` returns the decorated function itself, so it costs nothing; enable it before the module with the decorated
functions is imported, or by FIB_ENABLE_APPLY=1 and FIB_DATASET_PATH. While tracing is on, `@apply` also records. What a
solution computes has no gradient: calls that ask for one go to the fallback.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from ..env import CACHE_DIR, Variable
from ..errors import UsageError
from .apply_build import Library, Runnable, adapt
from .apply_dispatch import Dispatcher, Kernel
from .apply_index import ApplyConfig, IndexCache
from .dataset import TraceSet
from .schema_definition import Definition

logger = logging.getLogger("eventide.bench.apply")
F = TypeVar("F", bound=Callable[..., Any])
Resolver = Callable[..., str]


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


DATASET_PATH: Variable[Path | None] = Variable("FIB_DATASET_PATH", Path, None, "the data set that apply() uses")
CACHE_PATH: Variable[Path | None] = Variable("FIB_CACHE_PATH", Path, None, "where apply() keeps what it builds")
ENABLE_APPLY: Variable[bool] = Variable("FIB_ENABLE_APPLY", _switch, False, "1 turns apply() on at its first use")


@dataclass(frozen=True)
class Choice:
    """What one kind of call resolved to."""

    definition: str
    axes: Mapping[str, int] | None
    """None where the arguments do not fit the definition."""
    hardware: str
    solution: str | None
    """None for the fallback."""
    reason: str


class Applier:
    """A data set put to work: indices, built solutions, dispatchers."""

    def __init__(self, data: TraceSet | str | os.PathLike[str], config: ApplyConfig | None = None) -> None:
        self.data = data if isinstance(data, TraceSet) else TraceSet.load(data)
        self.config = config or ApplyConfig()
        cache = self.config.cache_dir or CACHE_PATH.get() or CACHE_DIR.get()
        self.index = IndexCache(self.data, self.config, cache)
        self.library = Library(self.data, cache)
        self.choices: list[Choice] = []
        """Every resolution so far, in order: what runs where, and why."""
        self._lock = threading.RLock()
        self._by_name: dict[tuple[str, int], Kernel] = {}
        self._hardware: dict[str, str] = {}
        self._prepared: set[tuple[str, str]] = set()

    # ---- the three forms

    def wrap(self, name: str, fallback: F) -> F:
        """`fallback` with the solutions of `name` in front; itself where the data set does not have the definition."""
        definition = self.data.definitions.get(name)
        if definition is None:
            logger.info("apply: the data set has no definition %r; %s stays as it is", name, fallback)
            return fallback
        call = functools.wraps(fallback)(self._compilable(Dispatcher(self, definition, fallback)))
        return call  # type: ignore[return-value]

    def wrap_resolved(self, resolver: Resolver, fallback: F) -> F:
        """`fallback` with the solutions of the definition that `resolver` names for each call in front."""
        known: dict[str, Kernel] = {}

        # torch.compile cannot make an operator while it traces, so all that the resolver may name are made ahead
        ahead = "torch" in sys.modules
        if ahead:
            known |= {n: self.wrap(n, fallback) for n in self.data.definitions if len(self.data.solutions[n])}

        @functools.wraps(fallback)
        def call(*args: Any, **kwargs: Any) -> Any:
            found = known.get(name := resolver(*args, **kwargs))
            if found is None:
                found = fallback if ahead else known.setdefault(name, self.wrap(name, fallback))
            return found(*args, **kwargs)

        return call  # type: ignore[return-value]

    def call(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        fallback: Kernel | None = None,
    ) -> Any:
        """One call by name; raises BenchError where nothing fits and there is no fallback."""
        key = (name, id(fallback))
        found = self._by_name.get(key)
        if found is None:
            with self._lock:
                if fallback is None:
                    found = Dispatcher(self, self.data.get_definition(name), None).call
                else:
                    found = self.wrap(name, fallback)
                # the closure keeps the fallback alive, so its id stays its own
                self._by_name[key] = found
        return found(*args, **kwargs) if kwargs else found(*args)

    def _compilable(self, dispatcher: Dispatcher) -> Kernel:
        if "torch" not in sys.modules:
            return dispatcher.call
        import torch

        from .apply_compile import custom_operator

        returns = custom_operator(dispatcher.definition, dispatcher.call, writes_outputs=False)
        writes = custom_operator(dispatcher.definition, dispatcher.call, writes_outputs=True)
        num_in, fallback = dispatcher.num_in, dispatcher.fallback
        if returns is None or writes is None:
            return dispatcher.make_compilable_call(torch.compiler.is_dynamo_compiling, fallback or dispatcher.call)

        def compiled(*args: Any) -> Any:
            return returns(*args) if len(args) == num_in else writes(*args)

        return dispatcher.make_compilable_call(torch.compiler.is_dynamo_compiling, compiled)

    # ---- choosing

    def prepare(self, names: Sequence[str] | None = None, device: str = "cpu") -> int:
        """Build the configured share of the winners ahead, for all definitions or some; returns how many are ready."""
        ready = 0
        for name in self.data.definitions if names is None else names:
            winners = self.index.get(name, self.hardware(device)).winners()
            wanted = -(-len(winners) * int(self.config.aot_ratio * 1000) // 1000)
            ready += sum(self.library.get(w, device) is not None for w in winners[:wanted])
            self._prepared.add((name, device))
        return ready

    def hardware(self, device: str) -> str:
        """The name under which results of a device are filed."""
        if self.config.hardware is not None:
            return self.config.hardware
        if device not in self._hardware:
            from .timing import hardware_name

            self._hardware[device] = hardware_name(device)
        return self._hardware[device]

    def choose(self, definition: Definition, args: Sequence[Any]) -> tuple[Kernel | None, str, bool]:
        """(kernel or None, reason, whether the answer may be remembered) for the arguments of one call."""
        device = _device(args)
        hardware = self.hardware(device) if device else "none"
        axes, problem = fit(definition, args)
        if axes is None or device is None:
            return self._note(definition, None, hardware, None, problem)
        if _capturing(device):
            # nothing may be built or loaded while a graph is captured; a later call resolves it
            candidates = self.index.get(definition.name, hardware).candidates(axes, definition.const_axes, self.config)
            ready = [n for n in candidates if self.library.has(n, device)]
            if candidates and ready[:1] != candidates[:1]:
                return None, "a CUDA graph is being captured; call once before", False
        index = self.index.get(definition.name, hardware)
        if (definition.name, device) not in self._prepared and self.config.aot_ratio and not _capturing(device):
            self.prepare([definition.name], device)
        candidates = index.candidates(axes, definition.const_axes, self.config)
        for name in candidates:
            runnable = self.library.get(name, device)
            if runnable is not None:
                shapes = definition.get_output_shapes(axes)
                kernel = _on_its_stream(runnable, adapt(runnable, definition, args, shapes), device)
                self._note(definition, axes, hardware, name, "measured" if _measured(index, axes) else "in range")
                return kernel, "", True
        reason = "nothing measured fits these axes" if not candidates else "no candidate can be built here"
        return self._note(definition, axes, hardware, None, reason)

    def _note(
        self, definition: Definition, axes: Mapping[str, int] | None, hardware: str, solution: str | None, reason: str
    ) -> tuple[None, str, bool]:
        self.choices.append(Choice(definition.name, dict(axes) if axes else axes, hardware, solution, reason))
        del self.choices[:-1000]
        return None, reason, True


def fit(definition: Definition, args: Sequence[Any], *, for_kernel: bool = True) -> tuple[dict[str, int] | None, str]:
    """The var axes of a call, or None and why it does not fit; `for_kernel` asks for what a kernel needs besides.

    That is memory without gaps, plain tensors and no gradient.
    """
    names = [*definition.inputs, *definition.outputs][: len(args)]
    specs = {**definition.inputs, **definition.outputs}
    frameworks = set()
    for name, value in zip(names, args):
        spec, dtype = specs[name], definition.dtype_of(name)
        if value is None and definition.is_optional(name):
            continue
        if spec.shape is None:
            kinds = (bool,) if dtype == "bool" else (int,) if dtype.startswith("int") else (int, float)
            if type(value) not in kinds or name in definition.outputs:
                return None, f"{name} is {type(value).__name__}, not a Python number of {dtype}"
            continue
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            return None, f"{name} is {type(value).__name__}, not a tensor"
        frameworks.add(type(value).__module__.split(".")[0])
        plain = ("ndarray", "Tensor", "Parameter")
        if for_kernel and type(value).__name__ not in plain:
            return None, f"{name} is a {type(value).__name__}, which a kernel cannot read"
        found = str(value.dtype).removeprefix("torch.").replace("float4_e2m1fn_x2", "float4_e2m1")
        if found != dtype:
            return None, f"{name} is {found}, not {dtype}"
        contiguous = value.is_contiguous() if hasattr(value, "is_contiguous") else value.flags.c_contiguous
        if for_kernel and not contiguous:
            return None, f"{name} is not contiguous"
    if len(frameworks) > 1:
        return None, "arrays and tensors are mixed"
    if for_kernel and _asks_gradient(args):
        return None, "a gradient is asked for"
    inputs = args[: len(definition.inputs)]
    try:
        axes = definition.get_axes_values([None if s.shape is None or a is None else tuple(a.shape)
                                           for s, a in zip(definition.inputs.values(), inputs)])  # fmt: skip
        outputs = definition.get_output_shapes(axes)
    except ValueError as error:
        return None, str(error)
    for (name, _), value, shape in zip(definition.outputs.items(), args[len(definition.inputs) :], outputs):
        if tuple(value.shape) != shape:
            return None, f"{name} should have the shape {shape}, got {tuple(value.shape)}"
    return axes, ""


def _asks_gradient(args: Sequence[Any]) -> bool:
    if "torch" not in sys.modules:
        return False
    import torch

    return torch.is_grad_enabled() and any(getattr(a, "requires_grad", False) for a in args)


def _device(args: Sequence[Any]) -> str | None:
    # one device for all, or none
    found = set()
    for a in args:
        if hasattr(a, "get_device"):
            index = a.get_device()
            found.add(f"{a.device.type}:{index}" if index >= 0 else str(a.device.type))
        elif hasattr(a, "dtype") and hasattr(a, "shape"):
            found.add("cpu")
    return found.pop() if len(found) == 1 else None


def _capturing(device: str) -> bool:
    if not device.startswith("cuda"):
        return False
    import torch

    return bool(torch.cuda.is_current_stream_capturing())


def _measured(index: Any, axes: Mapping[str, int]) -> bool:
    return tuple(sorted(axes.items())) in index.measured


_STREAM = threading.Lock()
"""Held while a library is told the stream and launches: the loader gives all libraries of a process one place for it."""


def _on_its_stream(runnable: Runnable, kernel: Kernel, device: str) -> Kernel:
    if runnable.style != "pointers" or not device.startswith("cuda"):
        return kernel
    import torch

    place = getattr(runnable.function, "stream", None)
    if place is not None:

        def on_current(*args: Any) -> Any:
            with _STREAM:
                place.value = torch.cuda.current_stream(device).cuda_stream
                return kernel(*args)

        return on_current
    # a function that launches on the default stream: another current stream has to wait for it and it for them
    default = torch.cuda.default_stream(device)

    def call(*args: Any) -> Any:
        current = torch.cuda.current_stream(device)
        if current == default:
            return kernel(*args)
        if torch.cuda.is_current_stream_capturing():
            raise UsageError(f"{runnable.name} launches on the default stream and cannot be captured in a CUDA graph")
        default.wait_stream(current)
        result = kernel(*args)
        current.wait_stream(default)
        return result

    return call


_active: Applier | None = None
_asked_environment = False


def enable_apply(data: TraceSet | str | os.PathLike[str] | None = None, config: ApplyConfig | None = None) -> Applier:
    """Turn apply() on with a data set (default: that of FIB_DATASET_PATH); returns what it works with."""
    global _active
    source = data if data is not None else DATASET_PATH.get()
    if source is None:
        raise UsageError("enable_apply() needs a data set: give one, or set FIB_DATASET_PATH")
    _active = Applier(source, config)
    return _active


def disable_apply() -> None:
    """Turn apply() off for functions decorated from now on; those decorated before keep their solutions."""
    global _active, _asked_environment
    _active, _asked_environment = None, True


def active_applier() -> Applier | None:
    """What apply() works with, or None while it is off; asks FIB_ENABLE_APPLY the first time."""
    global _asked_environment
    if _active is None and not _asked_environment:
        _asked_environment = True
        if ENABLE_APPLY.get():
            enable_apply()
    return _active


@overload
def apply(name: str | Resolver) -> Callable[[F], F]: ...
@overload
def apply(
    name: str | Resolver,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    fallback: Kernel | None = None,
) -> Any: ...
def apply(
    name: str | Resolver,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    fallback: Kernel | None = None,
) -> Any:
    """The best solution of a definition, as a decorator or for one call; see the module's docstring.

    `name` is a definition's name, or a function of the call's arguments that returns one.
    """
    from .capture_api import active_tracer, capture

    applier = active_applier()
    if args is None and kwargs is None and fallback is None:

        def decorate(function: F) -> F:
            if applier is not None:
                wrap = applier.wrap if isinstance(name, str) else applier.wrap_resolved
                return capture(name)(wrap(name, function))  # type: ignore[arg-type]
            return capture(name)(function)

        return decorate
    args, kwargs = args or (), kwargs or {}
    tracer = active_tracer()
    if tracer is not None:
        definition = tracer.data.definitions.get(name if isinstance(name, str) else name(*args, **kwargs))
        if definition is not None:
            tracer.record(definition, args, kwargs)
    if applier is None:
        if fallback is None:
            raise UsageError("apply() is off and no fallback was given; call enable_apply() first")
        return fallback(*args, **kwargs)
    resolved = name if isinstance(name, str) else name(*args, **kwargs)
    return applier.call(resolved, args, kwargs, fallback)
