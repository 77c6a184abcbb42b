"""The intermediate representation: programs, and plans of task grids and event tensors.

A *program* is a list of operator calls over named tensors whose sizes are integers or symbols (`eventide.ops.program`). Passes turn
it into a *plan* (`nodes`): task grids, event tensors, buffers and a schedule, as plain data. This page says what a plan
means; the interpreter (`eventide.backends.interp`) is the same in running form.

**Tasks.** A task grid is a box of tasks, one for each integer point of its axes. A task reads and writes exactly the
regions that its accesses name, and runs once a step, on one worker, from start to end.

**Events.** An event tensor's cells start every step at zero. A task that ends notifies the cells of its `notifies` edges,
each occurrence once; a cell is *triggered* when it has `needed` notifications. A task may start when every cell of its
`waits` edges is triggered. A notification makes all the writes of its task visible to whoever has seen the trigger
(release, acquire). A wait that names no cell, its range being empty, is no wait. **Nothing else orders two tasks of a
step**: not their order in the program, not the worker they share.

**What a plan must satisfy.** Of two tasks whose regions overlap in memory, one of them writing, one must happen before
the other, in the order of the program's calls. Every needed count is met in every step by exactly the notifications that
the plan sends. There is no cycle. The verifier (`passes.verify`) proves this before a plan runs.

**Steps.** A step is one pass over the plan with values for its symbols and input tensors. A launch runs many; every task
of one step happens before every task of the next. State tensors keep their contents from step to step, and the host may
write them between launches.

**Shapes and data.** Extents, regions, cells and counts are integer expressions (`expr`) over the symbols, the task's
coordinates and run-time integer tensors. Tables that the host gives are ready before the step begins. What a grid's
extents, maps or counts read from tables that the step itself computes is ready once the grid's `enter` edges have
triggered; nothing of the grid is evaluated before. Such a table keeps bytes of its own to the end of the step, as a worker
may come to a grid late. Tables declare invariants and plans relations between symbols (`requires`); both are checked when
a step runs, a computed table when the first grid that looks it up is entered.

**Schedules.** A schedule says which worker runs which task, in which order (`nodes.Schedule`). It restricts the order and
never relaxes it: a plan that is right under one schedule is right under every other that can finish.
"""

from __future__ import annotations

from .expr import Expr, Load, Var, ceildiv, load, maximum, minimum, parse
from .nodes import (
    Access,
    Edge,
    EventTensor,
    Invariant,
    Plan,
    Region,
    Schedule,
    Segment,
    Span,
    TaskGrid,
    Tensor,
    Via,
)  # fmt: skip

__all__ = [
    "Access", "Edge", "EventTensor", "Expr", "Invariant", "Load", "Plan", "Region",
    "Schedule", "Segment", "Span", "TaskGrid", "Tensor", "Var", "Via", "ceildiv", "load", "maximum",
    "minimum", "parse",
]  # fmt: skip
