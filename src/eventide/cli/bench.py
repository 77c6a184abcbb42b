"""`eventide bench`: check, run, report, new, pack, unpack and export, over the modules of `eventide.bench`.

Each subcommand is a function ``(args) -> int`` that returns an exit code. Results go to standard output, progress and
errors to standard error; ``--json`` prints one JSON document instead of text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import BenchError, EventideError
from . import bench_common, bench_data, bench_export, bench_report, bench_run, bench_solutions

_DESCRIPTION = """\
Keep kernels and what is claimed about them in one data set (the FlashInfer Trace format), measure the claims, rank
them, and hand out the winner.

  eventide bench new data my_data                 start a data set
  eventide bench check my_data                    find everything that is wrong with it
  eventide bench run my_data                      measure its solutions (CPU or GPU)
  eventide bench report best my_data              the fastest correct solution of each definition
  eventide bench report html my_data -o page.html one page with curves, tables and sources
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `bench` and its subcommands to a command line."""
    parser = subparsers.add_parser(
        "bench",
        help="check, measure, rank and package kernels",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="bench_command", metavar="COMMAND", required=True)
    for module in (bench_data, bench_run, bench_report, bench_solutions, bench_export):
        module.add_commands(commands)
    return parser


def main(args: argparse.Namespace) -> int:
    """Run the subcommand that the arguments name; returns the exit code."""
    bench_common.need_pydantic()
    try:
        result: int = args.bench_function(args)
    except BrokenPipeError:  # nobody reads any more: the command line's own affair
        raise
    except OSError as error:
        raise BenchError(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}") from None
    return result


def _run(argv: Sequence[str] | None = None) -> int:
    root = argparse.ArgumentParser(prog="eventide")
    add_parser(root.add_subparsers(required=True))
    args = root.parse_args(["bench", *(sys.argv[1:] if argv is None else argv)])
    try:
        return main(args)
    except EventideError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(_run())
