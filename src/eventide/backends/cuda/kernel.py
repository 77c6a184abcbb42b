"""A plan on a GPU: launches of many steps in one cooperative kernel.

    kernel = CudaKernel(plan)                             generates, compiles (or takes from the cache), allocates
    kernel.bind_weights("layers.0.qkv_proj", array)       copied in pieces and repacked on the GPU
    kernel.run([step, step, ...])                         one launch; the outputs of every step
    other = CudaKernel(plan_b, memory=kernel.memory)      a second plan over the same weights and states

    loop = kernel.run_loop(symbols, inputs, 64, stacked={"pos", "row_pos"}, keep={"next_token"},
                           stop=Stop("next_token", [[eos]]), on_progress=lambda done, outputs: ...)

While a kernel runs the host reads how many steps are done and their small outputs; a stop rule, a callback that returns
True, or Ctrl-C ends the launch after the step that it is in, or one later. A stuck wait ends it with StuckError, which
says what was waited for, and leaves the kernel usable. Outputs larger than `layout.SMALL_OUTPUT` (logits) stay on the GPU
and are those of the last step. (One file, though long: a launch's preparation, its run and its end work on the same few
places and words.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import numpy as np

from ...dtypes import to_numpy
from ...errors import DeviceError, EventideError, ProgramError, StuckError, TensorError
from ...ir.expr import evaluate
from ...ir.nodes import Plan
from ...target import DIRECT_ROWS, HALF_ROWS, TILES, WIDE_ROWS
from ..base import Array, OnStep, Outputs, StepLike, shape_of, tensor_of
from ..cpu import Loop, Stop
from .codegen import Config
from .driver import Device
from .fit import compile_plan_source
from .launch import HostBuffer, LaunchBlock, Packed, Packer
from .layout import TAIL, TILE_ROOM, Layout, lay_out, line_bytes, max_value_const, nbytes, packed_bytes, untile
from .memory import CudaMemory, require_room
from .per_op import OperatorGraph
from .running import RunningLoop

__all__ = ["THREADS", "CudaKernel", "packed_bytes"]

THREADS = 384  # as in device/cuda/runtime.cuh
STUCK = {1: "an event", 2: "the other workers to end the step", 3: "the ring", 4: "the host", 5: "data of another worker"}
BOXES = {f"maps of {rows}": rows // 8 for rows in (WIDE_ROWS, DIRECT_ROWS, HALF_ROWS)}  # panels of a box of a weight in chunks
_POLL_S = 2e-5  # between looks at a running launch


class _Place:
    """What a launch has to itself: its inputs on the GPU, its outputs, words that host and kernel share ([0]: the host's wish to
    stop, [1]: steps done), and events at its begin and end."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.inputs, self.room = 0, 0
        self.outputs = HostBuffer(device)
        self.words = device.host_memory(256).view(np.uint32)
        self.events = device.event(), device.event()

    def take(self, nbytes: int) -> int:
        """Room for so many bytes of inputs."""
        if nbytes > self.room:
            self._free()
            room = max(nbytes, 1 << 16)
            self.inputs, self.room = self.device.allocate(room, "a launch's inputs"), room
        return self.inputs

    def stop(self) -> None:
        self.words[0] = 1

    def _free(self) -> None:
        if self.inputs:
            self.device.free(self.inputs)
        self.inputs, self.room = 0, 0

    def close(self) -> None:
        self._free()
        self.outputs.close()
        self.device.free_host_memory(self.words)


class CudaKernel:
    """A compiled plan with its buffers on one GPU. One launch at a time, but for one that `start` queues behind another;
    `stop` may be called from any thread.

    config: shared memory by hand (None: what fits, see `fit`). memory: weights and states to share. spin_limit_s: how long
    a wait may last before the launch is given up. Other options are fields of `Config`: delay_ns, trace.
    """

    def __init__(
        self,
        plan: Plan,
        config: Config | None = None,
        device: Device | None = None,
        spin_limit_s: float = 2.0,
        *,
        memory: CudaMemory | None = None,
        **options: int,
    ) -> None:
        if plan.schedule is None:
            raise ProgramError(f"plan '{plan.name}' has no schedule")
        self.plan = plan
        self.device = d = memory.device if memory else device or Device()
        self.workers = plan.schedule.num_workers
        if self.workers > d.num_sms:
            raise DeviceError(f"plan '{plan.name}' has {self.workers} workers, but {d.name} has {d.num_sms} multiprocessors")
        d.enter()
        self._own: list[int] = []
        self.memory = memory or CudaMemory(d)
        self.memory.check(plan)
        layout = lay_out(plan)
        self.counter_bytes = 2 * layout.num_cells * 128
        # before compiling, which takes seconds
        sizes = self._sizes(layout)
        require_room(d, f"plan '{plan.name}'", sum(sizes.values()) + self.memory.missing_bytes(plan))
        self.packer = Packer(plan, layout)
        self.source, self.binary = compile_plan_source(plan, config, **options)
        sizes["counters"] += 2 * self.source.layout.announced_bytes
        per_op = self.source.config.per_op > 0
        self._module, self.function = d.load(self.binary.cubin, "operator_0" if per_op else "eventide_kernel")
        d.shared_memory(self.function, self.source.config.shared_bytes)
        self.spin_limit_ns = int(spin_limit_s * 1e9)
        trace_bytes = self.workers * self.source.config.trace * 64
        self.addresses = self._allocate({**sizes, "trace": trace_bytes} if trace_bytes else sizes)
        self.arguments = self._upload_arguments()
        self._places = _Place(d), _Place(d)
        self._place = self._places[0]  # of the last launch
        self._ready = False  # whether all weights have values
        self._queued_steps = 0  # of launches whose end hasn't been taken account of
        self.graph = OperatorGraph(d, self._module, self.source, self.workers) if per_op else None
        self._states: dict[str, Array] = {}
        self.states: Mapping[str, Array] = _States(self)
        self.clear()

    # -- memory

    def _sizes(self, layout: Layout) -> dict[str, int]:
        """Bytes of what this kernel has alone."""
        plan, sizes = self.plan, {"": self.plan.arena_bytes + TILE_ROOM, "counters": self.counter_bytes + 512}
        for t in plan.tensors.values():
            large = t.role == "output" and t.name not in layout.output_offsets
            if large or (t.role == "scratch" and t.name not in plan.offsets):
                sizes[f"tensor {t.name}"] = nbytes(plan, t) + (TILE_ROOM if t.layout == TILES else 0)
        return sizes

    def _allocate(self, sizes: Mapping[str, int]) -> dict[str, int]:
        found = self.memory.reserve(self.plan)
        own = {}
        for what, size in sizes.items():
            own[what] = self.device.allocate(size, what or "scratch tensors")
            self._own.append(own[what])
            self.device.fill(own[what], 0, size)
        self.arena, self.counters, self.trace_address = own[""], own["counters"], own.get("trace", 0)
        for t in self.plan.tensors.values():
            if f"tensor {t.name}" in own:
                found[t.name] = own[f"tensor {t.name}"]
            elif t.name in self.plan.offsets:
                found[t.name] = self.arena + self.plan.offsets[t.name]
        for name, offset in self.source.layout.announced_offsets.items():
            found[name] = self.counters + self.counter_bytes + 512 + offset
        return found

    def _upload_arguments(self) -> int:
        table = np.zeros((len(self.source.segments), self.source.stride), np.uint64)
        self._maps = self._upload_maps()
        for row, arguments in zip(table, self.source.segments):
            row[: len(arguments)] = [self._argument(a.kind, a.value) for a in arguments]
        address = self.device.allocate(table.nbytes, "task arguments")
        self._own.append(address)
        self.device.upload(address, table)
        return address

    def _upload_maps(self) -> dict[tuple[str, str], int]:
        """Addresses of the tensor maps of weights that are streamed box by box: of some panels' lines, and of their tails."""
        names = list(dict.fromkeys((a.kind, str(a.value)) for row in self.source.segments for a in row if a.kind in BOXES))
        found = np.zeros((len(names), 2, 128), np.uint8)
        for maps, (kind, name) in zip(found, names):
            t = self.plan.tensors[name]
            panels = -(-max_value_const(t.shape[0]) // 8)
            for one, size in zip(maps, (line_bytes(t.layout), TAIL)):
                one[:] = self.device.tensor_map(self.addresses[name], panels, packed_bytes(t) // panels, (BOXES[kind], size))
        if not names:
            return {}
        address = self.device.allocate(found.nbytes, "descriptions of weights")
        self._own.append(address)
        self.device.upload(address, found)
        return {key: address + 256 * i for i, key in enumerate(names)}

    def _argument(self, kind: str, value: str | int) -> int:
        layout = self.source.layout
        if kind == "number":
            return int(value) & (2**64 - 1)
        name = str(value)
        if kind == "event":
            return layout.event_base[name]
        if kind in BOXES:
            return self._maps[kind, name]
        for offsets in (layout.input_offsets, layout.table_offsets, layout.output_offsets):
            if name in offsets:
                return offsets[name]
        return self.addresses[name]

    def close(self) -> None:
        """Frees what this kernel has alone; `memory.close()` frees weights and states."""
        if not self._own:
            return
        self.device.enter()
        for address in self._own:
            self.device.free(address)
        if self.graph:
            self.graph.close()
        for place in self._places:
            place.close()
        self.device.unload(self._module)
        self._own.clear()

    def clear(self) -> None:
        """Counters, barrier and flags as before the first launch; also after a launch that was given up."""
        self.device.fill(self.counters, 0, self.counter_bytes + 512)
        if size := self.source.layout.announced_bytes:
            self.device.fill(self.counters + self.counter_bytes + 512, 0xFF, 2 * size)
        self.device.synchronize()
        self.steps_run = self._queued_steps = 0
        for place in self._places:
            place.words[:] = 0

    def poison(self) -> None:
        """Fills scratch tensors and large outputs with 0xFF (NaN): a test aid, for reads of what nobody wrote."""
        for t in self.plan.tensors.values():
            if t.role == "scratch" or (t.role == "output" and t.name in self.addresses):
                self.device.fill(self.addresses[t.name], 0xFF, nbytes(self.plan, t))

    # -- weights and states

    def bind_weights(self, name: str, array: Array) -> None:
        """Copies a weight, in its logical shape, to the GPU in the layout that the plan asks for."""
        self.device.enter()
        self.memory.bind_weights(tensor_of(self.plan, name, "weight"), array)

    def bind_rows(self, name: str, array: Array, first: int, step: int, *, last: bool) -> None:
        """Copies rows of a weight, see `CudaMemory.bind_rows`."""
        self.device.enter()
        self.memory.bind_rows(tensor_of(self.plan, name, "weight"), array, first, step, last=last)

    @property
    def bound(self) -> set[str]:
        """Names of the weights that have values."""
        return self.memory.bound

    def bind_state(self, name: str, array: Array) -> None:
        """Makes an array the memory of a state: it is copied to the GPU before every launch and back after it. For large
        states `write_state` and `read_state` copy once."""
        t = tensor_of(self.plan, name, "state")
        if array.shape != shape_of(t, {}) or array.dtype != to_numpy(t.dtype):
            raise ProgramError(f"state '{name}': expected {t.dtype} {shape_of(t, {})}, got {array.dtype.name} {array.shape}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ProgramError(f"state '{name}' must be C-contiguous and writable, because launches update it")
        self._states[name] = array

    def write_state(self, name: str, array: Array) -> None:
        """Sets a state's contents."""
        t = tensor_of(self.plan, name, "state")
        if array.nbytes != nbytes(self.plan, t) or array.dtype != to_numpy(t.dtype):
            expected = f"{nbytes(self.plan, t)} bytes of {t.dtype}"
            raise TensorError(f"state '{name}': expected {expected}, got {array.nbytes} of {array.dtype}")
        self.device.enter()
        self.memory.write(name, array)

    def read_state(self, name: str) -> Array:
        """A copy of a state, or of a scratch tensor at its largest shape (what the last step left there)."""
        t = self.plan.tensors.get(name)
        if t is None or t.role not in ("state", "scratch"):
            raise ProgramError(f"plan '{self.plan.name}' has no state or scratch tensor '{name}'")
        shape = [int(evaluate(e, {k: hi for k, (_, hi) in self.plan.symbols.items()})) for e in t.shape]
        out = np.empty(shape, to_numpy(t.dtype))
        self.device.enter()
        bank = 0
        if name in self.source.layout.announced_offsets:  # in the last step's bank
            bank = (self.steps_run + 1) % 2 * self.source.layout.announced_bytes
        self.device.download(self.addresses[name] + bank, out)
        return untile(out) if t.layout == TILES else out

    def read_output(self, name: str, symbols: Mapping[str, int]) -> Array:
        """An output that stays on the GPU, as the last step left it."""
        t = tensor_of(self.plan, name, "output")
        out = np.empty(shape_of(t, symbols), to_numpy(t.dtype))
        self.device.enter()
        self.device.download(self.addresses[name], out)
        return out

    def read_trace(self) -> Array:
        """The timeline of the last launch, uint64 [workers, records, 8]; see `Worker::trace` in device/cuda/runtime.cuh."""
        out = np.zeros((self.workers, self.source.config.trace, 8), np.uint64)
        self.device.download(self.trace_address, out)
        return out

    # -- launches

    def run(self, steps: Sequence[StepLike], on_step: OnStep | None = None, *, large: bool = True) -> list[Outputs]:
        """Runs the steps in one launch; the outputs of each finished step, large ones (if at all) for the last step only.

        `on_step(k, outputs)` is called while the kernel goes on, and ends the launch by returning True.
        """
        if not steps:
            return []
        block = self._stage(self.packer.steps(steps))
        rows = self._rows(len(steps))
        results: list[Outputs] = []

        def progress(done: int) -> bool:
            wish = False
            while len(results) < done:
                k = len(results)
                results.append({n: a[0] for n, a in self.packer.small(steps[k].symbols, rows[k : k + 1]).items()})
                wish = (on_step is not None and bool(on_step(k, results[k]))) or wish
            return wish

        words = self._place.words
        with closing(self._run(block)) as running:
            for done in running:
                if on_step and progress(done):
                    self.stop()
        done = int(words[1])
        progress(done)
        for name in self._large() if done and large else ():
            results[-1][name] = self.read_output(name, steps[done - 1].symbols)
        return results

    def start(
        self, steps: Sequence[StepLike], packed: Packed | None = None, keep: Collection[str] | None = None
    ) -> Callable[[], list[Outputs]]:
        """Launches the steps and returns at once; what it returns waits for their end and gives those of the small outputs in
        `keep` (None: all) of each. `packed`: what `packer.steps` has made of them, earlier. It may be called again before that: the
        second launch begins where the first one ends. Any further launch of this kernel comes after the first one's end."""
        block = self._stage(packed or self.packer.steps(steps))
        rows, place = self._rows(len(steps)), self._place
        running = self._run(block)

        def finish() -> list[Outputs]:
            if self.graph is None:
                # whoever waits for one step wants to know of its end at once
                self._end(block, place, stop=False)
            with closing(running):
                for _ in running if self.graph else ():
                    pass
            small = (self.packer.small(step.symbols, rows[k : k + 1], keep) for k, step in enumerate(steps))
            return [{n: a[0] for n, a in one.items()} for one in small]

        return finish

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
    ) -> Loop:
        """Steps of the same symbols in one launch, as `CpuKernel.run_loop`. `keep` names small outputs (None: all of them).

        A stop rule counts on the host: states may have moved on by a step or two when it ends the launch.
        `on_progress(done, outputs)` ends it likewise, by returning True.
        """
        parts: list[Outputs] = []
        with closing(self.loop(symbols, inputs, num_steps, stacked=stacked, keep=keep, stop=stop, interval_s=interval_s)) as loop:
            for part in loop:
                parts.append(part)
                if on_progress and on_progress(loop.count, {n: np.concatenate([p[n] for p in parts]) for n in part}):
                    loop.end()
        return Loop(loop.count, {n: np.concatenate([p[n] for p in parts]) for n in parts[0]})

    def loop(
        self,
        symbols: Mapping[str, int],
        inputs: Mapping[str, Any],
        num_steps: int,
        *,
        stacked: Collection[str] = (),
        keep: Collection[str] | None = None,
        stop: Stop | None = None,
        interval_s: float = 0.0,
        packed: Packed | None = None,
    ) -> RunningLoop:
        """Launches the same, and gives the outputs while it runs: those of the steps since, every `interval_s` at most. `packed`:
        what `packer.loop` has made of the inputs, earlier."""
        if num_steps < 1:
            raise ProgramError(f"a loop has at least one step, got num_steps={num_steps}")
        small = [t.name for t in self.packer.outputs if t.name in self.source.layout.output_offsets]
        if unknown := set(keep or ()) - set(small):
            raise ProgramError(f"output '{min(unknown)}' can't be kept from every step; the small outputs are: {', '.join(small)}")
        block = self._stage(packed or self.packer.loop(symbols, inputs, num_steps, frozenset(stacked)))
        rows, place = self._rows(num_steps), self._place
        kept = small if keep is None else keep

        def take(first: int, last: int, name: str) -> Outputs:
            return self.packer.small(symbols, rows[first:last], [name] if name else kept)

        return RunningLoop(self._run(block), take, place.stop, stop, interval_s)

    def stop(self) -> None:
        """Ends the running launch after the step that it is in, or the next."""
        self._place.stop()

    @property
    def milliseconds(self) -> float:
        """How long the last launch took on the GPU."""
        return self.device.milliseconds(*self._place.events)

    def _large(self) -> list[str]:
        return [t.name for t in self.packer.outputs if t.name not in self.source.layout.output_offsets]

    def _rows(self, num_steps: int) -> Array:
        size = self.source.layout.output_bytes
        return self._place.outputs.take(num_steps * size).reshape(num_steps, size)

    def _stage(self, packed: Packed) -> LaunchBlock:
        """Copies a launch's inputs to the GPU and fills its parameter block."""
        if not self._ready:  # a look at hundreds of names, between two launches
            missing = {t.name for t in self.plan.tensors.values() if t.role == "weight"} - self.memory.bound
            if missing:
                raise ProgramError(f"weight '{min(missing)}' of plan '{self.plan.name}' was not given")
            self._ready = True
        d, layout, num_steps = self.device, self.source.layout, packed.num_steps
        d.enter()
        if self.trace_address:
            d.fill(self.trace_address, 0, self.workers * self.source.config.trace * 64)
        parts = (packed.symbols, packed.inputs, packed.tables)
        ends = np.cumsum([-(-part.nbytes // 256) * 256 for part in parts])
        mine = self._place = self._places[self._place is self._places[0]]
        inputs = mine.take(int(ends[-1]))
        places = [inputs, *(inputs + int(end) for end in ends[:-1])]
        together = np.empty(int(ends[-1]), np.uint8)
        for place, part in zip(places, parts):
            together[place - inputs : place - inputs + part.nbytes] = part.reshape(-1).view(np.uint8)
        d.upload(inputs, together)
        for name, array in self._states.items():
            self.memory.write(name, array)
        outputs = mine.outputs.take(num_steps * layout.output_bytes)
        mine.words[:2] = 0
        barrier = self.counters + self.counter_bytes
        d.fill(barrier + 128, 0, 384)
        base, run = mine.words.ctypes.data, self.steps_run + self._queued_steps
        return LaunchBlock(
            args=self.arguments, symbols=places[0], inputs=places[1], tables=places[2], outputs=outputs.ctypes.data,
            counters=self.counters, barrier=barrier, stop=barrier + 128, status=barrier + 256, host_stop=base,
            host_progress=base + 4, trace=self.trace_address, input_stride=layout.input_bytes,
            table_stride=layout.table_bytes if len(packed.tables) > 1 else 0, output_stride=layout.output_bytes,
            spin_limit=self.spin_limit_ns, barrier_base=(run * self.workers) & 0xFFFFFFFF,
            first_step=run & 0xFFFFFFFF, num_segments=len(self.source.segments), num_steps=num_steps,
            first_segment=0, last_segment=len(self.source.segments),
        )  # fmt: skip

    def _run(self, block: LaunchBlock) -> Generator[int, None, None]:
        """Launches at once, and gives the number of steps done whenever it has grown. Whatever is raised or closes it
        meanwhile, Ctrl-C included, ends the launch first."""
        running = self._running(block)
        next(running)
        return running

    def _running(self, block: LaunchBlock) -> Generator[int, None, None]:
        d, place, seen = self.device, self._place, 0
        words = place.words
        d.record(place.events[0])
        if self.graph:
            self.graph.begin(block, block.num_steps)
        else:
            d.launch(self.function, self.workers, THREADS, self.source.config.shared_bytes, block, cooperative=True)
            d.record(place.events[1])
        self._queued_steps += block.num_steps
        try:
            yield 0
            while not self._ended(place):
                if int(words[1]) > seen:
                    seen = int(words[1])
                    yield seen
                else:
                    time.sleep(_POLL_S)
        except BaseException:
            with suppress(EventideError):
                self._end(block, place)
            raise
        self._end(block, place)
        if int(words[1]) > seen:
            yield int(words[1])

    def _ended(self, place: _Place) -> bool:
        """Whether the launch has; a graph's next steps are queued here."""
        if self.graph and self.graph.left:
            if self.graph.feed(int(place.words[1]), bool(place.words[0])):
                self.device.record(place.events[1])
            return False
        return self.device.done()

    def _end(self, block: LaunchBlock, place: _Place, *, stop: bool = True) -> None:
        """Waits for a launch's end, which comes early if `stop`, and takes account of it, once."""
        if block.num_steps == 0:  # it has been
            return
        if stop:
            place.stop()
        if self.graph and self.graph.left:
            self._ended(place)
        if self.graph:
            self.device.synchronize()
        else:
            self.device.wait(place.events[1])
        num_steps, block.num_steps = block.num_steps, 0
        self._queued_steps = max(0, self._queued_steps - num_steps)
        if self.graph or int(place.words[1]) < num_steps:
            # it was stopped, or given up, after which kernels of operators go on; the first to be given up says why
            self._check_status()
        self.steps_run += int(place.words[1])
        for name, array in self._states.items():
            self.memory.read(name, array)

    def _check_status(self) -> None:
        status = np.zeros(8, np.uint32)
        self.device.download(self.counters + self.counter_bytes + 256, status)
        if not status[0]:
            return
        self.clear()
        assert self.plan.schedule is not None
        _, worker, segment, cell, have, need, step, kind = (int(v) for v in status)
        where = f" in grid '{self.plan.schedule.segments[segment].grid}'," if kind in (1, 5) else ""
        what = self._cell_name(cell) if kind == 1 else STUCK.get(kind, "something")
        raise StuckError(
            f"the kernel stopped making progress: worker {worker}, step {step},{where} waited for {what}, which had {have} of "
            f"{need} notifications after {self.spin_limit_ns / 1e9:.1f} s"
        )

    def _cell_name(self, cell: int) -> str:
        bases = self.source.layout.event_base
        name = max((n for n, b in bases.items() if b <= cell), key=lambda n: bases[n])
        return f"event '{name}', cell {cell - bases[name]}"

    def _prepare(self, steps: Sequence[StepLike]) -> tuple[LaunchBlock, Array, list[int]]:
        """A launch made ready but not made: (parameters, output rows, nothing to free). For experiments."""
        return self._stage(self.packer.steps(steps)), self._rows(len(steps)), []


class _States(Mapping[str, Array]):
    """The states by name. A state that is asked for becomes an array of the host's, as by `bind_state`."""

    def __init__(self, kernel: CudaKernel) -> None:
        self._kernel = kernel
        self._names = [t.name for t in kernel.plan.tensors.values() if t.role == "state"]

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._kernel._states:
            self._kernel.bind_state(name, self._kernel.read_state(name))
        return self._kernel._states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
