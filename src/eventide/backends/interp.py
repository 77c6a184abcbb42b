"""The interpreter: a plan's meaning in running form, under any interleaving of its workers.

Workers take turns as a seeded policy decides. A task takes two turns: it *starts* when all its events are triggered, and
it *ends*, publishing its writes and notifying, some turns later; between the two any other worker may run. Whether a task
reads its operands when it starts or when it ends is drawn too, so that a write that comes too early is seen as surely as
one that comes too late. Scratch memory is one arena, laid out as the plan says and filled with NaN before every step.

    kernel = Interpreter(plan, weights={"w": ...})
    out = kernel.run({"num_tokens": 3}, {"x": x}, policy=Random(seed=7))
    out["y"]

Tiles are computed by the operators' NumPy references, or by any function given as `tile_fn` (the CPU backend offers its
own tile functions, so the two can be compared bit by bit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..dtypes import itemsize, to_numpy
from ..errors import PlanError, ProgramError
from ..ir.instance import Coords, StepView, indices
from ..ir.nodes import Access, Plan, Schedule, Segment, TaskGrid
from ..ir.printer import print_edge
from ..ir.tables import check, check_symbols, tables_to_enter
from ..ops.registry import get_op
from .policies import Policy, Random

TileFn = Callable[[TaskGrid, "Tile"], None]


class Tile:
    """What a tile function sees: its operands' regions as arrays, attributes, coordinates and symbols."""

    def __init__(self, grid: TaskGrid, coords: Coords, symbols: Mapping[str, int], arrays: dict[str, np.ndarray]) -> None:
        self.grid, self.attrs = grid, grid.attrs
        self.coord = dict(zip(grid.axis_names, coords))
        self.symbols = symbols
        self.arrays = arrays

    def has(self, operand: str) -> bool:
        return operand in self.arrays

    def __getattr__(self, operand: str) -> np.ndarray:
        try:
            return self.__dict__["arrays"][operand]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"operator '{self.grid.op}' has no operand '{operand}' here") from None


def reference_tile(grid: TaskGrid, tile: Tile) -> None:
    get_op(grid.op).reference(tile)


@dataclass
class _Running:
    grid: TaskGrid
    segment: int
    coords: Coords
    inputs: dict[str, np.ndarray] | None  # operands copied at the start, None when they are read at the end


@dataclass
class _Worker:
    segment: int = 0
    queue: Iterator[Coords] | None = None
    next_task: Coords | None = None
    running: _Running | None = None
    # how far the waits of the next task are known to be triggered, and the cells of the one that isn't
    num_triggered: int = 0
    cells: list[int] | None = None


@dataclass
class StepStats:
    """What one step did: tasks per grid, notifications per event, turns taken."""

    tasks: dict[str, int] = field(default_factory=dict)
    notifications: dict[str, int] = field(default_factory=dict)
    turns: int = 0


class Interpreter:
    """Runs a plan. Weights and states are arrays by name, in logical shape; states are updated in place."""

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, np.ndarray] | None = None,
        states: Mapping[str, np.ndarray] | None = None,
        tile_fn: TileFn = reference_tile,
    ) -> None:
        self.plan, self.tile_fn = plan, tile_fn
        self.arrays: dict[str, np.ndarray] = {}
        for role, given in (("weight", weights or {}), ("state", states or {})):
            for t in plan.tensors.values():
                if t.role == role:
                    if t.name not in given:
                        raise ProgramError(f"{role} '{t.name}' of plan '{plan.name}' was not given")
                    self.arrays[t.name] = given[t.name]
        self.arena = np.zeros(plan.arena_bytes, np.uint8)
        self.stats = StepStats()

    def run(
        self, symbols: Mapping[str, int], inputs: Mapping[str, np.ndarray], policy: Policy | None = None
    ) -> dict[str, np.ndarray]:
        """Runs one step; returns the outputs by name. PlanError if no worker can go on or a count is not met."""
        _Step(self, symbols, inputs, policy or Random(0)).run()
        return {t.name: self.arrays[t.name].copy() for t in self.plan.tensors.values() if t.role == "output"}


class _Step:
    def __init__(
        self, kernel: Interpreter, symbols: Mapping[str, int], inputs: Mapping[str, np.ndarray], policy: Policy
    ) -> None:
        self.kernel, self.plan, self.policy = kernel, kernel.plan, policy
        check_symbols(self.plan, symbols)
        arrays = kernel.arrays
        self.view = StepView(self.plan, symbols, arrays)
        for t in self.plan.tensors.values():
            if t.role == "input":
                if t.name not in inputs:
                    raise ProgramError(f"input '{t.name}' of plan '{self.plan.name}' was not given")
                arrays[t.name] = np.asarray(inputs[t.name], to_numpy(t.dtype))
                if arrays[t.name].shape != self.view.shape(t.shape):
                    raise ProgramError(
                        f"input '{t.name}': expected shape {self.view.shape(t.shape)}, got {arrays[t.name].shape}"
                    )
        for t in self.plan.tensors.values():
            if t.role == "input":
                check(t, arrays[t.name], symbols, arrays)
        self._place()
        schedule = self.plan.schedule
        if schedule is None:
            raise PlanError(f"plan '{self.plan.name}' has no schedule")
        self.schedule: Schedule = schedule
        self.counts = {e.name: np.zeros(self._cells(e.name), np.int64) for e in self.plan.events.values()}
        self.needed: dict[tuple[str, int], int] = {}
        self.workers = [_Worker() for _ in range(schedule.num_workers)]
        self.grids = {g.name: g for g in self.plan.grids}
        self.done = [0] * len(schedule.segments)
        self.task_lists: dict[int, list[Coords]] = {}
        self.stats = kernel.stats = StepStats()

    def _place(self) -> None:
        """Scratch tensors become views of the arena, full of NaN; outputs get fresh poisoned arrays."""
        arena = self.kernel.arena
        arena[...] = 0xFF
        for t in self.plan.tensors.values():
            if t.role not in ("scratch", "output"):
                continue
            shape = self.view.shape(t.shape)
            nbytes = int(np.prod(shape)) * itemsize(t.dtype)
            if t.role == "output" or t.name not in self.plan.offsets:
                raw = np.full(nbytes, 0xFF, np.uint8)
            else:
                raw = arena[self.plan.offsets[t.name] :][:nbytes]
            self.kernel.arrays[t.name] = raw.view(to_numpy(t.dtype)).reshape(shape)

    def _cells(self, event: str) -> int:
        ev = self.plan.events[event]
        return int(np.prod(self.view.shape(ev.shape))) if not self._late(event) else 0

    def _late(self, event: str) -> bool:
        """Whether an event's shape is known only once the step has computed a table; its counter then grows."""
        from ..ir.expr import tables

        return any(self.plan.tensors[n].role == "scratch" for e in self.plan.events[event].shape for n in tables(e))

    # -- one turn after another

    def run(self) -> None:
        rng = self.policy
        while True:
            movable = [w for w in range(len(self.workers)) if self._can_move(w)]
            if not movable:
                break
            w = rng.pick(movable, [self.workers[i].running is not None for i in movable])
            self._move(w)
            self.stats.turns += 1
        self._finish()

    def _can_move(self, w: int) -> bool:
        worker = self.workers[w]
        if worker.running is not None:
            return True
        grid = self._advance(worker, w)
        if grid is None:
            return False
        # counters only grow: what has been triggered is never looked at again
        while worker.num_triggered < len(grid.waits):
            edge = grid.waits[worker.num_triggered]
            if worker.cells is None:
                worker.cells = self.view.cells(edge, grid, worker.next_task or ())
            if not self._reached(edge.event, worker.cells):
                return False
            worker.num_triggered, worker.cells = worker.num_triggered + 1, None
        return True

    def _advance(self, worker: _Worker, w: int) -> TaskGrid | None:
        """Brings a worker to its next task, through empty shares; None when it is done or may not enter the grid."""
        segments = self.schedule.segments
        while worker.segment < len(segments):
            segment = segments[worker.segment]
            grid = self.grids[segment.grid]
            if worker.queue is None:
                if segment.barrier and any(n < len(self._tasks(i)) for i, n in enumerate(self.done[: worker.segment])):
                    return None
                if not all(self._reached(e.event, self.view.cells(e, grid, ())) for e in grid.enter):
                    return None
                if worker.segment not in self.task_lists:
                    self._check_computed(grid)
                worker.queue = self._share(worker.segment, segment, w)
                self._take(worker)
            if worker.next_task is not None:
                return grid
            worker.segment += 1
            worker.queue = None
        return None

    def _take(self, worker: _Worker) -> None:
        assert worker.queue is not None
        worker.next_task, worker.num_triggered, worker.cells = next(worker.queue, None), 0, None

    def _check_computed(self, grid: TaskGrid) -> None:
        """Tables that the step itself computed keep their promises, now that a grid is entered whose maps read them."""
        for name in sorted(tables_to_enter(grid, self.plan.events)):
            if self.plan.tensors[name].role not in ("input", "weight"):
                check(self.plan.tensors[name], self.kernel.arrays[name], self.view.symbols, self.kernel.arrays)

    def _tasks(self, segment: int) -> list[Coords]:
        if segment not in self.task_lists:
            self.task_lists[segment] = self.view.tasks(self.grids[self.schedule.segments[segment].grid])
        return self.task_lists[segment]

    def _share(self, i: int, segment: Segment, w: int) -> Iterator[Coords]:
        tasks = self._tasks(i)
        mine = segment.tasks(w, self.schedule.num_workers, len(tasks), self.view.value(segment.rotate))
        return iter([tasks[t] for t in mine])

    def _reached(self, event: str, cells: list[int]) -> bool:
        counts = self.counts[event]
        for cell in cells:
            key = (event, cell)
            if key not in self.needed:
                self.needed[key] = self.view.needed(*key)
            if (counts[cell] if cell < len(counts) else 0) < self.needed[key]:
                return False
        return True

    def _move(self, w: int) -> None:
        worker = self.workers[w]
        if worker.running is None:
            grid = self.grids[self.schedule.segments[worker.segment].grid]
            assert worker.next_task is not None and worker.queue is not None
            early = self.policy.reads_early()
            inputs = self._read(grid, worker.next_task) if early else None
            worker.running = _Running(grid, worker.segment, worker.next_task, inputs)
            self._take(worker)
            return
        run = worker.running
        inputs = run.inputs if run.inputs is not None else self._read(run.grid, run.coords)
        self._compute(run.grid, run.coords, inputs)
        for edge in run.grid.notifies:
            for cell in self.view.cells(edge, run.grid, run.coords):
                if cell >= len(self.counts[edge.event]):
                    self.counts[edge.event] = np.pad(self.counts[edge.event], (0, cell + 1 - len(self.counts[edge.event])))
                self.counts[edge.event][cell] += 1
        self.done[run.segment] += 1
        self.stats.tasks[run.grid.name] = self.stats.tasks.get(run.grid.name, 0) + 1
        worker.running = None

    # -- tasks

    def _index(self, access: Access, env: Mapping[str, Any]) -> Any:
        idx = indices(access.region, env, self.kernel.arrays)
        shape = self.kernel.arrays[access.tensor].shape
        for d, (i, n) in enumerate(zip(idx, shape)):
            lo, hi = (i.start, i.stop) if isinstance(i, slice) else (int(i.min(initial=0)), int(i.max(initial=-1)) + 1)
            if lo < 0 or hi > n:
                raise PlanError(
                    f"operand '{access.operand}' reaches [{lo}, {hi}) of dimension {d} of '{access.tensor}', which has {n}"
                )
        if all(isinstance(i, slice) for i in idx):
            return tuple(idx)
        return np.ix_(*(np.arange(i.start, i.stop) if isinstance(i, slice) else i for i in idx))

    def _read(self, grid: TaskGrid, task: Coords) -> dict[str, np.ndarray]:
        env = self.view.env(grid, task)
        out = {}
        for a in grid.accesses:
            if a.reads:
                part = self.kernel.arrays[a.tensor][self._index(a, env)]
                fixed = self.plan.tensors[a.tensor].role in ("weight", "input")
                out[a.operand] = part if fixed else part.copy()
        return out

    def _compute(self, grid: TaskGrid, task: Coords, inputs: dict[str, np.ndarray]) -> None:
        env = self.view.env(grid, task)
        arrays = dict(inputs)
        for a in grid.accesses:
            if a.mode == "write":
                target = self.kernel.arrays[a.tensor]
                arrays[a.operand] = np.full_like(target[self._index(a, env)], 0)
                arrays[a.operand].view(np.uint8)[...] = 0xFF
        self.kernel.tile_fn(grid, Tile(grid, task, self.view.symbols, arrays))
        for a in grid.accesses:
            if a.writes:
                self.kernel.arrays[a.tensor][self._index(a, env)] = arrays[a.operand]

    # -- the end of the step

    def _finish(self) -> None:
        for w, worker in enumerate(self.workers):
            if worker.running is not None or self._stuck(worker):
                raise PlanError(self._why_stuck(w, worker))
        for name, counts in self.counts.items():
            self.stats.notifications[name] = int(counts.sum())
            for cell, n in enumerate(counts):
                need = self.view.needed(name, cell)
                if n != need:
                    raise PlanError(
                        f"event '{name}', cell {cell}: {n} notifications came where {need} are needed; its count or a map "
                        "is wrong"
                    )

    def _stuck(self, worker: _Worker) -> bool:
        return worker.segment < len(self.schedule.segments)

    def _why_stuck(self, w: int, worker: _Worker) -> str:
        segment = self.schedule.segments[worker.segment]
        grid = self.grids[segment.grid]
        head = f"worker {w} is stuck before task {worker.next_task} of grid '{grid.name}'"
        for edge in (*grid.enter, *(grid.waits if worker.next_task is not None else ())):
            task = worker.next_task or ()
            for cell in self.view.cells(edge, grid, task):
                counts = self.counts[edge.event]
                have = int(counts[cell]) if cell < len(counts) else 0
                need = self.view.needed(edge.event, cell)
                if have < need:
                    return f"{head}: it waits for {print_edge(edge)}, cell {cell}, which has {have} of {need} notifications"
        return head
