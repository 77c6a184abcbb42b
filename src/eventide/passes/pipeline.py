"""Every pass in its order. `compile_plan` runs them, times them, and hands each result to `observe`.

    fuse      program → program      norms, activations and residuals into linears
    tile      program → plan         task grids with regions
    events    plan → plan            event tensors, waits and notifies from the regions
    coarsen   plan → plan            fewer events and waits
    memory    plan → plan            the arena
    schedule  plan → plan            which worker runs what
    verify    plan → plan            rejects a plan that could deadlock or race
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..ir.nodes import Plan
from ..ops.program import Program
from ..schedule import schedule as _schedule
from ..target import Target
from .coarsen import coarsen
from .events import infer_events
from .fuse import fuse
from .memory import place
from .tile import tile

PASSES = ("fuse", "tile", "events", "coarsen", "memory", "schedule", "verify")
Observer = Callable[["PassResult"], None]


@dataclass(frozen=True)
class PassResult:
    """What one pass returned (a Program after fuse, a Plan after the others) and how long it took."""

    name: str
    result: Any
    milliseconds: float


def compile_plan(
    program: Program, target: Target, schedule: str = "static", *, verify: bool = True, observe: Observer | None = None
) -> Plan:
    """Runs all passes; PlanError if the verifier finds a fault."""
    state: Any = program
    steps: dict[str, Callable[[Any], Any]] = {
        "fuse": lambda p: fuse(p, norms=not target.wide),
        "tile": lambda p: tile(p, target),
        "events": infer_events,
        "coarsen": coarsen,
        "memory": place,
        "schedule": lambda p: _schedule(p, schedule, target.num_workers),
        "verify": _verify,
    }
    for name in PASSES:
        if name == "verify" and not verify:
            continue
        start = time.perf_counter()
        state = steps[name](state)
        if observe:
            observe(PassResult(name, state, (time.perf_counter() - start) * 1e3))
    assert isinstance(state, Plan)
    return state


def _verify(plan: Plan) -> Plan:
    from .verify import verify_plan  # not needed by those who switch it off

    return verify_plan(plan)


def check_pass_name(name: str) -> str:
    if name not in PASSES:
        raise UsageError(f"unknown pass '{name}'; the passes are: {', '.join(PASSES)}")
    return name
