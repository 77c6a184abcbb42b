"""The null backend: the whole compiler and every check of a launch, with no hardware and no arithmetic.

    kernel = NullKernel(plan)
    kernel.run([Step({"num_tokens": 3}, {"x": x})])
    print(kernel.launches[-1])         1 step on 2 workers: 64 tasks (40 + 24), 12 events with 18 cells, ...

It answers what a launch would be (tasks of each grid and worker, cells, bytes) and finds wrong shapes, dtypes, symbols and
tables as the real backends do. Outputs are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..dtypes import itemsize, to_numpy
from ..errors import PlanError, ProgramError
from ..ir.instance import StepView
from ..ir.nodes import Plan
from ..ir.tables import check, check_symbols
from ..ops.registry import get_op
from .base import Array, OnStep, Outputs, StepLike, as_array, shape_of, tensor_of

__all__ = ["Launch", "NullKernel"]


@dataclass(frozen=True)
class Launch:
    """What one step of a launch would do. `tasks`: of each grid, by worker; `cells`: event cells; bytes: of each role."""

    symbols: Mapping[str, int]
    tasks: Mapping[str, tuple[int, ...]]
    cells: int
    role_bytes: Mapping[str, int]

    def __str__(self) -> str:
        workers = [sum(n) for n in zip(*self.tasks.values())]
        sizes = ", ".join(f"{role} {n:,}" for role, n in self.role_bytes.items())
        shares = " + ".join(map(str, workers))
        tasks = f"{sum(workers)} tasks of {len(self.tasks)} grids on {len(workers)} workers ({shares})"
        return f"{tasks}, {self.cells} event cells; bytes: {sizes}"


class NullKernel:
    """Checks what a kernel would be given. Tables that the step itself computes are unknown, so plans whose grids depend
    on them cannot be counted and are refused with PlanError."""

    def __init__(self, plan: Plan) -> None:
        if plan.schedule is None:
            raise PlanError(f"plan '{plan.name}' has no schedule; compile it with one")
        for g in plan.grids:
            get_op(g.op)
        self.plan, self.schedule = plan, plan.schedule
        self.launches: list[Launch] = []
        self._missing = {t.name: t.role for t in plan.tensors.values() if t.role == "weight"}

    def bind_weights(self, name: str, array: Array) -> None:
        t = tensor_of(self.plan, name, "weight")
        as_array(t, array, shape_of(t, {}))
        self._missing.pop(name, None)

    def bind_state(self, name: str, array: Array) -> None:
        t = tensor_of(self.plan, name, "state")
        as_array(t, array, shape_of(t, {}))

    def run(self, steps: Sequence[StepLike], on_step: OnStep | None = None) -> list[Outputs]:
        """Checks every step and records the launch; outputs are zeros of the right shapes."""
        for name in self._missing:
            raise ProgramError(f"weight '{name}' of plan '{self.plan.name}' was not given")
        out: list[Outputs] = []
        for k, step in enumerate(steps):
            self.launches.append(self._step(step))
            shapes = {t.name: (shape_of(t, step.symbols), t.dtype) for t in self.plan.tensors.values() if t.role == "output"}
            out.append({name: np.zeros(shape, to_numpy(dtype)) for name, (shape, dtype) in shapes.items()})
            if on_step is not None and on_step(k, out[-1]):
                break
        return out

    def _step(self, step: StepLike) -> Launch:
        check_symbols(self.plan, step.symbols)
        tables = {}
        for t in self.plan.tensors.values():
            if t.role == "input":
                if t.name not in step.inputs:
                    raise ProgramError(f"input '{t.name}' of plan '{self.plan.name}' was not given")
                tables[t.name] = as_array(t, step.inputs[t.name], shape_of(t, step.symbols))
        for name, table in tables.items():
            check(self.plan.tensors[name], table, step.symbols, tables)
        view = StepView(self.plan, step.symbols, tables)
        workers = self.schedule.num_workers
        tasks = {}
        try:
            for s in self.schedule.segments:
                n = len(view.coords(self.plan.grid(s.grid)))
                tasks[s.grid] = tuple(len(s.tasks(w, workers, n, view.value(s.rotate))) for w in range(workers))
            cells = sum(int(np.prod(view.event_shape(e))) for e in self.plan.events)
        except ProgramError as e:
            raise PlanError(f"the null backend cannot count the tasks of a plan whose grids depend on data: {e}") from None
        role_bytes: dict[str, int] = {}
        for t in self.plan.tensors.values():
            nbytes = int(np.prod(shape_of(t, step.symbols))) * itemsize(t.dtype)
            role_bytes[t.role] = role_bytes.get(t.role, 0) + nbytes
        role_bytes["scratch"] = self.plan.arena_bytes
        return Launch(dict(step.symbols), tasks, cells, role_bytes)
