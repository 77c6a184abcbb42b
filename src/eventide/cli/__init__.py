"""The command line: `eventide generate | chat | compile | explain | profile | models | bench`.

One file a subcommand, with `add_parser(subparsers)` and `main(args) -> exit code`. Results go to standard output,
everything else (progress, timings, errors) to standard error, so that pipes get results alone.

    0    done                       1 … 7    a deliberate error (`eventide.errors` lists the codes)
    130  interrupted by Ctrl-C      141      the reader of standard output went away
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. (The entry point `eventide`.)"""
    from .app import run

    return run(argv)
