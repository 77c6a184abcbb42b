"""`Engine`: requests come and go while the model runs, any number of them, of any lengths.

    engine = Engine("eventide-tiny")
    engine.add(Request("a", "Once upon a time", SamplingParams(max_new_tokens=40)))
    engine.add(Request("b", "Three plus four is", priority=1))
    for output in engine.run():               or step() by step(), or `async for output in engine`
        print(output.id, output.text)
    engine.cancel("a")

A step is one pass over the weights. It has room for `token_budget` tokens, which go, in this order, to every sequence that
is generating (one token each), to prompts that have been begun, and to requests that wait: first the higher priority, then
the earlier arrival. So whoever generates waits for at most one step of `token_budget` tokens between two of its own.

    budget 8, page 4      step 1          step 2                       step 3
    a: prompt of 5        5 tokens, 1st   2nd                          3rd
    b: prompt of 9        3 tokens        6 tokens, 1st                2nd

Pages are taken as sequences grow. When none is left, the sequence that comes last gives up its pages and waits again with what
it has generated so far; its keys and values are computed anew when its turn comes. Tokens don't change by that, nor by who
else is in the batch: a row's arithmetic knows nothing of the others, and draws are keyed by seed and position.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import OutOfMemoryError, PromptError, UsageError
from ..models.streaming import StopStrings
from .cache import PageCache, digests
from .generate import SAMPLED, Generation
from .generate import Request as _Request
from .llm import LLM
from .outputs import TokenLogprob
from .pages import Lease
from .runner import Outputs
from .sampling import SamplingParams
from .steps import make_step

__all__ = ["Engine", "Output", "Request"]


@dataclass(frozen=True)
class Request:
    """A prompt (text or token ids) under a name of the caller's. Higher priorities go first."""

    id: Hashable
    prompt: str | Sequence[int]
    params: SamplingParams | None = None
    priority: int = 0


@dataclass(frozen=True)
class Output:
    """What a step added to a request: tokens, and the text that has become certain. `finish_reason` is None until its last."""

    id: Hashable
    token_ids: list[int]
    text: str
    finish_reason: Literal["stop", "length", "cancelled"] | None = None
    logprobs: list[TokenLogprob] | None = None


@dataclass
class _Work(Generation):
    """A request on its way. `pages` and the slot in `lease` are its own while it runs."""

    id: Hashable = None
    rank: tuple[int, int] = (0, 0)  # lower goes first
    known: list[int] = field(default_factory=list)  # the prompt and what has been generated
    pages: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    @property
    def unread(self) -> int:
        return len(self.known) - self.cached_len

    @property
    def left(self) -> int:
        return self.request.params.max_new_tokens - self.num_new

    def take(self, outputs: Outputs, row: int) -> None:
        super().take(outputs, row)
        self.known += outputs["next_token"][:, row].tolist()


class Engine:
    """Serves requests with one model. model: an `LLM` that nobody else uses meanwhile, or what `LLM(...)` takes, with `options`
    for it. token_budget: tokens of one step at most (None: as many as the model's plan was made for). cache_tokens: tokens
    that the cache holds at most, rounded up to pages (None: as many as the model was given memory for).

    One thread at a time may use it. `stats` counts steps, tokens, preemptions and tokens found in the cache.
    """

    def __init__(
        self,
        model: LLM | str | Path,
        *,
        token_budget: int | None = None,
        cache_tokens: int | None = None,
        **options: Any,
    ) -> None:
        for name, value in (("token_budget", token_budget), ("cache_tokens", cache_tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} must be an integer of at least 1, got {value!r}")
        self.llm = model if isinstance(model, LLM) else LLM(model, **options)
        self._runner = self.llm._runner
        limits = self.llm.limits
        self.token_budget = min(token_budget or limits.max_tokens, limits.max_tokens)
        pages = limits.pages if cache_tokens is None else min(limits.pages, -(-cache_tokens // limits.page_size))
        self._cache = PageCache(pages, limits.page_size)
        self._table = np.zeros((limits.max_seqs, limits.pages_per_seq), np.int32)
        self._slots = list(range(limits.max_seqs))[::-1]
        self._waiting: list[_Work] = []
        self._running: list[_Work] = []
        self._cancelled: list[Output] = []
        self._ids: set[Hashable] = set()
        self._added = 0
        self.stats = {"steps": 0, "tokens": 0, "preemptions": 0, "tokens_from_cache": 0}

    # -- requests

    def add(self, request: Request) -> None:
        """Accepts a request. What is wrong with it is raised here (`PromptError`, `SamplingError`, `UsageError`,
        `OutOfMemoryError`) and concerns no other."""
        if request.id in self._ids:
            raise UsageError(f"a request with the id {request.id!r} is being served; give every request an id of its own")
        batch, single = self.llm._prompts(request.prompt)
        if not batch:
            raise PromptError("the prompt is empty; give at least one token")
        if not single:
            raise UsageError(f"request {request.id!r} has several prompts; make a request of each")
        inner: _Request = self.llm._requests(batch, request.params)[0]
        capacity = self._cache.num_pages * self._cache.page_size
        if len(inner.prompt) + inner.params.max_new_tokens > capacity:
            raise OutOfMemoryError(
                f"request {request.id!r} may come to {len(inner.prompt) + inner.params.max_new_tokens} tokens, and the whole "
                f"cache holds {capacity}; lower max_new_tokens, or free some memory"
            )
        text = None if self.llm.tokenizer is None else self.llm.tokenizer.stream()
        rank = (-request.priority, self._added)
        stops = StopStrings(inner.params.stop)
        self._added += 1
        self._ids.add(request.id)
        work = _Work(inner, Lease(-1, ()), stops, text, id=request.id, rank=rank, known=list(inner.prompt))
        insort(self._waiting, work, key=lambda w: w.rank)

    def cancel(self, id: Hashable) -> None:
        """Ends a request; its last output says so. UsageError for an id that isn't being served."""
        work = next((w for w in (*self._running, *self._waiting) if w.id == id), None)
        if work is None:
            raise UsageError(f"no request with the id {id!r} is being served")
        (self._running if work in self._running else self._waiting).remove(work)
        self._forget(work)
        self._cancelled.append(Output(id, [], "", "cancelled"))

    @property
    def num_requests(self) -> int:
        """Requests that wait or run."""
        return len(self._ids)

    @property
    def free_pages(self) -> int:
        """Pages that nobody owns."""
        return self._cache.available

    # -- steps

    def run(self) -> Iterator[Output]:
        """Outputs until nothing is left to do. Requests may be added and cancelled meanwhile."""
        while self._ids or self._cancelled:
            yield from self.step(max_steps=16)

    async def __aiter__(self) -> AsyncIterator[Output]:
        """The same without blocking the event loop: each step runs in a thread."""
        while self._ids or self._cancelled:
            for output in await asyncio.to_thread(self.step):
                yield output

    def step(self, max_steps: int = 1) -> list[Output]:
        """One step, or up to `max_steps` at once where every sequence generates and nobody waits for a place."""
        outputs, self._cancelled = self._cancelled, []
        chosen = self._choose()
        if not chosen:
            return outputs
        if max_steps > 1 and all(count == 1 and w.unread == 1 for w, count in chosen) and len(chosen) == len(self._ids):
            advanced = self._decode([w for w, _ in chosen], max_steps)
        else:
            advanced = self._pass(chosen)
        for work in advanced:
            piece = work.piece()
            outputs.append(Output(work.id, piece.token_ids, piece.text, piece.finish_reason, piece.logprobs))
            if piece.finish_reason is not None:
                self._running.remove(work)
                self._forget(work)
        return outputs

    def close(self) -> None:
        """Ends all requests and frees the model."""
        self.llm.close()

    def _choose(self) -> list[tuple[_Work, int]]:
        """Who advances by how many tokens, with pages for them."""
        budget, chosen = self.token_budget, []
        # generating first, then prompts; within each by rank
        for work in sorted(self._running, key=lambda w: (w.unread > 1, w.rank)):
            count = min(work.unread, budget)
            if work in self._running and count and self._grow(work, count):
                chosen.append((work, count))
                budget -= count
        while budget and self._waiting and self._slots and len(self._running) < self.token_budget:
            work = self._waiting[0]
            self._begin(work)
            wanted = -(-len(work.known) // self._cache.page_size) - len(work.pages)
            # the whole prompt must have a place beside who runs, or admitting it would only push somebody out
            if wanted > self._cache.available and self._running:
                self._stop(work)
                break
            self._waiting.pop(0)
            self._running.append(work)
            count = min(work.unread, budget)
            if not self._grow(work, count):
                break
            chosen.append((work, count))
            budget -= count
        # a sequence chosen early may have been pushed out by a later one of a higher rank
        return [(w, count) for w, count in chosen if w in self._running]

    def _begin(self, work: _Work) -> None:
        """A slot, and the pages of its beginning that are in the cache; the last token is always computed."""
        work.lease = Lease(self._slots.pop(), ())
        work.digests = digests(work.known[:-1], self._cache.page_size)
        work.pages = self._cache.find(work.digests)
        work.digests = work.digests[: len(work.pages)]
        work.cached_len = len(work.pages) * self._cache.page_size
        self.stats["tokens_from_cache"] += work.cached_len
        self._table[work.lease.seq, : len(work.pages)] = work.pages
        self._runner.tokens[work.lease.seq, : len(work.known)] = work.known

    def _grow(self, work: _Work, count: int) -> bool:
        """Pages for `count` more tokens, if need be from those that come last. False: it was itself the last, and waits."""
        wanted = -(-(work.cached_len + count) // self._cache.page_size) - len(work.pages)
        while wanted > self._cache.available:
            last = max(self._running, key=lambda w: w.rank)
            self._running.remove(last)
            self._stop(last)
            insort(self._waiting, last, key=lambda w: w.rank)
            self.stats["preemptions"] += 1
            if last is work:
                return False
        pages = self._cache.take(max(wanted, 0))
        assert pages is not None
        self._table[work.lease.seq, len(work.pages) : len(work.pages) + len(pages)] = pages
        work.pages += pages
        return True

    def _stop(self, work: _Work) -> None:
        """Gives back slot and pages; what was generated stays."""
        self._table[work.lease.seq] = 0
        self._slots.append(work.lease.seq)
        self._cache.release(work.pages)
        work.lease, work.pages, work.cached_len, work.digests = Lease(-1, ()), [], 0, []

    def _forget(self, work: _Work) -> None:
        if work.lease.seq >= 0:
            self._stop(work)
        self._ids.discard(work.id)

    def _pass(self, chosen: list[tuple[_Work, int]]) -> list[_Work]:
        """One step of the model; who drew a token."""
        chunks = [work.chunk(count) for work, count in chosen]
        found = self._runner.run(make_step(self.llm.limits, chunks, self._runner.tile_queries, self._table))
        outputs = {name: found[name][None] for name in SAMPLED}
        drew = [work for (work, _), chunk in zip(chosen, chunks, strict=True) if chunk.sample]
        for work, count in chosen:
            self._advance(work, count)
        for row, work in enumerate(drew):
            work.take(outputs, row)
        self.stats["steps"] += 1
        return drew

    def _decode(self, works: list[_Work], max_steps: int) -> list[_Work]:
        """Several steps in which everybody draws a token, as far as the pages that are free allow."""
        page, steps = self._cache.page_size, min(max_steps, *(w.left for w in works))

        def pages_for(n: int) -> int:
            return sum(max(0, -(-(w.cached_len + n) // page) - len(w.pages)) for w in works)

        while steps > 1 and pages_for(steps) > self._cache.available:
            steps -= 1
        for work in works:
            self._grow(work, steps)
        chunks, stops = [w.chunk(1) for w in works], [w.request.params.eos_token_ids for w in works]
        with closing(self._runner.decode(chunks, steps, self._table, stops, SAMPLED, float("inf"))) as parts:
            for outputs in parts:
                done = len(outputs["next_token"])
                for row, work in enumerate(works):
                    work.take(outputs, row)
                    self._advance(work, done)
                self.stats["steps"] += done
        return works

    def _advance(self, work: _Work, count: int) -> None:
        """`count` more tokens have keys and values; pages that are full can be shared from now on."""
        work.cached_len += count
        self.stats["tokens"] += count
        full = work.cached_len // self._cache.page_size
        if full > len(work.digests):
            have = len(work.digests)
            work.digests = digests(work.known[: full * self._cache.page_size], self._cache.page_size, work.digests)
            for digest, page in zip(work.digests[have:], work.pages[have:full]):
                self._cache.publish(digest, page)
