"""`eventide explain`: where a step's time and bytes go, against the machine's measured bandwidth."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_model_options, console, load_llm, print_json

_DESCRIPTION = """\
Measure decode steps and say, operator by operator, how many bytes a step moves, how long the workers took, and how
close that is to what this machine's memory can give (measured in the same minute).

  eventide explain eventide-tiny
  eventide explain ./Qwen3-0.6B --batch 8 --context 512
  eventide explain ./Qwen3-0.6B --device cuda --context 512     waits for memory, for events and computing, by operator
  eventide explain eventide-tiny --context 200 --prefill        a step that reads a prompt of 200 tokens
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("explain", help="say where a step's time and bytes go", description=_DESCRIPTION)
    add_model_options(parser)
    add_step_options(parser)


def add_step_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the step")
    group.add_argument("--batch", type=int, default=1, metavar="N", help="sequences in the step (default 1)")
    group.add_argument("--context", type=int, default=64, metavar="N", help="tokens in each sequence (default 64)")
    group.add_argument("--prefill", action="store_true", help="a step that reads the context, not one that decodes")
    group.add_argument("--steps", type=int, default=None, metavar="N", help="steps to measure (9 to explain, 3 to profile)")


def main(args: argparse.Namespace) -> int:
    from ..engine.measure import measured_steps, read_bandwidth
    from ..profile.explain import explain

    llm = load_llm(args)
    plan, steps, timelines = measured_steps(llm, args.batch, args.context, args.prefill, 9 if args.steps is None else args.steps)
    bandwidth = read_bandwidth(llm)
    report = explain(plan, steps, timelines, bandwidth=bandwidth)
    gpu = llm.device == "cuda"
    llm.close()
    if args.json:
        print_json(report.to_json())
        return 0
    from rich.table import Table

    table = Table("operator", box=None, header_style="bold")
    for name in _GPU_COLUMNS if gpu else _COLUMNS:
        table.add_column(name, justify="right")
    elapsed = report.elapsed_ms or 0.0
    for row in sorted(report.rows, key=lambda row: -(row.work_ms or 0) - (row.wait_ms or 0) * gpu):
        label = row.name if row.op in row.name else f"{row.name} ({row.op})"
        label += f" × {row.num_grids}" if row.num_grids > 1 else ""
        table.add_row(label, *(_gpu_cells(row) if gpu else _cells(row, report.total_bytes, elapsed)))
    if gpu:
        table.add_row(*_gpu_rest(report, elapsed))
    out = console()
    out.print(
        f"{args.model}: {'a prefill' if args.prefill else 'a decode'} step of {args.batch} × {args.context} tokens on "
        f"{report.num_workers} workers, memory read at {bandwidth / 1e9:.1f} GB/s"
    )
    out.print(table)
    out.print(
        f"the step: {elapsed:.3f} ms for {report.total_bytes / 1e6:.1f} MB, whose bound is {report.bound_ms:.3f} ms "
        f"({report.bound_ms / elapsed:.0%} of the bandwidth reached)"
    )
    return 0


_COLUMNS = ("tasks", "MB", "% of bytes", "work ms", "% of step", "bound ms", "efficiency", "wait ms")
_GPU_COLUMNS = ("tasks", "MB", "floor µs", "memory µs", "events µs", "computing µs", "in all µs", "above the floor µs")


def _gpu_cells(row: Any) -> list[str]:
    """Microseconds of a mean worker: they add up, over the rows, to the step."""
    work, wait, memory, floor = ((t or 0.0) * 1e3 for t in (row.work_ms, row.wait_ms, row.memory_ms, row.bound_ms))
    times = (floor, memory, wait, work - memory, work + wait, work + wait - floor)
    return [f"{row.num_tasks:,}", f"{row.total_bytes / 1e6:.2f}", *(f"{t:.1f}" for t in times)]


def _gpu_rest(report: Any, elapsed_ms: float) -> list[str]:
    """The line below: what lies between tasks, the barrier between steps included."""
    rest = (elapsed_ms - sum((row.work_ms or 0.0) + (row.wait_ms or 0.0) for row in report.rows)) * 1e3
    return ["between tasks", *[""] * 6, f"{rest:.1f}", f"{rest:.1f}"]


def _cells(row: Any, total_bytes: int, elapsed_ms: float) -> list[str]:
    work, wait = row.work_ms or 0.0, row.wait_ms or 0.0
    return [
        f"{row.num_tasks:,}",
        f"{row.total_bytes / 1e6:.2f}",
        f"{row.total_bytes / max(total_bytes, 1):.1%}",
        f"{work:.3f}",
        f"{work / max(elapsed_ms, 1e-9):.1%}",
        f"{row.bound_ms:.3f}",
        "" if row.efficiency is None else f"{row.efficiency:.0%}",
        f"{wait:.3f}",
    ]
