"""The CPU backend: persistent C++ workers, one a core, that run many steps without returning to Python.

    kernel = CpuKernel(plan)                              threads start and wait
    for name, array in weights: kernel.bind_weights(name, array)      packed once, into huge pages
    kernel.states["tokens"][0, :3] = prompt               zeroed memory of the kernel's, or bind_state(name, array)
    outputs = kernel.run([step])                          one launch, any number of steps

    loop = kernel.run_loop(symbols, inputs, 32, stacked={"pos", "slot", "row_pos"}, keep={"next_token"},
                           stop=Stop("next_token", [[eos]]))
    loop.num_steps, loop.outputs["next_token"]            17, int32 [17, 1]

`run_loop` is the token loop: one native call in which inputs named in `stacked` have a leading step dimension, the others
stay the same, and sampling is part of the plan. It releases the GIL, gives progress to `on_progress`, looks for
signals about every 50 ms, and ends early when a stop rule, `stop()` or a callback says so.

A bfloat16 weight in panels takes 12 bits a value, without loss, where a step waits for memory (`narrow`); results have the same
bits as with 16, except with AVX2, which multiplies such weights and bfloat16 x as integers (device/cpu/fixed.h). A weight whose
exponents lie too far apart for that stays as it is.

Operator code is chosen at run time among the instruction sets that this processor has (EVENTIDE_CPU_ISA overrides).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import itemsize, to_numpy
from ..env import CPU_ISA
from ..errors import EventideError, MissingDependencyError, PlanError, ProgramError, StuckError, UsageError
from ..ir.nodes import Plan, Tensor
from ..ir.tables import check, check_symbols
from ..ops.registry import get_op
from .base import Array, OnStep, Outputs, StepLike, as_array, shape_of, tensor_of
from .cpu_lower import DTYPES, lower

__all__ = ["RECORD", "CpuKernel", "Loop", "Stop", "choose_isa"]

RECORD = np.dtype(
    [("step", "i4"), ("worker", "i4"), ("grid", "i4"), ("_", "i4"), ("task", "i8"), ("free", "i8"), ("start", "i8"), ("end", "i8")]
)
Table = Mapping[str, Array]

NARROW_OPS = {"linear", "embed"}  # whose CPU code reads weights of 12 bits
NARROW_FROM_BYTES = 32 << 20  # below, weights may stay in a cache, where widening costs more than it saves


@dataclass(frozen=True)
class Stop:
    """When a loop ends before its last step: `output`, an int32 output [rows], holds one of its row's `tokens`
    (rows of equal length, padded with -1): ``any`` row, or ``all`` of them, each at some step."""

    output: str
    tokens: Any
    when: str = "any"


@dataclass(frozen=True)
class Loop:
    """What a loop did. Outputs that were kept have a leading dimension of `num_steps`; the others hold the last step's."""

    num_steps: int
    outputs: Outputs


def choose_isa(name: str | None = None) -> str:
    """The instruction set to run operators with: the one asked for, or the best of this processor."""
    native = _native()
    supported = native.supported_isas()
    compiled = {pair.split(":")[1] for pair in native.compiled_ops()}
    usable = [isa for isa in supported if isa in compiled]
    wanted = name or CPU_ISA.get()
    if wanted is None:
        return str(usable[0])
    if wanted not in usable:
        raise UsageError(f"this processor cannot run CPU code for '{wanted}'; it has: {', '.join(usable)}")
    return wanted


class CpuKernel:
    """A plan on CPU workers. One launch at a time; `stop` may be called from any thread.

    isa: the instruction set (None: the best). poison: fill scratch and outputs with 0xFF before every step.
    check_counts: compare all counters with their needed counts after every step. pin: tie workers to CPUs.
    delay_ns: before some tasks wait a random time up to this (to bring out races). spin_us, yield_us: how long a waiting
    worker spins, then yields its CPU, before it sleeps (None: 50, or 2 with fewer CPUs than workers). long_task_us: steps
    that take a worker longer for each of its tasks aren't recorded and replayed; workers share what is left of them. narrow:
    hold bfloat16 weights in 12 bits a value (None: if they are more than caches hold, and the instruction set has wide
    vectors).
    """

    def __init__(
        self,
        plan: Plan,
        num_threads: int | None = None,
        *,
        isa: str | None = None,
        poison: bool = False,
        check_counts: bool = False,
        pin: bool = False,
        delay_ns: int = 0,
        delay_seed: int = 1,
        spin_us: float | None = None,
        yield_us: float = 0.0,
        long_task_us: float = 4.0,
        narrow: bool | None = None,
    ) -> None:
        text = lower(plan)
        assert plan.schedule is not None
        if num_threads not in (None, plan.schedule.num_workers):
            raise ProgramError(
                f"plan '{plan.name}' is scheduled for {plan.schedule.num_workers} workers, got num_threads={num_threads}; "
                "compile it for a target with as many"
            )
        self.plan, self.isa = plan, choose_isa(isa)
        self.num_threads = plan.schedule.num_workers
        native = _native()
        extra = _outside_entries(plan, self.isa)
        if spin_us is None:
            # with fewer CPUs than workers a spinning worker only keeps the others from theirs
            spin_us = 50.0 if _num_cpus() >= self.num_threads else 2.0
        waits = (int(spin_us * 1e3), int(yield_us * 1e3), int(long_task_us * 1e3))
        try:
            self._kernel = native.Kernel(text, self.isa, extra, poison, check_counts, pin, delay_ns, delay_seed, *waits)
        except (RuntimeError, MemoryError) as e:
            raise PlanError(f"the CPU backend cannot take plan '{plan.name}': {e}") from None
        tensors = list(plan.tensors.values())
        self._id = {t.name: i for i, t in enumerate(tensors)}
        self._io = [t for t in tensors if t.role in ("input", "output")]
        self._tables = [t for t in self._io if t.role == "input" and any(i.of for i in t.invariants)]
        self._shapes: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}
        self._narrow = self._narrow_weights(narrow)
        self._unbound = {t.name for t in tensors if t.role == "weight"}
        self._memory: dict[str, Array] = {}  # what the workers hold addresses of
        self.states: dict[str, Array] = {}
        self.records: np.ndarray[Any, Any] = np.zeros(0, RECORD)
        for t in tensors:
            if t.role == "state":
                shape = shape_of(t, {})
                raw = native.allocate(int(np.prod(shape)) * itemsize(t.dtype))
                self.bind_state(t.name, raw.view(to_numpy(t.dtype)).reshape(shape))

    # -- memory

    def bind_weights(self, name: str, array: Array) -> None:
        """Copies a weight into the layout that the plan asks for. `array` is in logical shape, of the declared dtype."""
        t = tensor_of(self.plan, name, "weight")
        array = as_array(t, array, shape_of(t, {}))
        native = _native()
        narrow = False
        if t.layout == "plain":
            memory = native.allocate(array.nbytes)
            memory.view(to_numpy(t.dtype)).reshape(array.shape)[...] = array
        else:
            n, k = array.shape
            code = DTYPES.index(t.dtype)
            if t.dtype not in ("float32", "bfloat16"):
                raise ProgramError(f"weight '{name}' is {t.dtype}; panels are made of float32 or bfloat16")
            memory = native.pack_narrow(_address(array), n, k, self.num_threads) if name in self._narrow else None
            narrow = memory is not None
            if memory is None:
                memory = native.allocate(native.packed_bytes(n, k, code))
                native.pack(_address(array), n, k, code, _address(memory), self.num_threads)
        self._bind(t, memory, narrow)
        self._unbound.discard(name)

    def bind_state(self, name: str, array: Array) -> None:
        """Makes an array the memory of a state: C-contiguous, writable, of the declared shape and dtype."""
        t = tensor_of(self.plan, name, "state")
        shape = shape_of(t, {})
        if array.shape != shape or array.dtype != to_numpy(t.dtype):
            raise ProgramError(f"state '{name}': expected {t.dtype} {shape}, got {array.dtype.name} {array.shape}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ProgramError(f"state '{name}' must be C-contiguous and writable, because workers update it in place")
        self._bind(t, array)
        self.states[name] = array

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes that each weight takes as it is packed."""
        return {t.name: self._memory[t.name].nbytes for t in self.plan.tensors.values() if t.role == "weight"}

    def _narrow_weights(self, wanted: bool | None) -> set[str]:
        """Names of the weights that are packed in 12 bits a value if their exponents allow it."""
        weights = [t for t in self.plan.tensors.values() if t.role == "weight" and t.layout != "plain" and t.dtype == "bfloat16"]
        if wanted is None:
            num_bytes = sum(2 * int(np.prod(shape_of(t, {}))) for t in weights)
            wanted = self.isa != "portable" and num_bytes > NARROW_FROM_BYTES
        others = {a.tensor for g in self.plan.grids if g.op not in NARROW_OPS for a in g.accesses}
        return {t.name for t in weights} - others if wanted else set()

    def _bind(self, t: Tensor, memory: Array, narrow: bool = False) -> None:
        self._memory[t.name] = memory
        self._kernel.bind(self._id[t.name], _address(memory), narrow)

    # -- launches

    def run(self, steps: Sequence[StepLike], on_step: OnStep | None = None, *, profile: bool = False) -> list[Outputs]:
        """Runs the steps in one launch; one dictionary of outputs a step that ran. `on_step(k, outputs)` ends the launch by
        returning True. With `profile` every task is recorded in `records`."""
        if not steps:
            return []
        results: list[Outputs] = []
        held: list[Table] = []
        symbols = np.empty((len(steps), len(self.plan.symbols)), np.int64)
        pointers = np.empty((len(steps), len(self._io)), np.int64)
        for k, step in enumerate(steps):
            values = self._symbols(step.symbols)
            shapes = self._step_shapes(values)
            arrays = {t.name: self._input(t, step.inputs, shapes[t.name]) for t in self._io if t.role == "input"}
            out = {t.name: np.empty(shapes[t.name], to_numpy(t.dtype)) for t in self._io if t.role == "output"}
            self._check_derived(values, arrays)
            symbols[k] = values
            pointers[k] = [_address(arrays[t.name] if t.role == "input" else out[t.name]) for t in self._io]
            held.append(arrays)
            results.append(out)
        between = None
        if on_step is not None:
            between = lambda done: not on_step(done - 1, results[done - 1])  # noqa: E731
        done = self._launch(symbols, pointers, None, between, 0, profile, lambda k: held[k])
        return results[:done]

    def run_loop(
        self,
        symbols: Mapping[str, int],
        inputs: Mapping[str, Any],
        num_steps: int,
        *,
        stacked: Collection[str] = (),
        keep: Collection[str] | None = None,
        stop: Stop | None = None,
        on_progress: Callable[[int, Outputs], Any] | None = None,
        interval_s: float = 0.0,
        profile: bool = False,
    ) -> Loop:
        """Runs `num_steps` steps of the same symbols in one launch.

        Inputs in `stacked` are [num_steps, ...], the others are the same in every step. `keep`: outputs to keep from every
        step (default: all). `on_progress(done, outputs)` is called after steps, at most every `interval_s` seconds and after
        the last, and ends the loop by returning True; of kept outputs the first `done` entries are filled.
        """
        values = self._symbols(symbols)
        shapes = self._step_shapes(values)
        if unknown := set(stacked) - {t.name for t in self._io if t.role == "input"}:
            raise ProgramError(f"plan '{self.plan.name}' has no input '{min(unknown)}' to be stacked")
        if num_steps < 1:
            raise ProgramError(f"a loop has at least one step, got num_steps={num_steps}")
        arrays: dict[str, Array] = {}
        outputs: Outputs = {}
        addresses, strides = np.zeros(len(self._io), np.int64), np.zeros(len(self._io), np.int64)
        for i, t in enumerate(self._io):
            shape = shapes[t.name]
            if t.role == "input":
                many = t.name in stacked
                array = arrays[t.name] = self._input(t, inputs, (num_steps, *shape) if many else shape)
            else:
                many = keep is None or t.name in keep
                array = outputs[t.name] = np.empty((num_steps, *shape) if many else shape, to_numpy(t.dtype))
            addresses[i] = _address(array)
            strides[i] = array.strides[0] if many else 0
        pointers = addresses + np.arange(num_steps)[:, None] * strides

        def tables(k: int) -> Table:
            return {n: a[k] if n in stacked else a for n, a in arrays.items()}

        if self._tables:
            for k in range(num_steps):
                self._check_derived(values, tables(k))
        rule = None
        if stop is not None:
            t = tensor_of(self.plan, stop.output, "output")
            tokens = np.ascontiguousarray(np.atleast_2d(np.asarray(stop.tokens)), dtype=np.int32)
            if t.dtype != "int32" or shapes[t.name] != tokens.shape[:1] or stop.when not in ("any", "all"):
                raise ProgramError(
                    f"a stop rule needs an int32 output of one dimension, a row of tokens for each of its elements "
                    f"{shapes[t.name]}, and 'any' or 'all'; got '{stop.output}' {t.dtype}, tokens {tokens.shape}, '{stop.when}'"
                )
            rule = (self._io.index(t), tokens, stop.when == "all")
        between = None
        if on_progress is not None:
            between = lambda done: not on_progress(done, outputs)  # noqa: E731
        symbol_rows = np.empty((num_steps, len(values)), np.int64)
        symbol_rows[:] = values
        done = self._launch(symbol_rows, pointers, rule, between, int(interval_s * 1e9), profile, tables)
        kept = {n for n in outputs if keep is None or n in keep}
        return Loop(done, {n: a[:done] if n in kept else a for n, a in outputs.items()})

    def stop(self) -> None:
        """Ends a running launch after its current step; callable from any thread."""
        self._kernel.stop()

    @property
    def steps_done(self) -> int:
        """Steps that the current launch (or the last one) has finished; readable from any thread."""
        return int(self._kernel.steps_done)

    def run_task(self, grid: str, symbols: Mapping[str, int], coords: Sequence[int], operands: Mapping[str, Array]) -> None:
        """Runs one task alone. `operands`: whole tensors in logical shape (weights come from the kernel)."""
        index = next(i for i, g in enumerate(self.plan.grids) if g.name == grid)
        pointers = []
        for a in self.plan.grids[index].accesses:
            weight = self.plan.tensors[a.tensor].role == "weight"
            pointers.append(_address(self._memory[a.tensor] if weight else operands[a.operand]))
        self._kernel.run_task(index, list(self._symbols(symbols)), list(coords), pointers)

    # -- checks and the native call

    def _symbols(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        check_symbols(self.plan, symbols)
        return tuple(int(symbols[name]) for name in self.plan.symbols)

    def _step_shapes(self, values: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        found = self._shapes.get(values)
        if found is None:
            if len(self._shapes) > 4096:
                self._shapes.clear()
            symbols = dict(zip(self.plan.symbols, values))
            found = self._shapes[values] = {t.name: shape_of(t, symbols) for t in self._io}
        return found

    def _input(self, t: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
        if t.name not in inputs:
            raise ProgramError(f"input '{t.name}' of plan '{self.plan.name}' was not given")
        return as_array(t, inputs[t.name], shape)

    def _check_derived(self, values: tuple[int, ...], arrays: Table) -> None:
        for t in self._tables:
            check(t, arrays[t.name], dict(zip(self.plan.symbols, values)), arrays)

    def _launch(
        self,
        symbols: np.ndarray[Any, Any],
        pointers: np.ndarray[Any, Any],
        stop: tuple[int, np.ndarray[Any, Any], bool] | None,
        between: Callable[[int], bool] | None,
        between_ns: int,
        profile: bool,
        tables: Callable[[int], Table],
    ) -> int:
        if self._unbound:
            raise ProgramError(f"weight '{min(self._unbound)}' of plan '{self.plan.name}' was not given")
        io, tokens, stop_all = stop or (-1, None, False)
        room = 1 << 20 if profile else 0
        records = np.zeros((self.num_threads, room), RECORD)
        counts = np.zeros(self.num_threads, np.int64)
        # only the main thread can receive signals
        signals = threading.current_thread() is threading.main_thread()
        try:
            done = self._kernel.run(
                symbols, pointers, io, tokens, stop_all, between, between_ns, signals,
                _address(records) if profile else 0, room, counts if profile else None,
            )  # fmt: skip
        except _native().Fault as e:
            k = min(self._kernel.steps_done, len(symbols) - 1)
            raise self._explained(str(e), dict(zip(self.plan.symbols, symbols[k].tolist())), tables(k)) from None
        if profile:
            self.records = np.concatenate([r[:n] for r, n in zip(records, counts)])
            self.records.sort(order="start")
        return int(done)

    def _explained(self, message: str, symbols: Mapping[str, int], tables: Table) -> EventideError:
        """The error behind a fault of the workers; a broken table is worded by `ir.tables`."""
        for t in self._io:
            if t.role == "input":
                try:
                    check(t, tables[t.name], symbols, tables)
                except ProgramError as e:
                    return e
        return StuckError(message) if "stuck" in message else PlanError(message)


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _outside_entries(plan: Plan, isa: str) -> list[int]:
    """Entries of the plan's operators that are not in the extension, compiled now."""
    names = dict.fromkeys(g.op for g in plan.grids)
    built_in = set(_native().compiled_ops())
    missing = [n for n in names if f"{n}:{isa}" not in built_in]
    if not missing:
        return []
    from .cpu_codegen import compile_entry

    return [compile_entry(get_op(n), isa) for n in missing]


def _native() -> Any:
    try:
        from .. import _native
    except ImportError as e:
        raise MissingDependencyError(
            f"the C++ extension of Eventide cannot be imported ({e}); install the package with a C++ compiler, or `make build`"
        ) from None
    return _native
