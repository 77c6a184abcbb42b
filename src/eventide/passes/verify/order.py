"""No deadlock: every task can start, whatever the others do, with each worker's order added to the events'.

Where every event is notified only by grids whose segments come before those of the grids that wait for it, the order of
the segments is an order in which everything can run: no cycle can exist, at any step. Otherwise the step is played through
with counters, workers taking their tasks in order; which worker moves first makes no difference, as counters only grow.
"""

from __future__ import annotations

from ...errors import PlanError
from ...ir.instance import StepView
from ...ir.nodes import Plan, Schedule
from ...ir.printer import print_edge


def check_segments(plan: Plan) -> None:
    """Every grid is scheduled once."""
    if plan.schedule is None:
        return
    names = [s.grid for s in plan.schedule.segments]
    grids = [g.name for g in plan.grids]
    for name in grids:
        if names.count(name) != 1:
            raise PlanError(f"task grid '{name}' stands {names.count(name)} times in the schedule; every grid is run exactly once")
    if unknown := set(names) - set(grids):
        raise PlanError(f"the schedule runs '{min(unknown)}', which is no task grid of plan '{plan.name}'")
    if plan.schedule.num_workers < 1:
        raise PlanError(f"plan '{plan.name}' is scheduled on {plan.schedule.num_workers} workers; it needs at least one")


def runs_forward(plan: Plan) -> bool:
    """Whether every event's notifiers stand before its waiters in the schedule (or in the plan, if it has none)."""
    order = [s.grid for s in plan.schedule.segments] if plan.schedule else [g.name for g in plan.grids]
    position = {name: i for i, name in enumerate(order)}
    latest: dict[str, int] = {}
    for g in plan.grids:
        for e in g.notifies:
            latest[e.event] = max(latest.get(e.event, -1), position[g.name])
    return all(latest.get(e.event, -1) < position[g.name] for g in plan.grids for e in (*g.waits, *g.enter))


def play(view: StepView) -> None:
    """Runs one step's counters; PlanError naming a task that can never start."""
    plan = view.plan
    schedule = plan.schedule or _free(plan)
    grids = {g.name: g for g in plan.grids}
    tasks = [view.tasks(grids[s.grid]) for s in schedule.segments]
    shares = [
        [
            (i, tasks[i][t])
            for i, s in enumerate(schedule.segments)
            for t in s.tasks(w, schedule.num_workers, len(tasks[i]), view.value(s.rotate))
        ]
        for w in range(schedule.num_workers)
    ]
    counts: dict[tuple[str, int], int] = {}
    done = [0] * len(tasks)
    at = [0] * len(shares)
    moved = True
    while moved:
        moved = False
        for w, share in enumerate(shares):
            while at[w] < len(share) and not _blocked(view, schedule, counts, done, tasks, *share[at[w]]):
                i, task = share[at[w]]
                grid = grids[schedule.segments[i].grid]
                for e in grid.notifies:
                    for cell in view.cells(e, grid, task):
                        counts[e.event, cell] = counts.get((e.event, cell), 0) + 1
                done[i] += 1
                at[w] += 1
                moved = True
    for w, share in enumerate(shares):
        if at[w] < len(share):
            i, task = share[at[w]]
            grid = grids[schedule.segments[i].grid]
            coords = ", ".join(f"{a}={c}" for a, c in zip(grid.axis_names, task))
            why = _blocked(view, schedule, counts, done, tasks, i, task)
            steps = ", ".join(f"{k} = {v}" for k, v in view.symbols.items())
            raise PlanError(
                f"deadlock at {steps or 'any step'}: task {grid.name}[{coords}], next of worker {w}, never starts: {why}"
            )


def _free(plan: Plan) -> Schedule:
    raise PlanError(f"plan '{plan.name}' has no schedule to play")


def _blocked(
    view: StepView, schedule: Schedule, counts: dict[tuple[str, int], int], done: list[int],
    tasks: list[list[tuple[int, ...]]], i: int, task: tuple[int, ...],
) -> str:  # fmt: skip
    """Why a task cannot start now; empty if it can."""
    grid = view.plan.grid(schedule.segments[i].grid)
    if schedule.segments[i].barrier and any(done[j] < len(tasks[j]) for j in range(i)):
        return "an earlier segment before its barrier never ends"
    for e in (*grid.enter, *grid.waits):
        for cell in view.cells(e, grid, task):
            have, need = counts.get((e.event, cell), 0), view.needed(e.event, cell)
            if have < need:
                return f"it waits for {print_edge(e)}, cell {cell}, which gets {have} of {need} notifications"
    return ""
