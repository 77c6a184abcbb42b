"""Solutions as functions of this process, and calls turned into the form that a solution takes.

A caller passes inputs and wants values back, or passes outputs to be written; a solution returns values, or writes its
last arguments. `adapt` joins any caller to any solution for one fixed set of shapes:

    caller           solution         the adapted call
    returns values   returns values   the solution itself, results in the order of the outputs
    returns values   writes outputs   allocates the outputs, calls, returns them
    writes outputs   writes outputs   the solution itself
    writes outputs   returns values   calls, copies the values into the outputs

Whoever enables apply() trusts the data set's solutions: they run here, with everything this process may do. Building is
confined where the machine can confine it.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .dataset import TraceSet
from .schema_definition import Definition

logger = logging.getLogger("eventide.bench.apply")

Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Runnable:
    """A solution that this process can call."""

    name: str
    function: Kernel
    writes_outputs: bool
    style: str
    """"objects" takes arrays or tensors, "pointers" takes DLPack structures."""
    framework: str
    """"numpy", "torch" or "none" for pointers."""


class Library:
    """Builds solutions once, by name; a solution that does not build is reported once and then passed over."""

    def __init__(self, data: TraceSet, cache: Path) -> None:
        self.data, self.cache = data, cache
        self._lock = threading.RLock()
        self._built: dict[tuple[str, str], Runnable | None] = {}
        self._method: Any = None

    def has(self, name: str, device: str) -> bool:
        """Whether asking for it again is cheap."""
        return (name, _kind(device)) in self._built

    def get(self, name: str, device: str) -> Runnable | None:
        """A solution for "cpu" or "cuda:0"; None where it cannot be had."""
        key = (name, _kind(device))
        with self._lock:
            if key not in self._built:
                try:
                    self._built[key] = self._build(name, device)
                except Exception as error:
                    # a candidate that breaks must not break the program that it was to speed up
                    logger.warning("apply: solution %s cannot be used: %s", name, error)
                    self._built[key] = None
            return self._built[key]

    def _build(self, name: str, device: str) -> Runnable | None:
        from . import sandbox
        from .builders import BuildContext, builder_for

        solution = self.data.get_solution(name)
        if self._method is None:
            self._method = sandbox.choose(unsafe=True)  # asks the machine, which takes a moment
        context = BuildContext(self.cache / "bench", device, self._method)
        builder = builder_for(solution)
        missing = builder.missing(solution, context)
        if missing is not None:
            logger.info("apply: solution %s is passed over: %s", name, missing)
            return None
        built = builder.build(solution, context)
        function, style = _load(built.code)
        return Runnable(name, function, solution.spec.destination_passing_style, style, built.framework)


def _kind(device: str) -> str:
    return device.split(":")[0]


def _load(code: dict[str, Any]) -> tuple[Kernel, str]:
    if code["kind"] != "python":
        from .worker.load import load

        loaded = load(code)
        return loaded.function, loaded.style
    return _load_python(Path(code["root"]), code["path"], code["function"]), "objects"


def _load_python(root: Path, file: str, function: str) -> Kernel:
    # two solutions may both have a utils.py: each sees its own, and none stays under that name
    before = set(sys.modules)
    sys.path.insert(0, str(root))
    try:
        name = f"eventide_solution_{root.parent.name}"
        spec = importlib.util.spec_from_file_location(name, root / file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is nothing that Python can import")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(root))
        for other in set(sys.modules) - before:
            where = getattr(sys.modules[other], "__file__", None)
            if where and Path(where).is_relative_to(root) and not other.startswith("eventide_solution_"):
                del sys.modules[other]
    found: Any = _attribute(module, function)
    if not callable(found):
        raise TypeError(f"{function} in {file} is not callable")
    kernel: Kernel = found
    return kernel


def _attribute(module: ModuleType, dotted: str) -> Any:
    found: Any = module
    for part in dotted.split("."):
        found = getattr(found, part)
    return found


def adapt(runnable: Runnable, definition: Definition, args: Sequence[Any], output_shapes: Sequence[Any]) -> Kernel:
    """A call for arguments of exactly the shapes, types and device of `args`."""
    num_in, num_out = len(definition.inputs), len(definition.outputs)
    writes = len(args) > num_in
    kernel = _marshalled(runnable, definition, args, output_shapes)
    if writes and runnable.writes_outputs:
        return kernel
    if writes:

        def call_and_copy(*given: Any) -> None:
            for target, value in zip(given[num_in:], _in_order(kernel(*given[:num_in]), definition)):
                target[...] = value

        return call_and_copy
    if not runnable.writes_outputs:
        return lambda *given: _as_returned(_in_order(kernel(*given), definition))
    allocate = _allocator(definition, args, output_shapes)
    if num_out == 1:

        def call_for_one(*given: Any) -> Any:
            (out,) = allocate()
            kernel(*given, out)
            return out

        return call_for_one

    def call_for_many(*given: Any) -> Any:
        outs = allocate()
        kernel(*given, *outs)
        return outs

    return call_for_many


def _in_order(result: Any, definition: Definition) -> Sequence[Any]:
    if isinstance(result, dict):
        return [result[name] for name in definition.outputs]
    return result if isinstance(result, (tuple, list)) else (result,)


def _as_returned(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _allocator(definition: Definition, args: Sequence[Any], shapes: Sequence[Any]) -> Callable[[], tuple[Any, ...]]:
    from .worker.arrays import numpy_dtype, torch_dtype

    example = next(a for a in args if hasattr(a, "shape"))
    if type(example).__module__.split(".")[0] == "torch":
        import torch

        plans = [(s, torch_dtype(definition.dtype_of(n))) for n, s in zip(definition.outputs, shapes)]
        device = example.device
        return lambda: tuple(torch.empty(s, dtype=d, device=device) for s, d in plans)
    import numpy as np

    np_plans = [(s, numpy_dtype(definition.dtype_of(n))) for n, s in zip(definition.outputs, shapes)]
    return lambda: tuple(np.empty(s, d) for s, d in np_plans)


def _marshalled(runnable: Runnable, definition: Definition, args: Sequence[Any], shapes: Sequence[Any]) -> Kernel:
    """The solution's function for arguments as the caller has them: arrays, tensors or numbers."""
    tensors = [a for a in args if hasattr(a, "shape")]
    is_torch = any(type(a).__module__.split(".")[0] == "torch" for a in tensors)
    if runnable.style == "objects":
        if is_torch and runnable.framework == "numpy":
            return _from_torch_to_numpy(runnable.function)
        if not is_torch and runnable.framework == "torch":
            return _from_numpy_to_torch(runnable.function)
        return runnable.function
    from .worker import calls

    names = [*definition.inputs, *definition.outputs]
    all_shapes = [tuple(a.shape) if hasattr(a, "shape") else None for a in args[: len(definition.inputs)]]
    all_shapes += [None if s is None else tuple(s) for s in shapes]
    dtypes = [definition.dtype_of(n) for n in names]
    device = (2, tensors[0].device.index) if is_torch and tensors[0].is_cuda else (1, 0)

    def pointers(*given: Any) -> None:
        keep, passed = [], []
        for value, shape, dtype in zip(given, all_shapes, dtypes):
            if shape is None:
                passed.append(calls.c_argument(float(value) if dtype.startswith(("float", "bf")) else int(value)))
                continue
            address = value.data_ptr() if is_torch else value.ctypes.data
            keep.append(calls.describe(address, shape, dtype, device))
            passed.append(calls.c_argument(keep[-1]))
        runnable.function(*passed)

    return pointers


def _to_numpy(value: Any) -> Any:
    if not hasattr(value, "data_ptr"):
        return value
    if str(value.dtype) != "torch.bfloat16":
        return value.detach().numpy()
    import ml_dtypes
    import torch

    return value.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _to_tensor(value: Any) -> Any:
    from .worker.arrays import to_torch

    return to_torch(value, str(value.dtype)) if hasattr(value, "ctypes") else value


def _from_numpy_to_torch(function: Kernel) -> Kernel:
    return lambda *given: _each(function(*map(_to_tensor, given)), _to_numpy)


def _from_torch_to_numpy(function: Kernel) -> Kernel:
    return lambda *given: _each(function(*map(_to_numpy, given)), _to_tensor)


def _each(result: Any, convert: Kernel) -> Any:
    if isinstance(result, dict):
        return {name: convert(value) for name, value in result.items()}
    return [convert(v) for v in result] if isinstance(result, (tuple, list)) else convert(result)
