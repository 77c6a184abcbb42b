"""`eventide bench run`: its arguments and what they do. Imports nothing but the standard library until it runs.

add_arguments(parser)       declares them
run(args) -> int            measures, prints a summary on standard output, returns the exit code
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventide.errors import BenchError, UsageError

if TYPE_CHECKING:
    from eventide.bench.runner import RunReport

SUMMARY = "measure solutions against their references"
DETAILS = """\
Each solution runs in a process of its own: no network, a read-only file system, limits on time and memory. Its inputs
are fresh for every call, its outputs are checked after the clock stopped, and the clock itself is held against the
runner's. Traces are appended to the data set; what it holds already for this hardware is not measured again.

  eventide bench run my_data                                     every solution, on the GPUs or else the CPU
  eventide bench run my_data --device cpu --solution 'norm_*'
  eventide bench run my_data --device cuda:0 --device cuda:1 --set iterations=100 --set rtol=0.001
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `run`."""
    add = parser.add_argument
    add("data", metavar="DATA", help="the data set's folder")
    add("--device", action="append", metavar="NAME", help="cpu, cuda or cuda:N; may be repeated (every GPU, or cpu)")
    for name, what in (("definition", "definitions"), ("op-type", "operator types"), ("solution", "solutions")):
        add(f"--{name}", action="append", metavar="PATTERN", help=f"only {what} that match (may be repeated)")
    add("--author", action="append", metavar="PATTERN", help="only these authors' solutions (may be repeated)")
    add("--workload", action="append", metavar="PATTERN", help="only workloads whose uuid matches (may be repeated)")
    add("--max-workloads", type=int, metavar="N", help="at most N workloads of each definition")
    add("--settings", metavar="FILE", help="a JSON file with defaults, op_types and definitions")
    add("--set", action="append", metavar="NAME=VALUE", default=[], help="a setting; goes before the file's")
    add("--again", action="store_true", help="measure again what the data set holds already")
    add(
        "--sandbox",
        choices=("namespaces", "landlock", "none"),
        help="how to confine solutions (the strongest that works)",
    )
    add("--unsafe", action="store_true", help="run solutions with your own rights where nothing can confine them")
    add("--cache", metavar="FOLDER", help="where built solutions are kept")
    add("--strict", action="store_true", help="exit code 7 when a solution did not pass or was skipped")
    add("--quiet", "-q", action="store_true", help="no progress on standard error")
    add("--json", action="store_true", help="print one JSON document instead of text")


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`name=value` pairs as JSON values; raises UsageError for anything else. Names are checked by Settings."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        try:
            values[name.strip().replace("-", "_")] = json.loads(text)
        except ValueError:
            separator = ""
        if not separator:
            raise UsageError(f"--set takes NAME=VALUE with a number, true, false or null, got {pair!r}")
    return values


def run(args: argparse.Namespace) -> int:
    """Measure what the arguments select; returns the exit code."""
    from eventide.bench.dataset import TraceSet
    from eventide.bench.runner import Selection, SettingsLayers, run_benchmark

    if args.max_workloads is not None and args.max_workloads < 1:
        raise UsageError(f"--max-workloads must be at least 1, got {args.max_workloads}")
    layers = SettingsLayers.load(Path(args.settings) if args.settings else None, parse_settings(args.set))
    selection = Selection(
        args.definition or (),
        args.op_type or (),
        args.solution or (),
        args.author or (),
        args.workload or (),
        args.max_workloads,
    )
    report = run_benchmark(
        TraceSet.load(args.data),
        devices=args.device,
        selection=selection,
        layers=layers,
        resume=not args.again,
        unsafe=args.unsafe,
        sandbox_method=args.sandbox,
        cache=Path(args.cache) if args.cache else None,
        show_progress=not args.quiet,
    )
    _print(report, as_json=args.json)
    passed = all(t.evaluation is not None and str(t.evaluation.status) == "PASSED" for t in report.traces)
    return BenchError.exit_code if args.strict and (report.skipped or not passed) else 0


def _print(report: RunReport, *, as_json: bool) -> None:
    from eventide.bench.runner.progress import describe

    if as_json:
        document = {
            "traces": [t.model_dump(mode="json") for t in report.traces],
            "skipped": [{"what": what, "why": why} for what, why in report.skipped],
            "resumed": report.resumed,
        }
        json.dump(document, sys.stdout, ensure_ascii=False, allow_nan=False)
        print()
        return
    for trace in report.traces:
        print(describe(trace))
    for what, why in report.skipped:
        print(f"skipped {what}: {why}")
    counts: dict[str, int] = {}
    for trace in report.traces:
        status = str(trace.evaluation.status) if trace.evaluation else "?"
        counts[status] = counts.get(status, 0) + 1
    text = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "nothing new"
    held = f", {report.resumed} held already" if report.resumed else ""
    print(f"measured: {text}; {len(report.skipped)} skipped{held}")
