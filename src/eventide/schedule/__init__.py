"""Schedules: which worker runs which task, in which order.

`static` fixes each worker's order ahead, as symbolic shares of the task grids in program order; `per_op` runs the same
shares with a barrier between operators, as one launch an operator would. (CPU workers take over what others have left of theirs,
see docs/cpu_workers.md.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..errors import ProgramError
from ..ir.expr import Expr, Sum, as_int, tables, variables
from ..ir.nodes import Plan, Schedule, Segment, TaskGrid
from ..ops.registry import get_op

KINDS = ("static", "per_op")


def _in_slabs(grid: TaskGrid, num_workers: int) -> bool:
    """Whether streamed operands come in slabs to which whole numbers of workers can be given: a worker that takes the end of
    one and the beginning of the next gathers the inputs of both."""
    if len(grid.axes) < 3 or not any(get_op(grid.op).operand(a.operand).streamed for a in grid.accesses):
        return False
    slabs, tiles = (as_int(extent) for _, extent in grid.axes[-2:])
    return tiles is not None and slabs is not None and slabs > 1 and num_workers % slabs == 0


def _distribution(plan: Plan, grid: TaskGrid, num_workers: int) -> Literal["block", "even", "cyclic"]:
    uneven = get_op(grid.op).uneven
    if uneven is not None and (plan.target.startswith("cpu") or uneven(grid.attrs)):
        return "cyclic"
    return "even" if _in_slabs(grid, num_workers) else "block"


def schedule(plan: Plan, kind: str, num_workers: int) -> Plan:
    """Adds a schedule. Shares rotate from grid to grid so that every worker gets its part of the remainders."""
    if kind not in KINDS:
        raise ProgramError(f"unknown schedule '{kind}'; known are: {', '.join(KINDS)}")
    computed = {a.tensor for g in plan.grids for a in g.accesses if a.writes}
    segments = []
    total: Expr = Sum(0)
    for g in plan.grids:
        segments.append(Segment(g.name, _distribution(plan, g, num_workers), rotate=total % num_workers, barrier=kind == "per_op"))
        # a rotation must be known before the step runs
        if not variables(g.num_tasks) & set(g.axis_names) and not tables(g.num_tasks) & computed:
            total = total + g.num_tasks
    return replace(plan, schedule=Schedule(kind, num_workers, tuple(segments)))  # type: ignore[arg-type]
