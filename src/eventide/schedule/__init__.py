"""Schedules: which worker runs which task, in which order.

`static` fixes each worker's order ahead, as symbolic shares of the task grids in program order; `per_op` runs the same
shares with a barrier between operators, as one launch an operator would.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import ProgramError
from ..ir.expr import Expr, Sum, tables, variables
from ..ir.nodes import Plan, Schedule, Segment

KINDS = ("static", "per_op")


def schedule(plan: Plan, kind: str, num_workers: int) -> Plan:
    """Adds a schedule. Shares rotate from grid to grid so that every worker gets its part of the remainders."""
    if kind not in KINDS:
        raise ProgramError(f"unknown schedule '{kind}'; known are: {', '.join(KINDS)}")
    computed = {a.tensor for g in plan.grids for a in g.accesses if a.writes}
    segments = []
    total: Expr = Sum(0)
    for g in plan.grids:
        segments.append(Segment(g.name, rotate=total % num_workers, barrier=kind == "per_op"))
        # a rotation must be known before the step runs
        if not variables(g.num_tasks) & set(g.axis_names) and not tables(g.num_tasks) & computed:
            total = total + g.num_tasks
    return replace(plan, schedule=Schedule(kind, num_workers, tuple(segments)))  # type: ignore[arg-type]
