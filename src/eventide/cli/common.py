"""What the subcommands share: options for models and for sampling, progress, JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine.llm import LLM
    from ..engine.sampling import SamplingParams

__all__ = [
    "add_model_options", "add_sampling_options", "console", "load_llm", "note", "print_json", "progress_bar",
    "sampling",
]  # fmt: skip


def add_model_options(parser: argparse.ArgumentParser, *, weights: bool = True) -> None:
    """MODEL and how to load it; `weights` False for commands that only read its configuration."""
    parser.add_argument("model", metavar="MODEL", help="a checkpoint directory, a bundled model's name, or a hub id")
    group = parser.add_argument_group("loading")
    if weights:
        group.add_argument("--device", default="auto", help="auto, cpu, cuda (a GPU), or interp (the interpreter: slow)")
        group.add_argument(
            "--load-format", default="auto", help="auto, safetensors, or dummy (random weights for a config.json)"
        )
    group.add_argument("--dtype", default="auto", help="auto (the checkpoint's own), float32 or bfloat16")
    group.add_argument("--schedule", default="auto", help="auto, static, or per_op (a barrier after every operator)")
    group.add_argument("--threads", type=int, metavar="N", help="CPU workers (default: one for each core)")
    group.add_argument(
        "--max-seq-len",
        type=int,
        metavar="N",
        help="tokens of a prompt and its continuation (default: the model's, to 8192)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The fields of `SamplingParams`; what isn't given is the model's own (generation_config.json)."""
    group = parser.add_argument_group("sampling (what isn't given is the model's own: generation_config.json)")
    group.add_argument("-n", "--max-new-tokens", type=int, metavar="N", help="tokens to generate at most (default 256)")
    group.add_argument("-t", "--temperature", type=float, metavar="T", help="0 always takes the most likely token")
    group.add_argument("--top-k", type=int, metavar="K", help="draw among the K most likely tokens (0: all)")
    group.add_argument("--top-p", type=float, metavar="P", help="draw among the fewest whose probabilities reach P")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed draws the same tokens")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text (may be repeated)")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's end-of-sequence token")
    group.add_argument("--logprobs", type=int, metavar="N", help="with --json: log-probabilities, and the N best")


def sampling(args: argparse.Namespace) -> SamplingParams:
    from ..engine.sampling import SamplingParams

    return SamplingParams(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        stop=args.stop,
        ignore_eos=args.ignore_eos,
        logprobs=args.logprobs,
    )


def load_llm(args: argparse.Namespace, **options: Any) -> LLM:
    """The model that the arguments name, with a progress bar while it loads."""
    import warnings

    from ..engine.llm import LLM

    with warnings.catch_warnings(record=True) as caught, progress_bar() as progress:
        warnings.simplefilter("always", RuntimeWarning)
        llm = LLM(
            args.model,
            device=args.device,
            dtype=args.dtype,
            schedule=args.schedule,
            max_seq_len=args.max_seq_len,
            num_threads=args.threads,
            load_format=args.load_format,
            progress=progress,
            **options,
        )
    for warning in caught:
        note(f"note: {warning.message}")
    return llm


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A function (what, share done) that draws a bar on standard error, if that is a terminal and work takes long."""
    if not sys.stderr.isatty():
        yield None
        return
    import time

    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}
        shown = 0.0

        def progress(what: str, share: float) -> None:
            nonlocal shown
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=1.0)
            # thousands of weights a second would spend more time drawing than loading
            if share >= 1 or time.monotonic() - shown > 0.05:
                shown = time.monotonic()
                bars.update(tasks[what], completed=share)

        yield progress


def console() -> Any:
    """A rich console on standard output, wide enough for tables that go into a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def print_json(data: Any) -> None:
    """Print one JSON document."""
    unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    print(json.dumps(data, indent=2, ensure_ascii=not unicode, allow_nan=False))


def note(text: str) -> None:
    """Say something beside the result."""
    print(text, file=sys.stderr)
