"""`eventide compile`: what the compiler makes of a model's configuration; no weights are read."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .common import add_model_options, console, note, print_json

if TYPE_CHECKING:
    from ..passes.pipeline import PassResult
    from ..target import Target

_DESCRIPTION = """\
Compile a model's plan and say what came out: passes with their times, grids, tasks, events, memory.

  eventide compile eventide-tiny
  eventide compile eventide-tiny --print-after tile --layers 1       the program cut into task grids
  eventide compile eventide-tiny --print-after verify                the finished plan
  eventide compile Qwen/Qwen3-8B --target h200 --output plan.json    for a GPU's 132 workers, to a file
"""
_TARGETS = ("cpu", "h200")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("compile", help="show what the compiler makes of a model", description=_DESCRIPTION)
    add_model_options(parser, weights=False)
    parser.add_argument("--target", default="cpu", help=f"one of {', '.join(_TARGETS)}")
    parser.add_argument(
        "--print-after",
        action="append",
        default=[],
        metavar="PASS",
        help="print what a pass returned: fuse, tile, events, coarsen, memory, schedule or verify (may be repeated)",
    )
    parser.add_argument("--layers", type=int, metavar="N", help="compile only the first N layers (shorter to read)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the plan as JSON")


def main(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from ..engine.devices import check_schedule
    from ..engine.limits import choose_limits
    from ..models import hub, registry
    from ..passes.pipeline import PASSES, check_pass_name, compile_plan

    wanted = [check_pass_name(name) for name in args.print_after]
    schedule = check_schedule(args.schedule)
    target = _target(args)
    config = registry.load_config(hub.resolve(args.model, weights=False))
    if args.layers is not None:
        if not 1 <= args.layers <= config.num_layers:
            raise UsageError(f"--layers must be from 1 to {config.num_layers}, got {args.layers}")
        config = replace(config, num_layers=args.layers)
    dtype = config.dtype if args.dtype == "auto" else args.dtype
    limits = choose_limits(config, dtype, args.max_seq_len)
    passes: list[PassResult] = []
    start = time.perf_counter()
    program = registry.family_of(config).build_program(config, limits, dtype)
    plan = compile_plan(program, target, schedule, observe=passes.append)
    seconds = time.perf_counter() - start
    facts = {
        "model": args.model,
        "target": plan.target,
        "schedule": schedule,
        "seconds": seconds,
        "passes_ms": {done.name: done.milliseconds for done in passes},
        "num_grids": len(plan.grids),
        "num_events": len(plan.events),
        "arena_bytes": plan.arena_bytes,
        "tasks_of_a_decode_step": _decode_tasks(plan, limits),
    }
    if args.output:
        _write(args.output, plan)
    if args.json:
        printed = {done.name: str(done.result) for done in passes if done.name in wanted}
        print_json({**facts, **({"printed": printed} if wanted else {})})
    elif wanted:
        for name in (name for name in PASSES if name in wanted):
            print(f"# after {name}\n{next(done.result for done in passes if done.name == name)}")
        note(f"compiled in {seconds:.2f} s")
    else:
        _summary(facts)
    return 0


def _target(args: argparse.Namespace) -> Target:
    from .. import target
    from ..engine.devices import num_workers

    if args.target not in _TARGETS:
        raise UsageError(f"--target must be one of {', '.join(_TARGETS)}, got {args.target!r}")
    return target.cpu(num_workers(args.threads)) if args.target == "cpu" else target.h200()


def _decode_tasks(plan: Any, limits: Any) -> int:
    """Tasks of a step that advances one sequence by one token."""
    from ..engine.steps import Chunk, make_step
    from ..ir.instance import StepView

    step = make_step(limits, [Chunk(0, 0, 1)], 1)
    view = StepView(plan, step.symbols, step.inputs)
    return sum(view.value(grid.num_tasks) for grid in plan.grids)


def _write(path: str, plan: Any) -> None:
    from ..ir.serial import save

    try:
        save(plan, path)
    except OSError as error:
        raise UsageError(f"--output {path} can't be written: {error.strerror}") from None


def _summary(facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("pass", "ms", box=None, header_style="bold")
    for name, milliseconds in facts["passes_ms"].items():
        table.add_row(name, f"{milliseconds:,.1f}")
    out = console()
    out.print(f"{facts['model']} for {facts['target']}, schedule {facts['schedule']}: {facts['seconds']:.2f} s")
    out.print(table)
    out.print(
        f"{facts['num_grids']} task grids, {facts['num_events']} event tensors, an arena of "
        f"{facts['arena_bytes'] / 2**20:.1f} MiB; {facts['tasks_of_a_decode_step']:,} tasks to decode one token"
    )
