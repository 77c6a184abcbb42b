"""Capturing workloads: what a running program calls, as workloads of a data set.

    enable_tracing("my_dataset", TracingConfig(dump="int", filter="first_k_by_axes"))

    @capture("gqa_paged_decode_h32_kv8_d128_ps1")            # records; @apply records too while tracing is on
    def attention(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale): ...

    disable_tracing()                                        # or the program ends, or gets SIGTERM or SIGINT

The data set brings the definitions and takes the workloads: axes from the shapes, numbers as they are, contents of the
tensors that the dump policy names in `blob/`, the rest as "random". A call that does not fit its definition is counted
and passed on. While tracing is off, `@capture` returns the decorated function itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from ..env import Variable
from ..errors import BenchError, UsageError
from .apply_api import DATASET_PATH, _switch, fit
from .capture_policy import Filter, TracingConfig
from .dataset import TraceSet
from .schema_definition import Definition
from .schema_trace import RandomInput, SafetensorsInput, ScalarInput, Trace, Workload

logger = logging.getLogger("eventide.bench.capture")
F = TypeVar("F", bound=Callable[..., Any])
ENABLE_TRACING: Variable[bool] = Variable("FIB_ENABLE_TRACING", _switch, False, "1 records workloads from the start")
_HELD_BYTES = 256 << 20  # contents held in memory before they are written


@dataclass
class _Entry:
    definition: Definition
    workload_id: str
    axes: dict[str, int]
    inputs: dict[str, RandomInput | ScalarInput | SafetensorsInput]
    contents: dict[str, Any]
    """Copies of the arrays or tensors to store, in host memory."""


class Tracer:
    """Records calls into a data set."""

    def __init__(
        self,
        data: TraceSet,
        config: TracingConfig | Mapping[str, TracingConfig] | None = None,
    ) -> None:
        if data.root is None:
            raise UsageError("tracing needs a data set with a folder, to write workloads and tensors into")
        self.data = data
        self.configs = config if isinstance(config, Mapping) else {}
        self.default = config if isinstance(config, TracingConfig) else TracingConfig()
        for name, one in self.configs.items():
            one.check(data.get_definition(name))
        self.recorded: Counter[str] = Counter()
        """Workloads kept, by definition."""
        self.skipped: Counter[str] = Counter()
        """Calls that could not be recorded, by reason."""
        self._filters: dict[str, Filter] = {}
        self._entries: list[_Entry] = []
        self._held = 0
        self._lock = threading.RLock()
        self._writing = False
        self._deferred: list[Callable[[], None]] = []
        os.register_at_fork(after_in_child=self._forget)

    # ---- recording

    def wrap(self, name: str, function: F) -> F:
        """`function`, recording its calls; itself where the data set does not have the definition."""
        definition = self.data.definitions.get(name)
        if definition is None:
            logger.info("capture: the data set has no definition %r; %s is not recorded", name, function)
            return function
        compiling = _compiling()

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not compiling():
                self.record(definition, args, kwargs)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    def record(self, definition: Definition, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> None:
        """Keep one call, if the filter says so; never raises into the program that is recorded."""
        try:
            self._record(definition, args, kwargs or {})
        except Exception as error:  # the program goes first
            self._skip(f"{definition.name}: {error}")

    def _skip(self, reason: str) -> None:
        if not self.skipped[reason]:
            logger.warning("capture: a call was not recorded: %s", reason)
        self.skipped[reason] += 1

    def _record(self, definition: Definition, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if _graph_capture():
            return self._skip(f"{definition.name}: a CUDA graph is being captured")
        merged = definition.merge_arguments(args, kwargs)[: len(definition.inputs)]
        axes, problem = fit(definition, merged, for_kernel=False)
        if axes is None:
            return self._skip(f"{definition.name}: {problem}")
        config = self.configs.get(definition.name, self.default)
        by_name = dict(zip(definition.inputs, merged))
        with self._lock:
            if definition.name not in self._filters:
                config.check(definition)
                self._filters[definition.name] = Filter(config)
            if not self._filters[definition.name].keeps(axes, by_name):
                return
            entry = _Entry(definition, str(uuid.uuid4()), axes, {}, {})
            path = self.data.blob_path(definition.name, entry.workload_id).as_posix()
            for name, value in by_name.items():
                if value is None:
                    continue
                if definition.inputs[name].shape is None:
                    entry.inputs[name] = ScalarInput(type="scalar", value=value)
                elif config.dumps(definition, name):
                    entry.inputs[name] = SafetensorsInput(type="safetensors", path=path, tensor_key=name)
                    entry.contents[name] = _copied(value)
                else:
                    entry.inputs[name] = RandomInput(type="random")
            self._entries.append(entry)
            self.recorded[definition.name] += 1
            self._held += sum(int(c.nbytes) for c in entry.contents.values())
        if self._held > _HELD_BYTES:
            self.flush()

    # ---- writing

    def flush(self) -> int:
        """Write what is held; returns how many workloads. Contents go first, so that no workload lacks its tensors."""
        written = 0
        with self._lock:
            if self._writing:
                return 0  # a signal came while writing: what it interrupted goes on
            self._writing = True
            try:
                while self._entries:
                    self._write(self._entries[0])
                    self._entries.pop(0)
                    written += 1
                self._held = 0
            finally:
                self._writing = False
        deferred, self._deferred = self._deferred, []
        for act in deferred:
            act()
        return written

    def _write(self, entry: _Entry) -> None:
        if entry.contents:
            assert self.data.root is not None
            file = self.data.root / self.data.blob_path(entry.definition.name, entry.workload_id)
            file.parent.mkdir(parents=True, exist_ok=True)
            if any(hasattr(c, "data_ptr") for c in entry.contents.values()):
                from safetensors.torch import save_file as save_tensors

                save_tensors(entry.contents, str(file))
            else:
                from safetensors.numpy import save_file as save_arrays

                save_arrays(entry.contents, str(file))
        workload = Workload(axes=entry.axes, inputs=entry.inputs, uuid=entry.workload_id)
        self.data.add_traces([Trace(definition=entry.definition.name, workload=workload)])

    def _forget(self) -> None:
        # a forked child must not write its parent's workloads a second time
        self._lock = threading.RLock()
        self._entries, self._held, self._writing = [], 0, False


def _copied(value: Any) -> Any:
    # what the program does to the tensor afterwards must not reach the copy
    if hasattr(value, "data_ptr"):
        import torch

        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return value.copy(order="C")


def _compiling() -> Callable[[], bool]:
    if "torch" not in sys.modules:
        return lambda: False
    import torch

    compiling: Callable[[], bool] = torch.compiler.is_dynamo_compiling
    return compiling


def _graph_capture() -> bool:
    if "torch" not in sys.modules:
        return False
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


_active: Tracer | None = None
_asked_environment = False
_previous: dict[int, Any] = {}


def enable_tracing(
    path: str | os.PathLike[str] | TraceSet | None = None,
    config: TracingConfig | Mapping[str, TracingConfig] | None = None,
) -> Tracer:
    """Start recording into a data set (default: that of FIB_DATASET_PATH), which also brings the definitions.

    `config` is for all definitions, or by name. What is recorded is written by `disable_tracing()`, at exit, and on
    SIGTERM and SIGINT, whose former handlers run afterwards.
    """
    global _active
    source = path if path is not None else DATASET_PATH.get()
    if source is None:
        raise UsageError("enable_tracing() needs a data set: give one, or set FIB_DATASET_PATH")
    disable_tracing()
    _active = Tracer(source if isinstance(source, TraceSet) else TraceSet.load(source), config)
    atexit.register(_at_exit)
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # only the main thread may set handlers; exit still writes
            _previous[number] = signal.signal(number, _on_signal)
    return _active


def disable_tracing() -> int:
    """Write what was recorded and stop; returns how many workloads this wrote."""
    global _active, _asked_environment
    tracer, _active, _asked_environment = _active, None, True
    for number, handler in list(_previous.items()):
        with contextlib.suppress(ValueError):
            if signal.getsignal(number) is _on_signal:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _previous.pop(number)
    atexit.unregister(_at_exit)
    return tracer.flush() if tracer is not None else 0


def active_tracer() -> Tracer | None:
    """What records, or None while tracing is off; asks FIB_ENABLE_TRACING the first time."""
    global _asked_environment
    if _active is None and not _asked_environment:
        _asked_environment = True
        if ENABLE_TRACING.get():
            enable_tracing()
    return _active


def capture(name: str | Callable[..., str]) -> Callable[[F], F]:
    """A decorator that records the calls of a function as workloads of a definition.

    `name` is the definition's name, or a function of the call's arguments that returns it.
    """
    tracer = active_tracer()

    def decorate(function: F) -> F:
        if tracer is None:
            return function
        if isinstance(name, str):
            return tracer.wrap(name, function)
        compiling = _compiling()

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not compiling():
                definition = tracer.data.definitions.get(name(*args, **kwargs))
                if definition is not None:
                    tracer.record(definition, args, kwargs)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _at_exit() -> None:
    if _active is not None:
        try:
            _active.flush()
        except (BenchError, OSError) as error:
            logger.error("capture: workloads could not be written: %s", error)


def _on_signal(number: int, frame: FrameType | None) -> None:
    def pass_on() -> None:
        previous = _previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if _active is not None and _active._writing:
        _active._deferred.append(pass_on)
        return
    _at_exit()
    pass_on()
