"""`eventide profile`: what every worker did in some steps, as a file that opens in Perfetto."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_model_options, load_llm, print_json
from .explain import add_step_options

_DESCRIPTION = """\
Record every task of some steps, one track a worker, waits and work apart, and write a Chrome trace: open it at
https://ui.perfetto.dev or in chrome://tracing. On a GPU a worker is a multiprocessor, and a slice says besides when its
weights had arrived, how long it waited for them, and when it had told the others.

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
    *_, timelines = measured_steps(llm, args.batch, args.context, args.prefill, 3 if args.steps is None else args.steps)
    llm.close()
    whole = merge(timelines)
    write_trace(whole, args.output)
    shares = whole.by_grid().values()
    work, wait, memory = (sum(getattr(s, what) for s in shares) / 1e6 for what in ("work_ns", "wait_ns", "memory_ns"))
    facts = {
        "output": args.output,
        "num_steps": len(timelines),
        "num_workers": whole.num_workers,
        "num_tasks": sum(share.num_tasks for share in shares),
        "elapsed_ms": sum(timeline.elapsed_ns for timeline in timelines) / 1e6,
        "work_ms": work,
        "wait_ms": wait,
        "memory_ms": memory,
    }
    if args.json:
        print_json(facts)
    else:
        print(
            f"{args.output}: {facts['num_steps']} steps, {facts['num_tasks']:,} tasks on {facts['num_workers']} "
            f"workers, {work:.3f} ms of work{_memory(memory)} and {wait:.3f} ms of waits in {facts['elapsed_ms']:.3f} ms; "
            "open it at https://ui.perfetto.dev"
        )
    return 0


def _memory(milliseconds: float) -> str:
    return f" ({milliseconds:.3f} of them waiting for memory)" if milliseconds else ""
