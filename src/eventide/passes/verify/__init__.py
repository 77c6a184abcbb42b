"""verify: proves that a plan can neither deadlock nor race, or says in words where it does.

    report = verify(plan)        PlanError on the first fault; print(report) tells what was looked at
    plan = verify_plan(plan)     the pass: the same, returning the plan

What is shown, over the declared ranges of the symbols:

- every grid is scheduled once, and every task can start (`order`);
- every needed count fits its field and is met exactly, in every cell; every edge names cells that exist (`counts`);
- every region stays inside its tensor, every tensor inside the arena (`boxes`);
- of two tasks that conflict, events alone put one before the other, as the program does (`pairs`);
- what a map reads from a table that the step computes is ready when its grid is entered.

How the ranges are covered is `points`' part, how a model's equal layers are looked at once `windows`'. Plans whose edges,
extents or counts look up run-time tables are checked on drawn tables that keep the declared invariants, so for them the
report says "tested"; tables in regions alone are handled by their invariants, for all contents, except where two regions
look up one table of distinct values in ways that only other tables keep apart: those pairs are looked at on drawn tables.

The steps themselves are ordered by the step barrier; so conflicts are looked for inside one step only.
"""

from __future__ import annotations

import time

from ...errors import PlanError, ProgramError
from ...ir.nodes import Plan
from .check import Verifier
from .report import VerifyReport

__all__ = ["VerifyReport", "verify", "verify_plan"]


def verify_plan(plan: Plan) -> Plan:
    verify(plan)
    return plan


def verify(plan: Plan, exhaustive: bool = False) -> VerifyReport:
    """Checks a plan; PlanError on a fault. `exhaustive` looks at every tile boundary of the whole ranges and at all
    grids together, using neither periods nor windows (slow for large plans)."""
    start = time.perf_counter()
    report = VerifyReport(plan.name, exhaustive)
    try:
        Verifier(plan, report, exhaustive).run()
    except PlanError:
        raise
    except ProgramError as e:  # an expression of the plan itself cannot be evaluated
        raise PlanError(f"plan '{plan.name}': {e}") from e
    report.milliseconds = (time.perf_counter() - start) * 1e3
    return report
