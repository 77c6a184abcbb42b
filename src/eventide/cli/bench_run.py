"""`eventide bench run`: measure the solutions of a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .bench_common import add_json, command, load, note, print_json, table

if TYPE_CHECKING:
    from ..bench import Trace
    from ..bench.runner import RunReport

_NUMBERS = (
    ("iterations", int, "timed calls a trial"),
    ("trials", int, "trials, each in a process of its own on the CPU"),
    ("warmup-runs", int, "untimed calls before each trial"),
    ("rtol", float, "relative limit of an element's error"),
    ("atol", float, "absolute limit of an element's error"),
    ("required-matched-ratio", float, "share of elements that must be within the limits"),
    ("timeout-s", float, "seconds that one solution may take on one workload"),
    ("seed", int, "seed of the random inputs (default: from the workload's uuid)"),
)


def add_commands(commands: Any) -> None:
    """Add the subcommand."""
    parser = command(
        commands,
        "run",
        run_run,
        "measure the solutions of a data set on its workloads",
        "Each solution runs in a confined process of its own: no network, a read-only view of the files, limits on time\n"
        "and memory; reference and expected outputs never enter it. Inputs are fresh in every timed call and outputs are\n"
        "checked after timing too. Traces are appended to the data set as they are made; what it holds already, for the\n"
        "same sources on the same hardware, is not measured again.\n\n"
        "  eventide bench run my_data --definition 'rmsnorm_*' --author ada --iterations 100\n\n"
        "Patterns are shell patterns. Settings layer as defaults < operator type < definition < command line; the first\n"
        "three come from a JSON file given with --settings.",
    )
    parser.add_argument("data", metavar="DATA")
    for name in ("definition", "op-type", "solution", "author", "workload"):
        help_text = f"only this {name.replace('-', ' ')} (a pattern; may be repeated)"
        parser.add_argument(f"--{name}", action="append", default=[], metavar="PATTERN", help=help_text)
    parser.add_argument("--max-workloads", type=int, metavar="N", help="at most this many of each definition")
    parser.add_argument(
        "--device", action="append", metavar="DEVICE", help="cpu, cuda or cuda:0 (every GPU, or the CPU without one)"
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings as JSON")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, as JSON")
    for name, kind, text in _NUMBERS:
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    parser.add_argument("--again", action="store_true", help="measure also what the data set holds already")
    parser.add_argument(
        "--sandbox",
        choices=("namespaces", "landlock", "none"),
        help="how to confine solutions (the strongest that works)",
    )
    parser.add_argument(
        "--unsafe", action="store_true", help="run solutions with your own rights where nothing can confine them"
    )
    parser.add_argument("--no-progress", action="store_true", help="no bars on standard error")
    add_json(parser)


def run_run(args: argparse.Namespace) -> int:
    """`run`."""
    from ..bench.runner import Selection, SettingsLayers, run_benchmark

    values = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name, _, _ in _NUMBERS}
    settings = {name: value for name, value in values.items() if value is not None}
    settings |= dict(_assignment(text) for text in args.set)
    if args.max_workloads is not None and args.max_workloads < 1:
        raise UsageError(f"--max-workloads must be at least 1, got {args.max_workloads}")
    report = run_benchmark(
        load(args.data),
        devices=args.device,
        selection=Selection(
            definitions=args.definition,
            op_types=args.op_type,
            solutions=args.solution,
            authors=args.author,
            workloads=args.workload,
            max_workloads=args.max_workloads,
        ),
        layers=SettingsLayers.load(args.settings),
        command_line=settings,
        resume=not args.again,
        unsafe=args.unsafe,
        sandbox_method=args.sandbox,
        show_progress=not args.no_progress and not args.json and sys.stderr.isatty(),
    )
    if args.json:
        traces = [json.loads(t.model_dump_json()) for t in report.traces]
        print_json({"traces": traces, "skipped": report.skipped, "resumed": report.resumed})
    else:
        _show(report, args.data)
    return 0


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        parsed = json.loads(value)
    except ValueError:
        equals = ""
    if not equals:
        raise UsageError(f"--set takes name=value with a JSON value, such as cold_cache=false, got {text!r}")
    return name, parsed


def _show(report: RunReport, data: str) -> None:
    if report.traces:
        header = ["definition", "solution", "workload", "status", "ms", "speedup", "interval"]
        print(table(header, [_row(t) for t in report.traces]))
    for what, why in report.skipped:
        note(f"skipped {what}: {why}")
    if report.resumed:
        note(f"{report.resumed} results were in {data} already (--again measures them anew)")
    if not report.traces and not report.resumed:
        note(f"nothing was measured: no solution and workload of {data} fit the selection")


def _row(trace: Trace) -> list[str]:
    result = trace.evaluation
    axes = " ".join(f"{k}={v}" for k, v in trace.axes.items())
    row = [trace.definition, trace.solution or "", axes, str(result.status) if result else ""]
    if result is None or result.performance is None:
        return [*row, "-", "-", (result.eventide.reason or "") if result and result.eventide else ""]
    timing = result.eventide.timing if result.eventide else None
    ends = timing.speedup_factor if timing else None
    interval = f"{ends[0]:.2f}..{ends[1]:.2f}" if ends else "no interval"
    return [*row, f"{result.performance.latency_ms:.4g}", f"{result.performance.speedup_factor:.2f}", interval]
