"""A plan on a GPU: its memory, its weights, and launches of many steps.

    kernel = CudaKernel(plan)                      generates, compiles (or takes from the cache), allocates
    kernel.bind_weight("layers.0.qkv_proj", array) copied in pieces and repacked on the GPU
    kernel.run([step, step, ...])                  one cooperative launch; the outputs of every step

`run` may be given `on_step`, called for every finished step while the kernel goes on; if it returns True the kernel ends
after the step it is in. A stuck wait ends the launch with StuckError, which says what was waited for.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ...dtypes import itemsize, to_numpy
from ...errors import DeviceError, ProgramError, StuckError, TensorError
from ...ir.expr import evaluate
from ...ir.nodes import Plan, Tensor
from ...ir.tables import check
from .codegen import DEVICE, Config, generate
from .driver import Device
from .layout import max_value_const, nbytes, pad_k, packed_bytes
from .nvrtc import compile_source

THREADS = 384  # as in device/cuda/runtime.cuh
UPLOAD_BYTES = 64 << 20
STUCK = {1: "an event", 2: "the other workers to end the step", 3: "the ring", 4: "the host"}


class StepLike(Protocol):
    @property
    def symbols(self) -> Mapping[str, int]: ...
    @property
    def inputs(self) -> Mapping[str, np.ndarray]: ...


class _Launch(ctypes.Structure):
    """`ev::Launch` of device/cuda/runtime.cuh, field by field."""

    _fields_ = [
        *((n, ctypes.c_uint64) for n in (
            "args", "symbols", "inputs", "outputs", "counters", "barrier", "stop", "status", "host_stop",
            "host_progress", "trace",
        )),
        ("input_stride", ctypes.c_int64), ("output_stride", ctypes.c_int64), ("spin_limit", ctypes.c_uint64),
        ("barrier_base", ctypes.c_uint32), ("first_step", ctypes.c_uint32),
        *((n, ctypes.c_int32) for n in ("num_segments", "num_steps", "first_segment", "last_segment")),
    ]  # fmt: skip


class CudaKernel:
    """A compiled plan with its buffers on one GPU. Outputs are read after `run`; states live on between runs."""

    def __init__(self, plan: Plan, config: Config | None = None, device: Device | None = None, spin_limit_s: float = 2.0) -> None:
        if plan.schedule is None:
            raise ProgramError(f"plan '{plan.name}' has no schedule")
        self.plan = plan
        self.source = generate(plan, config)
        self.binary = compile_source(self.source.text)
        self.device = device or Device()
        self.workers = plan.schedule.num_workers
        if self.workers > self.device.num_sms:
            raise DeviceError(f"the plan has {self.workers} workers, but {self.device.name} has {self.device.num_sms} multiprocessors")
        d, layout = self.device, self.source.layout
        self.function = d.function(self.binary.cubin, "eventide_kernel")
        d.shared_memory(self.function, self.source.config.shared_bytes)
        pack = compile_source((DEVICE / "pack.cuh").read_text())
        self.pack = d.function(pack.cubin, "pack_panel8")
        self.spin_limit_ns = int(spin_limit_s * 1e9)
        self.addresses = self._allocate()
        self.counter_bytes = 2 * layout.num_cells * 128
        self.counters = d.allocate(self.counter_bytes + 512, "event counters")
        self.small = d.host_memory(256)  # host_stop, host_progress
        self.words = self.small.view(np.uint32)
        self.arguments = self._upload_arguments()
        self.bound: set[str] = set()
        self.trace_bytes = self.workers * self.source.config.trace * 48
        self.trace_address = d.allocate(self.trace_bytes, "the timeline") if self.trace_bytes else 0
        self.clear()

    # -- memory

    def _allocate(self) -> dict[str, int]:
        plan, d = self.plan, self.device
        arena = d.allocate(plan.arena_bytes, "scratch tensors")
        out = {}
        for t in plan.tensors.values():
            if t.role == "scratch":
                out[t.name] = arena + plan.offsets[t.name] if t.name in plan.offsets else d.allocate(nbytes(plan, t), f"tensor '{t.name}'")
            elif t.role == "weight":
                out[t.name] = d.allocate(packed_bytes(t), f"weight '{t.name}'")
            elif t.role == "state" or (t.role == "output" and t.name not in self.source.layout.output_offsets):
                out[t.name] = d.allocate(nbytes(plan, t), f"tensor '{t.name}'")
                d.fill(out[t.name], 0, nbytes(plan, t))
        self.arena = arena
        return out

    def _upload_arguments(self) -> int:
        table = np.zeros((len(self.source.segments), self.source.stride), np.uint64)
        for row, arguments in zip(table, self.source.segments):
            row[: len(arguments)] = [self._argument(a.kind, a.value) for a in arguments]
        address = self.device.allocate(table.nbytes, "task arguments")
        self.device.upload(address, table)
        return address

    def _argument(self, kind: str, value: str | int) -> int:
        layout = self.source.layout
        if kind == "number":
            return int(value) & (2**64 - 1)
        name = str(value)
        if kind == "event":
            return layout.event_base[name]
        for offsets in (layout.input_offsets, layout.output_offsets, self.addresses):
            if name in offsets:
                return offsets[name]
        raise ProgramError(f"tensor '{name}' of plan '{self.plan.name}' has no memory")

    def clear(self) -> None:
        """Resets all counters: at the start, and after a launch that was aborted."""
        self.device.fill(self.counters, 0, self.counter_bytes + 512)
        self.device.synchronize()
        self.steps_run = 0

    def poison(self) -> None:
        """Fills scratch memory with NaN (a test aid)."""
        self.device.fill(self.arena, 0xFF, max(self.plan.arena_bytes, 16))
        self.device.synchronize()

    def _tensor(self, name: str, roles: tuple[str, ...]) -> Tensor:
        t = self.plan.tensors.get(name)
        if t is None or t.role not in roles:
            raise ProgramError(f"plan '{self.plan.name}' has no {' or '.join(roles)} named '{name}'")
        return t

    def bind_weight(self, name: str, array: np.ndarray) -> None:
        """Copies a weight [n, k] (or any shape, if plain) to the GPU in the layout that the plan asks for."""
        t = self._tensor(name, ("weight",))
        shape = tuple(max_value_const(e) for e in t.shape)
        if array.shape != shape or array.dtype != to_numpy(t.dtype):
            raise TensorError(f"weight '{name}': expected {t.dtype} {list(shape)}, got {array.dtype} {list(array.shape)}")
        d, address = self.device, self.addresses[name]
        self.bound.add(name)
        if t.layout == "plain":
            d.upload(address, array)
            return
        n, k = shape
        rows = max(8, UPLOAD_BYTES // (k * 2) // 8 * 8)
        staging = d.allocate(min(rows, n) * k * 2, "a staging buffer")
        for r in range(0, n, rows):
            have = min(rows, n - r)
            d.upload(staging, array[r : r + have])
            padded = -(-have // 8) * 8
            values = (ctypes.c_int32(v) for v in (r, padded, have, k, pad_k(k)))
            d.launch(self.pack, 528, 256, 0, ctypes.c_uint64(staging), ctypes.c_uint64(address), *values)
            d.synchronize()
        d.free(staging)

    def write_state(self, name: str, array: np.ndarray) -> None:
        t = self._tensor(name, ("state",))
        if array.nbytes != nbytes(self.plan, t) or array.dtype != to_numpy(t.dtype):
            raise TensorError(f"state '{name}': expected {nbytes(self.plan, t)} bytes of {t.dtype}, got {array.nbytes} of {array.dtype}")
        self.device.upload(self.addresses[name], array)

    def read_state(self, name: str) -> np.ndarray:
        t = self._tensor(name, ("state", "scratch"))
        shape = [int(evaluate(e, {k: hi for k, (_, hi) in self.plan.symbols.items()})) for e in t.shape]
        out = np.empty(shape, to_numpy(t.dtype))
        self.device.download(self.addresses[name], out)
        return out

    def read_trace(self) -> np.ndarray:
        """The timeline of the last launch, uint64 [workers, records, 6]; see `Worker::trace` in device/cuda/runtime.cuh."""
        out = np.zeros((self.workers, self.source.config.trace, 6), np.uint64)
        self.device.download(self.trace_address, out)
        return out

    # -- launches

    def run(self, steps: Sequence[StepLike], on_step: Callable[[int, dict[str, np.ndarray]], bool | None] | None = None) -> list[dict[str, np.ndarray]]:
        """Runs the steps in one launch; returns the outputs of each finished step.

        Outputs too large to keep for every step (logits) are given for the last step only.
        """
        launch, outputs, keep = self._prepare(steps)
        self.device.launch(self.function, self.workers, THREADS, self.source.config.shared_bytes, launch, cooperative=True)
        seen = 0
        while not self.device.done():
            if on_step is None:
                time.sleep(0 if len(steps) < 64 else 1e-4)
                continue
            ready = int(self.words[1])
            for i in range(seen, ready):
                if on_step(i, self._outputs(steps[i], outputs[i], large=False)):
                    self.words[0] = 1
            seen = max(seen, ready)
        finished = int(self.words[1])
        self._check_status()
        self.steps_run += finished
        results = [self._outputs(s, o, large=i == finished - 1) for i, (s, o) in enumerate(zip(steps[:finished], outputs))]
        if on_step is not None:
            for i in range(seen, finished):
                on_step(i, results[i])
        for address in keep:
            self.device.free(address)
        return results

    def _prepare(self, steps: Sequence[StepLike]) -> tuple[_Launch, np.ndarray, list[int]]:
        if missing := {t.name for t in self.plan.tensors.values() if t.role == "weight"} - self.bound:
            raise ProgramError(f"weight '{min(missing)}' has not been bound")
        layout = self.source.layout
        symbols = np.array([[s.symbols[k] for k in layout.symbols] or [0] for s in steps], np.int32)
        inputs = np.zeros((len(steps), layout.input_bytes), np.uint8)
        for i, s in enumerate(steps):
            self._write_inputs(s, inputs[i])
        keep = []
        for array in (symbols, inputs):
            address = self.device.allocate(array.nbytes, "a launch's inputs")
            self.device.upload(address, array)
            keep.append(address)
        outputs = self.device.host_memory(len(steps) * layout.output_bytes).reshape(len(steps), -1)
        self.words[:2] = 0
        barrier = self.counters + self.counter_bytes
        self.device.fill(barrier + 128, 0, 256)
        base = self.small.ctypes.data
        launch = _Launch(
            args=self.arguments, symbols=keep[0], inputs=keep[1], outputs=outputs.ctypes.data,
            counters=self.counters, barrier=barrier, stop=barrier + 128, status=barrier + 256, host_stop=base,
            host_progress=base + 4, trace=self.trace_address, input_stride=layout.input_bytes, output_stride=layout.output_bytes,
            spin_limit=self.spin_limit_ns, barrier_base=(self.steps_run * self.workers) & 0xFFFFFFFF,
            first_step=self.steps_run & 0xFFFFFFFF, num_segments=len(self.source.segments), num_steps=len(steps),
            first_segment=0, last_segment=len(self.source.segments),
        )  # fmt: skip
        return launch, outputs, keep

    def _write_inputs(self, step: StepLike, row: np.ndarray) -> None:
        for name, (lo, hi) in self.plan.symbols.items():
            if not lo <= step.symbols.get(name, lo - 1) <= hi:
                raise ProgramError(f"symbol '{name}' must be in [{lo}, {hi}], got {step.symbols.get(name)}")
        for name, offset in self.source.layout.input_offsets.items():
            t = self.plan.tensors[name]
            shape = tuple(int(evaluate(e, step.symbols)) for e in t.shape)
            if name not in step.inputs:
                raise ProgramError(f"input '{name}' of plan '{self.plan.name}' was not given")
            array = np.ascontiguousarray(step.inputs[name], to_numpy(t.dtype))
            if array.shape != shape:
                raise ProgramError(f"input '{name}': expected shape {list(shape)}, got {list(array.shape)}")
            check(t, array, step.symbols, step.inputs)
            row[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def _outputs(self, step: StepLike, row: np.ndarray, large: bool) -> dict[str, np.ndarray]:
        out: dict[str, Any] = {}
        for t in self.plan.tensors.values():
            if t.role != "output":
                continue
            shape = tuple(int(evaluate(e, step.symbols)) for e in t.shape)
            size = int(np.prod(shape)) * itemsize(t.dtype)
            if (offset := self.source.layout.output_offsets.get(t.name)) is not None:
                out[t.name] = row[offset : offset + size].view(to_numpy(t.dtype)).reshape(shape).copy()
            elif large:
                out[t.name] = np.empty(shape, to_numpy(t.dtype))
                self.device.download(self.addresses[t.name], out[t.name])
        return out

    def _check_status(self) -> None:
        status = np.zeros(8, np.uint32)
        self.device.download(self.counters + self.counter_bytes + 256, status)
        if not status[0]:
            return
        self.clear()
        assert self.plan.schedule is not None
        _, worker, segment, cell, have, need, step, kind = (int(v) for v in status)
        grid = self.plan.schedule.segments[segment].grid
        where = f"in grid '{grid}'" if kind == 1 else ""
        what = self._cell_name(cell) if kind == 1 else STUCK.get(kind, "something")
        raise StuckError(
            f"the kernel stopped making progress: worker {worker}, step {step}, {where} waited for {what}, which had {have} of "
            f"{need} notifications after {self.spin_limit_ns / 1e9:.1f} s"
        )

    def _cell_name(self, cell: int) -> str:
        name = max((n for n, b in self.source.layout.event_base.items() if b <= cell), key=lambda n: self.source.layout.event_base[n])
        return f"event '{name}', cell {cell - self.source.layout.event_base[name]}"
