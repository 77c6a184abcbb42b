"""`eventide bench check | new`."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import Any

from ..errors import BenchError, SchemaError, UsageError
from .bench_common import add_json, command, load, note, print_json

_KINDS = ("definition", "solution", "workload", "evaluation", "trace")
_LANGUAGES = ("python", "triton", "cpp", "cuda", "tilelang")


def add_commands(commands: Any) -> None:
    """Add the subcommands."""
    parser = command(
        commands,
        "check",
        run_check,
        "find everything wrong with files, folders or data sets",
        "Every problem is printed as file:line: field: message. A contradiction of the format is an error (exit code\n"
        "7); what is only absent or untidy is a warning, which counts as an error with --strict.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a .json or .jsonl file, a folder, or a data set")
    parser.add_argument("--kind", choices=_KINDS, help="what a file holds, where its folder and fields do not tell")
    parser.add_argument("--strict", action="store_true", help="let warnings fail too")
    parser.add_argument("--quiet", "-q", action="store_true", help="leave warnings out")
    add_json(parser)

    parser = command(
        commands,
        "new",
        run_new,
        "start a data set, a definition or a solution",
        "  eventide bench new data my_data\n"
        "  eventide bench new definition my_data --name scale_h128 --op-type elementwise\n"
        "  eventide bench new solution my_data --definition scale_h128 --language cpp --to scale_cpp/\n\n"
        "A new solution is a folder to edit; `eventide bench pack` puts it into the data set.",
    )
    parser.add_argument("what", choices=("data", "definition", "solution"))
    parser.add_argument("data", metavar="DATA", help="the data set's folder")
    parser.add_argument("--name", help="name of the definition or solution")
    parser.add_argument("--op-type", default="elementwise", help="operator type of a definition (%(default)s)")
    parser.add_argument("--definition", help="what a solution solves")
    parser.add_argument("--language", choices=_LANGUAGES, default="python", help="of a solution (%(default)s)")
    parser.add_argument("--author", help="of a solution (your login name)")
    parser.add_argument("--returns", action="store_true", help="return outputs instead of writing them")
    parser.add_argument("--to", metavar="FOLDER", help="folder of the new solution (its name)")


def run_check(args: argparse.Namespace) -> int:
    """`check`."""
    from ..bench.check import Report, check

    total = Report()
    for path in args.paths:
        try:
            report = check(path, args.kind)
        except BenchError as error:
            if len(args.paths) == 1 and not args.json:
                raise
            from ..bench.dataset_problems import Problem

            report = Report([Problem(str(path), None, "", str(error))])
        total.extend(report.problems)
        total.counts.update(report.counts)
    failed = bool(total.errors) or (args.strict and bool(total.warnings))
    shown = total.errors if args.quiet else total.problems
    if args.json:
        print_json({"ok": not failed, "counts": total.counts, "problems": [p.to_dict() for p in shown]})
    else:
        for problem in shown:
            print(f"{problem.level}: {problem}")
        counts = ", ".join(f"{n} {kind}{'s' if n != 1 else ''}" for kind, n in total.counts.items())
        print(f"checked {counts or 'nothing'}: {len(total.errors)} errors, {len(total.warnings)} warnings")
    return SchemaError.exit_code if failed else 0


def run_new(args: argparse.Namespace) -> int:
    """`new`."""
    from ..bench.pack import unpack
    from ..bench.pack_new import new_data, new_definition, new_solution

    if args.what == "data":
        print(f"made the data set {new_data(args.data).root}")
        return 0
    data = load(args.data)
    if args.what == "definition":
        if not args.name:
            raise UsageError("`new definition` needs --name")
        definition = new_definition(args.name, args.op_type)
        data.add_definition(definition)
        print(f"wrote {Path(args.data) / data.definition_path(definition)}: edit it, then run `eventide bench check`")
        return 0
    if not args.definition:
        raise UsageError("`new solution` needs --definition")
    definition = data.get_definition(args.definition)
    name = args.name or f"{definition.name}_{args.language}"
    author = args.author or getpass.getuser()
    solution = new_solution(definition, args.language, name, author, writes_outputs=not args.returns)
    for file in unpack(solution, args.to or name):
        print(f"wrote {file}")
    note(f"edit it, then: eventide bench pack {args.to or name} --data {args.data}")
    return 0
