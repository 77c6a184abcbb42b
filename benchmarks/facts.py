"""What every result of a benchmark says of where it comes from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def commit() -> str:
    """The commit of this checkout, "-dirty" behind it where files differ; empty where there is no git."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()


def one_line(main: Callable[[], int]) -> int:
    """Runs a benchmark; what is wrong with the machine or the arguments is said in a line, exit code 1."""
    from eventide.errors import EventideError

    try:
        return main()
    except EventideError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
