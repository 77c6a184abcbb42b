"""`eventide chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import PromptError
from .common import add_model_options, add_sampling_options, load_llm, note, print_json, sampling
from .generate import Timing

_DESCRIPTION = """\
Talk with a model through its chat template. Each line is a message; lines may also come from a pipe.

  /clear   forgets the conversation        Ctrl-C   ends the answer that is being written
  /quit    leaves (so does Ctrl-D)

  eventide chat eventide-tiny
  echo "What is 3 plus 4?" | eventide chat eventide-tiny -t 0
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("chat", help="talk with a model", description=_DESCRIPTION)
    add_model_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system message")
    add_sampling_options(parser)


def main(args: argparse.Namespace) -> int:
    params = sampling(args)
    llm = load_llm(args)
    opening = [{"role": "system", "content": args.system}] if args.system else []
    # a model without a template is refused before anything is asked
    llm.chat_prompt([*opening, {"role": "user", "content": "?"}])
    talking = sys.stdin.isatty()
    if talking:
        import readline  # noqa: F401  line editing in input()

        note(f"{llm.model}, {llm.max_seq_len} tokens of context, {llm.cache_size}. /clear forgets, /quit leaves.")
    messages = list(opening)
    code = 0
    while (line := _read(talking)) is not None and line != "/quit":
        if line == "/clear":
            messages = list(opening)
            continue
        if not line:
            continue
        messages.append({"role": "user", "content": line})
        try:
            prompt = llm.chat_prompt(messages)
            pieces = llm.stream(prompt, params)
        except PromptError as error:
            messages.pop()
            if not talking:
                raise
            note(f"error: {error} (/clear forgets the conversation)")
            continue
        answer, timing, code = "", Timing(), 0
        try:
            for piece in pieces:
                timing.note(len(piece.token_ids))
                answer += piece.text
                if not args.json:
                    print(piece.text, end="", flush=True)
        except KeyboardInterrupt:
            code = 130
        messages.append({"role": "assistant", "content": answer})
        if args.json:
            print_json({"role": "assistant", "content": answer, "timing": timing.to_json()})
        else:
            print(flush=True)
        if code and not talking:
            break
        if talking:
            note(f"({timing})")
    llm.close()
    return code if not talking else 0


def _read(talking: bool) -> str | None:
    """The next line, or None at the end."""
    try:
        return input("> " if talking else "").strip()
    except EOFError:
        return None
