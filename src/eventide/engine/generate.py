"""The step loop: requests go in, pieces of their continuations come out.

    for piece in generate(runner, pool, tokenizer, requests):
        ...

Every turn of the loop admits waiting requests while slots and pages are free, then makes one of two moves:

    some prompts are unread     one step with the next tokens of those prompts, up to `max_tokens` in all, and one token
                                of every sequence that is already generating
    all prompts are read        decode steps until some sequence ends, every sequence one token a step; the device is asked
                                for all of them at once, and gives them part by part (a GPU: out of the running launch)

Three prompts of 5, 600 and 2 tokens at max_tokens 512: the first step reads 5 of the first and 507 of the second and
draws a token for the first; the second reads the remaining 93 and the third's 2, and gives everyone a token; from then
on the three decode together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from ..errors import CheckpointError, OutOfMemoryError, UsageError
from ..models.streaming import Detokenizer, StopStrings
from ..models.tokenizer import Tokenizer
from ..ops.sample import NO_TOKEN
from .outputs import FinishReason, Piece, TokenLogprob
from .pages import Lease, PagePool
from .runner import Outputs, Runner
from .sampling import Resolved
from .steps import Chunk, make_step

__all__ = ["SAMPLED", "Generation", "Request", "bounded", "generate"]

_PART_SECONDS = 0.03  # a reader sees new text about this often, and stop strings, which only the host sees, are met
SAMPLED = ("next_token", "logprob", "top_ids", "top_logprobs")


@dataclass(frozen=True)
class Request:
    """A prompt that fits the context, `max_new_tokens` already bounded by what the context leaves."""

    index: int
    prompt: Sequence[int]
    params: Resolved


@dataclass
class Generation:
    """A request in a slot. `cached_len` tokens have keys and values in the cache."""

    request: Request
    lease: Lease
    stops: StopStrings
    text: Detokenizer | None
    cached_len: int = 0
    num_new: int = 0
    finish_reason: FinishReason | None = None
    fresh: list[int] = field(default_factory=list)  # drawn since the last piece
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def unread(self) -> int:
        return len(self.request.prompt) - self.cached_len

    def chunk(self, count: int) -> Chunk:
        """The next `count` tokens of this sequence; a token is drawn when they reach the end of what is known."""
        last = self.cached_len + count == len(self.request.prompt) + self.num_new
        return Chunk(
            self.lease.seq,
            self.cached_len,
            count,
            rows="last" if last else "none",
            sampling=self.request.params.sampling,
            sample=last,
        )

    def take(self, outputs: Outputs, row: int) -> None:
        """Note the tokens that row `row` of some steps drew for this sequence; `outputs` are `[steps, rows, …]`."""
        tokens = outputs["next_token"][:, row].tolist()
        if NO_TOKEN in tokens:
            raise CheckpointError(
                "the model's logits are not numbers (NaN or infinite), so no token can be drawn: its weights hold such values, "
                "or overflow; fetch the checkpoint again, or try dtype='float32'"
            )
        params = self.request.params
        self.num_new += len(tokens)
        self.fresh += tokens
        if params.wants_logprobs:
            n = params.sampling.num_logprobs
            for i, token in enumerate(tokens):
                ids, values = (outputs[name][i, row, :n].tolist() for name in ("top_ids", "top_logprobs"))
                self.logprobs.append(TokenLogprob(token, float(outputs["logprob"][i, row]), dict(zip(ids, values))))
        # steps end at the first of these that comes
        if tokens[-1] in params.eos_token_ids:
            self.finish_reason = "stop"
        elif self.num_new >= params.max_new_tokens:
            self.finish_reason = "length"

    def piece(self) -> Piece:
        """What has come since the last piece. A stop string may end the sequence here, and drops later tokens."""
        tokens, logprobs = self.fresh, self.logprobs
        self.fresh, self.logprobs = [], []
        text = ""
        if self.text is not None and not self.request.params.stop:
            text = self.text.push(tokens)
            if self.finish_reason is not None:
                text += self.text.finish()
        elif self.text is not None:
            for i, token in enumerate(tokens):
                shown, stopped = self.stops.push(self.text.push([token]))
                text += shown
                if stopped:
                    self.finish_reason = "stop"
                    tokens, logprobs = tokens[: i + 1], logprobs[: i + 1]
                    break
            else:
                if self.finish_reason is not None:
                    shown, stopped = self.stops.push(self.text.finish())
                    text += shown + ("" if stopped else self.stops.finish())
                    self.finish_reason = "stop" if stopped else self.finish_reason
        wanted = logprobs if self.request.params.wants_logprobs else None
        return Piece(self.request.index, tokens, text, self.finish_reason, wanted)


def generate(
    runner: Runner, pool: PagePool, tokenizer: Tokenizer | None, requests: Sequence[Request], *, stream: bool = True
) -> Iterator[Piece]:
    """Run the requests to their ends; pieces come in the order of their steps. Closing the iterator frees the slots.

    With `stream` False pieces are larger and come later.
    """
    waiting, live = deque(requests), list[Generation]()
    try:
        while waiting or live:
            live += _admit(waiting, runner, pool, tokenizer, idle=not live)
            if any(sequence.unread > 0 for sequence in live):
                _read_prompts(runner, pool, live)
                yield from _pieces(pool, live)
                continue
            with closing(_decode(runner, pool, live, stream)) as parts:
                num_live = len(live)
                for _ in parts:
                    yield from _pieces(pool, live)
                    if len(live) < num_live:
                        # someone has ended, a stop string perhaps: who is left goes on in a new call
                        break
    finally:
        for sequence in live:
            pool.give_back(sequence.lease)


def _pieces(pool: PagePool, live: list[Generation]) -> Iterator[Piece]:
    """What has come for each sequence; those that have ended leave."""
    for sequence in [s for s in live if s.fresh]:
        piece = sequence.piece()
        if sequence.finish_reason is not None:
            live.remove(sequence)
            pool.give_back(sequence.lease)
        yield piece


def _admit(
    waiting: deque[Request], runner: Runner, pool: PagePool, tokenizer: Tokenizer | None, idle: bool
) -> list[Generation]:
    """Start requests in order while there is room."""
    started: list[Generation] = []
    while waiting:
        request = waiting[0]
        num_tokens = len(request.prompt) + request.params.max_new_tokens
        lease = pool.take(num_tokens)
        if lease is None:
            if idle and not started:
                raise _no_room(num_tokens, pool)
            break
        waiting.popleft()
        runner.tokens[lease.seq, : len(request.prompt)] = request.prompt
        text = None if tokenizer is None else tokenizer.stream()
        started.append(Generation(request, lease, StopStrings(request.params.stop), text))
    return started


def _no_room(num_tokens: int, pool: PagePool) -> Exception:
    limits = pool.limits
    if num_tokens > limits.pages * limits.page_size:
        return OutOfMemoryError(
            f"a sequence of {num_tokens} tokens needs more than the cache of {limits.pages * limits.page_size}; lower "
            "max_new_tokens or free some memory"
        )
    return UsageError("every slot is held by a stream that isn't finished; read it to its end, or close() it")


def _read_prompts(runner: Runner, pool: PagePool, live: list[Generation]) -> None:
    budget = runner.limits.max_tokens
    counts: list[tuple[Generation, int]] = []
    # who generates already goes first: one token each keeps them going while prompts are read
    for sequence in sorted(live, key=lambda s: s.unread > 0):
        count = min(max(sequence.unread, 1), budget)
        if count:
            counts.append((sequence, count))
            budget -= count
    chunks = [sequence.chunk(count) for sequence, count in counts]
    found = runner.run(make_step(runner.limits, chunks, runner.tile_queries, pool.block_table))
    outputs = {name: found[name][None] for name in SAMPLED}
    row = 0
    for (sequence, count), chunk in zip(counts, chunks, strict=True):
        sequence.cached_len += count
        if chunk.sample:
            sequence.take(outputs, row)
            row += 1


def _decode(runner: Runner, pool: PagePool, live: Sequence[Generation], stream: bool) -> Generator[None, None, None]:
    """Steps for all of `live` until one of them ends; a turn for each part that has been taken."""
    live = list(live)
    left = min(sequence.request.params.max_new_tokens - sequence.num_new for sequence in live)
    keep = SAMPLED if any(s.request.params.wants_logprobs for s in live) else SAMPLED[:1]
    stops = [sequence.request.params.eos_token_ids for sequence in live]
    chunks = [sequence.chunk(1) for sequence in live]
    part_s = _PART_SECONDS if stream or any(s.request.params.stop for s in live) else float("inf")
    with closing(runner.decode(chunks, left, pool.block_table, stops, keep, part_s)) as parts:
        for outputs in parts:
            for row, sequence in enumerate(live):
                sequence.cached_len += len(outputs["next_token"])
                sequence.take(outputs, row)
            yield


def bounded(params: Resolved, prompt_len: int, max_seq_len: int) -> Resolved:
    """`params` with max_new_tokens cut to what the context leaves after the prompt."""
    return replace(params, max_new_tokens=min(params.max_new_tokens, max_seq_len - prompt_len))
