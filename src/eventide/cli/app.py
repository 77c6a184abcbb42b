"""The parser of the whole command line, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from .. import __version__
from ..errors import EventideError, ResourceError, UsageError

COMMANDS = ("generate", "chat", "compile", "explain", "profile", "models", "bench")

_DESCRIPTION = """\
Run language models as one plan of tasks and event tensors, on CPUs and GPUs.

  eventide generate eventide-tiny "Once upon a time"        text from the bundled model
  eventide generate Qwen/Qwen3-0.6B "Hello" --json          from the Hugging Face hub, for machines
  eventide chat ./my-checkpoint                             a conversation
  eventide compile eventide-tiny --print-after tile         what the compiler makes of a model
  eventide explain eventide-tiny                            where a step's time and bytes go
"""
_EPILOG = """\
A MODEL is a checkpoint directory (config.json, *.safetensors, tokenizer.json), a bundled model's name, or a hub id.
Exit codes: 0 done, 2 bad arguments, 3 a checkpoint that can't be used, 4 an ill-formed program or plan, 5 memory or a
missing package, 6 a device, 7 a bench file, 130 interrupted.
"""


class Parser(argparse.ArgumentParser):
    """argparse, with errors in the form that all of Eventide's have."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def _match_arguments_partial(self, actions: Sequence[argparse.Action], arg_strings_pattern: str) -> list[int]:
        # before Python 3.12.8 and 3.13.1 a PROMPT that may be absent counts as absent where an option stands before it
        counts = super()._match_arguments_partial(actions, arg_strings_pattern)
        while counts and counts[-1] == 0 and "O" in arg_strings_pattern:
            counts.pop()
        return counts

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    """The parser and the module of each subcommand."""
    parser = Parser(prog="eventide", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"eventide {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    modules = {}
    for name in COMMANDS:
        module = modules[name] = importlib.import_module(f".{name}", __package__)
        module.add_parser(subparsers)
    return parser, modules


def run(argv: Sequence[str] | None = None) -> int:
    """Parse and run; every deliberate error becomes one line on standard error and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that can't show a character gets a question mark
            stream.reconfigure(errors="replace")
    try:
        parser, modules = build_parser()
        args = parser.parse_args(argv)
        code: int = modules[args.command].main(args)
        sys.stdout.flush()
        return code
    except EventideError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except UnicodeDecodeError as error:
        print(f"error: what was read isn't text in {error.encoding}: {error.reason} at byte {error.start}", file=sys.stderr)
        return UsageError.exit_code
    except OSError as error:  # a full disk, say
        _drop_output()
        print(f"error: {error}", file=sys.stderr)
        return ResourceError.exit_code
    except SystemExit as leave:  # argparse: --help, --version, bad arguments
        return leave.code if isinstance(leave.code, int) else 0


def _drop_output() -> None:
    """Nobody reads it any more, or it has no room; without this the interpreter would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
