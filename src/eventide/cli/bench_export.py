"""`eventide bench export`: Eventide's operators, as a model calls them, as definitions and workloads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .bench_common import add_json, command, print_json, table

if TYPE_CHECKING:
    from ..bench.pack_export import Exported

_TILE_QUERIES = 16


def add_commands(commands: Any) -> None:
    """Add the subcommand."""
    parser = command(
        commands,
        "export",
        run_export,
        "write Eventide's operators as definitions and workloads",
        "Every operator that a model calls, alone and as the compiler fuses it, with the model's sizes. Steps of the\n"
        "model become workloads, so that kernels for the operators can be written, measured and ranked like any other.\n\n"
        "  eventide bench export my_data --model eventide-tiny --batch 1 --batch 8 --op linear",
    )
    parser.add_argument("data", metavar="DATA", help="a data set, or a new folder")
    parser.add_argument(
        "--model", action="append", metavar="MODEL", help="directory, bundled name or hub id (eventide-tiny)"
    )
    parser.add_argument("--op", action="append", metavar="NAME", help="only this operator (may be repeated)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    parser.add_argument("--batch", action="append", type=int, metavar="N", help="sequences of a decode step (1, 8)")
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="tokens before a decode step (%(default)s)"
    )
    parser.add_argument("--prefill", action="append", type=int, metavar="N", help="tokens of a prompt (128)")
    parser.add_argument(
        "--tasks",
        nargs="?",
        const="cpu",
        choices=("cpu", "cuda"),
        help="add the operators' own tasks as solutions: those of the CPU, or of a GPU, which need --dtype bfloat16 (cpu)",
    )
    parser.add_argument("--list", action="store_true", help="only name what would be written")
    add_json(parser)


def run_export(args: argparse.Namespace) -> int:
    """`export`."""
    from ..bench import TraceSet
    from ..bench.pack_export import write_exported
    from ..ops import list_ops

    for name in args.op or ():
        if name not in list_ops():
            raise UsageError(f"unknown operator {name!r}; known are {', '.join(list_ops())}")
    if args.tasks == "cuda" and args.dtype != "bfloat16":
        raise UsageError("--tasks cuda needs --dtype bfloat16, which is what the GPU's tasks compute in")
    exported = []
    for model in args.model or ["eventide-tiny"]:
        exported += list(_of_model(model, args))
    if args.op:
        exported = [e for e in exported if e.definition.op_type.removeprefix("eventide_") in args.op]
    if args.list:
        counts = {e.definition.name: len(e.workloads) for e in exported}
    else:
        root = Path(args.data)
        data = TraceSet.load(root) if root.is_dir() else TraceSet(root=root)
        counts = {}
        for name, added in write_exported(data, exported):
            counts[name] = counts.get(name, 0) + added
    if args.json:
        print_json(counts)
    elif args.list:
        print(table(["definition", "workloads"], [[n, str(c)] for n, c in counts.items()]))
    else:
        solutions = sum(e.solution is not None for e in exported)
        with_tasks = f" and {solutions} of its own tasks as solutions" if args.tasks else ""
        print(f"wrote {len(counts)} definitions, {sum(counts.values())} workloads{with_tasks} to {args.data}")
    return 0


def _of_model(model: str, args: argparse.Namespace) -> Iterator[Exported]:
    from ..bench.pack_export import ExportStep, export_program
    from ..engine.steps import Chunk, make_step
    from ..models.decoder import Limits, build_decoder
    from ..models.hub import resolve
    from ..models.registry import load_config
    from ..passes.fuse import fuse
    from ..target import cpu, h200

    config = load_config(resolve(model, weights=False))
    batches, prompts = args.batch or [1, 8], args.prefill or [128]
    if min(*batches, *prompts, args.context, 1) < 1:
        raise UsageError("--batch, --context and --prefill must be at least 1")
    longest = max(args.context + 1, *prompts)
    most = max(*batches, 1)
    # no more cache than the steps need: a definition that updates it moves all of it
    limits = Limits(
        max_tokens=max(*prompts, *batches), max_rows=most, max_seqs=most, max_seq_len=-(-longest // 64) * 64
    )
    target = {"cpu": cpu(1), "cuda": h200(tight=False)}.get(args.tasks)
    # the last three as a GPU has them for many tokens; tasks are of a target that has few
    for decode, slabs in ((True, 0), (False, 0), (True, 4), (False, 4), (False, 1)):
        program = build_decoder(config, limits, args.dtype, decode=decode, splits=slabs)
        steps = []
        for batch in batches:
            chunks = [Chunk(seq, args.context, 1) for seq in range(batch)]
            step = make_step(limits, chunks, _TILE_QUERIES, splits=4 if decode and not slabs else 0)
            steps.append(ExportStep(f"decode of {batch} at {args.context}", step.symbols, step.inputs))
        for length in () if decode else prompts:
            step = make_step(limits, [Chunk(0, 0, length)], _TILE_QUERIES)
            steps.append(ExportStep(f"prompt of {length}", step.symbols, step.inputs))
        for version in (program, fuse(program)):
            yield from export_program(version, steps, tags=[f"model:{Path(model).name}"], tasks=target if slabs != 1 else None)
