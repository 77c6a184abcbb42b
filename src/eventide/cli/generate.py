"""`eventide generate`: continue prompts.

One prompt's text streams out as it comes (behind the prompt, on a terminal); of several, each is printed when all are
done. Timings go to standard error.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .common import add_model_options, add_sampling_options, load_llm, note, print_json, sampling

if TYPE_CHECKING:
    from ..engine.llm import LLM
    from ..engine.outputs import Piece

_DESCRIPTION = """\
Continue one prompt or several, which run together. Without a prompt, standard input is one.

  eventide generate eventide-tiny "Once upon a time"
  eventide generate eventide-tiny "One day" "The cat" -n 40 -t 0        two prompts, greedy, 40 tokens each
  eventide generate eventide-tiny --chat "What is 3 plus 4?"            through the model's chat template
  eventide generate ./config-only --load-format dummy --token-ids 1,2,3 --json
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("generate", help="continue prompts", description=_DESCRIPTION)
    add_model_options(parser)
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", default=[], help="the text to continue")
    parser.add_argument("--token-ids", action="append", metavar="IDS", help="a prompt as comma-separated token ids")
    parser.add_argument("--chat", action="store_true", help="each prompt is a user's message to the chat template")
    add_sampling_options(parser)


@dataclass
class _Result:
    """One prompt's continuation so far."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = "interrupted"
    logprobs: list[Any] | None = None

    def add(self, piece: Piece) -> None:
        self.token_ids += piece.token_ids
        self.text += piece.text
        if piece.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *(asdict(entry) for entry in piece.logprobs)]
        self.finish_reason = piece.finish_reason or self.finish_reason


@dataclass
class Timing:
    """Seconds since the prompts went in."""

    start: float = field(default_factory=time.perf_counter)
    first: float | None = None
    end: float | None = None
    num_tokens: int = 0
    num_first: int = 0

    def note(self, num_tokens: int) -> None:
        self.end = time.perf_counter()
        if self.first is None:
            self.first, self.num_first = self.end, num_tokens
        self.num_tokens += num_tokens

    def to_json(self) -> dict[str, Any]:
        if self.first is None or self.end is None:
            return {"first_token_s": None, "total_s": None, "num_tokens": 0, "decode_tokens_per_s": None}
        decoded, seconds = self.num_tokens - self.num_first, self.end - self.first
        return {
            "first_token_s": self.first - self.start,
            "total_s": self.end - self.start,
            "num_tokens": self.num_tokens,
            "decode_tokens_per_s": decoded / seconds if decoded and seconds > 0 else None,
        }

    def __str__(self) -> str:
        found = self.to_json()
        if found["total_s"] is None:
            return "no tokens"
        rate = found["decode_tokens_per_s"]
        speed = "" if rate is None else f", then {rate:,.0f} tokens/s" if rate >= 20 else f", then {rate:.2f} tokens/s"
        times = f"{found['total_s']:.3g} s: the first after {found['first_token_s']:.3g} s"
        return f"{self.num_tokens} tokens in {times}{speed}"


def main(args: argparse.Namespace) -> int:
    params = sampling(args)
    start = time.perf_counter()
    llm = load_llm(args)
    load_s = time.perf_counter() - start
    prompts = _prompts(args, llm)
    results = [_Result() for _ in prompts]
    timing = Timing()
    streaming = len(prompts) == 1 and not args.json
    interrupted = False
    pieces = llm.stream(prompts, params)
    if streaming and sys.stdout.isatty() and not args.chat and isinstance(prompts[0], str):
        print(prompts[0], end="", flush=True)  # whoever looks on reads a whole sentence; pipes get the continuation alone
    try:
        for piece in pieces:
            timing.note(len(piece.token_ids))
            results[piece.index].add(piece)
            if streaming:
                print(_shown(llm, piece.text, piece.token_ids), end="", flush=True)
    except KeyboardInterrupt:
        interrupted = True
    if streaming:
        print(flush=True)
    elif not args.json:
        for number, result in enumerate(results):
            print(f"--- {number}: {result.finish_reason}\n{_shown(llm, result.text, result.token_ids)}")
    if args.json:
        settings: dict[str, Any] = {"model": args.model, "device": llm.device, "dtype": llm.dtype, "schedule": llm.schedule}
        settings["cache"] = asdict(llm.cache_size)
        timings = {"load_s": load_s, **timing.to_json()}
        print_json({**settings, "completions": [asdict(result) for result in results], "timing": timings})
    else:
        note(f"{'interrupted; ' if interrupted else ''}loaded in {load_s:.2g} s, {llm.cache_size}; {timing}")
    llm.close()
    return 130 if interrupted else 0


def _shown(llm: LLM, text: str, token_ids: list[int]) -> str:
    return text if llm.tokenizer is not None else "".join(f"{token} " for token in token_ids)


def _prompts(args: argparse.Namespace, llm: LLM) -> list[Any]:
    prompts: list[Any] = list(args.prompt)
    ids = [_parse_ids(text) for text in args.token_ids or ()]
    if not prompts and not ids:
        if sys.stdin.isatty():
            raise UsageError("no prompt: give one as an argument, as --token-ids, or on standard input")
        prompts = [sys.stdin.read()]
    if args.chat:
        prompts = [llm.chat_prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    return [*prompts, *ids]


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(f"--token-ids expects integers separated by commas, got {text!r}") from None
