"""What the bench's subcommands share: loading, printing, options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    from ..bench import TraceSet


def need_pydantic() -> None:
    """Raise MissingDependencyError where the bench's extra is not installed."""
    try:
        import pydantic  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "`eventide bench` needs pydantic, which is not installed: pip install 'eventide[bench]'"
        ) from None


def load(path: str, *, validate: bool = True) -> TraceSet:
    """The data set of a folder."""
    from ..bench import TraceSet

    return TraceSet.load(path, validate=validate)


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str, details: str = ""
) -> argparse.ArgumentParser:
    """Add a subcommand; `function` gets its arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(bench_function=function)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def print_json(data: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Say something beside the result."""
    print(text, file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by width; numbers to the right."""
    lines = [list(header), *[list(r) for r in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def cell(text: str, width: int) -> str:
        numeric = text[:1].isdigit() or text[:1] in "-+"
        return text.rjust(width) if numeric else text.ljust(width)

    return "\n".join("  ".join(cell(t, w) for t, w in zip(line, widths)).rstrip() for line in lines)
