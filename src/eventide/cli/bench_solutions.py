"""`eventide bench pack | unpack`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import BenchError, UsageError
from .bench_common import add_json, command, load, note, print_json


def add_commands(commands: Any) -> None:
    """Add the subcommands."""
    parser = command(
        commands,
        "pack",
        run_pack,
        "make one solution file of a folder of sources",
        "The folder holds solution.json (name, definition, author, spec) and the sources. With --data the solution\n"
        "goes into that data set, else to -o, else to standard output.",
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--data", metavar="DATA", help="add it to this data set")
    parser.add_argument("-o", "--output", metavar="FILE", help="write it to this file")
    add_json(parser)

    parser = command(
        commands,
        "unpack",
        run_unpack,
        "spread a solution out as a folder of sources",
        "The solution is a file, or a name in the data set of --data.",
    )
    parser.add_argument("solution", metavar="SOLUTION", help="a solution file, or a name with --data")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="a new or empty folder (the solution's name)")
    parser.add_argument("--data", metavar="DATA", help="the data set that holds it")
    add_json(parser)


def run_pack(args: argparse.Namespace) -> int:
    """`pack`."""
    from ..bench.check import check_python_entry
    from ..bench.pack import pack

    if args.data and args.output:
        raise UsageError("give --data or -o, not both")
    packed = pack(args.folder)
    solution = packed.solution
    for name in packed.left_out:
        note(f"left out {name} (hidden, empty or not text)")
    for where, message in check_python_entry(solution):
        note(f"warning: {where}: {message}")
    target: Path | None = None
    if args.data:
        data = load(args.data)
        data.get_definition(solution.definition)
        target = Path(args.data) / data.solution_path(solution)
        data.add_solution(solution)
    elif args.output:
        target = Path(args.output)
        if target.exists():
            raise BenchError(f"{target} exists; remove it or choose another name")
        target.write_text(solution.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if target is None:
        print(solution.model_dump_json(indent=2))
    elif args.json:
        print_json({"name": solution.name, "file": str(target), "content_hash": solution.content_hash})
    else:
        print(f"packed {solution.name} ({len(solution.sources)} files, {solution.content_hash[:12]}) into {target}")
    return 0


def run_unpack(args: argparse.Namespace) -> int:
    """`unpack`."""
    from ..bench import Solution
    from ..bench.dataset import file_name
    from ..bench.dataset_read import read_record
    from ..bench.pack import unpack

    if args.data:
        solution = load(args.data).get_solution(args.solution)
    else:
        solution = read_record(Solution, Path(args.solution))
    files = unpack(solution, args.folder or file_name(solution.name))
    if args.json:
        print_json([str(f) for f in files])
    else:
        print("\n".join(f"wrote {f}" for f in files))
    return 0
