"""`eventide profile`: what every worker did in some steps, as a file that opens in Perfetto."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_model_options, load_llm, print_json
from .explain import add_step_options

_DESCRIPTION = """\
Record every task of some steps, one track a worker, waits and work apart, and write a Chrome trace: open it at
https://ui.perfetto.dev or in chrome://tracing.

  eventide profile eventide-tiny                              trace.json, three decode steps
  eventide profile eventide-tiny --prefill --context 300 -o prefill.json
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("profile", help="record a timeline for Perfetto", description=_DESCRIPTION)
    add_model_options(parser)
    add_step_options(parser)
    parser.add_argument("-o", "--output", default="trace.json", metavar="FILE", help="default trace.json")


def main(args: argparse.Namespace) -> int:
    from ..engine.measure import measured_steps
    from ..profile.timeline import merge, write_trace

    llm = load_llm(args)
    _, timelines = measured_steps(llm, args.batch, args.context, args.prefill, args.steps or 3)
    llm.close()
    whole = merge(timelines)
    write_trace(whole, args.output)
    shares = whole.by_grid().values()
    work, wait = (sum(getattr(share, what) for share in shares) / 1e6 for what in ("work_ns", "wait_ns"))
    facts = {
        "output": args.output,
        "num_steps": len(timelines),
        "num_workers": whole.num_workers,
        "num_tasks": len(whole.spans),
        "elapsed_ms": sum(timeline.elapsed_ns for timeline in timelines) / 1e6,
        "work_ms": work,
        "wait_ms": wait,
    }
    if args.json:
        print_json(facts)
    else:
        print(
            f"{args.output}: {facts['num_steps']} steps, {facts['num_tasks']:,} tasks on {facts['num_workers']} "
            f"workers, {work:.3f} ms of work and {wait:.3f} ms of waits in {facts['elapsed_ms']:.3f} ms; open it at "
            "https://ui.perfetto.dev"
        )
    return 0
