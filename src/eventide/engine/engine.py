"""`Engine`: requests come and go while the model runs, any number of them, of any lengths.

    engine = Engine("eventide-tiny")
    engine.add(Request("a", "Once upon a time", SamplingParams(max_new_tokens=40)))
    engine.add(Request("b", "Three plus four is", priority=1))
    for output in engine.run():               or step() by step(), or `async for output in engine`
        print(output.id, output.text)
    engine.cancel("a")

A step is one pass over the weights with room for `token_budget` tokens; `loop` says who gets them. Whoever generates gets one
in every step, so between two tokens of a request lies one step of at most `token_budget` tokens (unless the cache is full and
the request comes last, by priority and arrival). `run` and `async for` ask the device for many steps at once where nothing
needs the host, and give what has come every 0.03 seconds.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import OutOfMemoryError, PromptError, UsageError
from .generation import Generation
from .llm import LLM
from .loop import StepLoop
from .outputs import Piece, TokenLogprob
from .sampling import SamplingParams

__all__ = ["DEFAULT_TOKEN_BUDGET", "Engine", "Output", "Request"]

DEFAULT_TOKEN_BUDGET = 2048


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


class Engine:
    """Serves requests with one model. model: an `LLM`, or what `LLM(...)` takes, with `options` for it. token_budget: tokens of
    one step at most (None: 2,048, or as many as the model's plan was made for). cache_tokens: tokens that the cache holds at
    most, rounded up to pages (None: as many as there is memory for, see `LLM.cache_size`).

    `add` and `cancel` may be called from any thread, and while a step runs; the rest from one thread at a time. `stats` counts
    steps, launches, tokens, preemptions and tokens found in the cache.
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
        self._pool = self.llm._pool
        self._pool.resize(cache_tokens)
        self.token_budget = min(token_budget or DEFAULT_TOKEN_BUDGET, self.llm.limits.max_tokens)
        self._loop = StepLoop(self.llm._runner, self._pool, self.token_budget)
        # whoever drops an engine gives back what it has of the model's cache
        weakref.finalize(self, self._loop.close).atexit = False
        self._live: dict[Hashable, Generation] = {}
        self._names: dict[int, Hashable] = {}
        self._added = 0
        self._lock = threading.Lock()  # of these three
        # what other threads ask for is done between steps: ("add", generation) or ("cancel", generation)
        self._wishes: deque[tuple[str, Generation]] = deque()
        self._cancelled: deque[Output] = deque()

    @property
    def stats(self) -> dict[str, int]:
        return self._loop.stats

    # -- requests

    def add(self, request: Request) -> None:
        """Accepts a request. What is wrong with it is raised here (`PromptError`, `SamplingError`, `UsageError`,
        `OutOfMemoryError`) and concerns no other."""
        if not isinstance(request, Request):
            raise UsageError(f"add takes an eventide.Request, such as Request('a', 'Once upon a time'), got {request!r}")
        try:
            known = request.id in self._live
        except TypeError:
            raise UsageError(f"a request's id must be hashable, such as a number or a string, got {request.id!r}") from None
        if known:
            raise _taken(request.id)
        if isinstance(request.priority, bool) or not isinstance(request.priority, int):
            raise UsageError(f"priority must be an integer (higher ones go first), got {request.priority!r}")
        batch, single = self.llm._prompts(request.prompt)
        if not batch:
            raise PromptError("the prompt is empty; give at least one token")
        if not single:
            raise UsageError(f"request {request.id!r} has several prompts; make a request of each")
        prompt, params = self.llm._requests(batch, request.params)[0]
        if len(prompt) + params.max_new_tokens > self._pool.capacity:
            raise OutOfMemoryError(
                f"request {request.id!r} may come to {len(prompt) + params.max_new_tokens} tokens, and the whole "
                f"cache holds {self._pool.capacity}; lower max_new_tokens, or free some memory"
            )
        with self._lock:
            if request.id in self._live:
                raise _taken(request.id)
            rank = (-request.priority, self._added)
            generation = Generation.of(self._added, params, prompt, rank, self.llm.tokenizer)
            self._added += 1
            self._live[request.id] = generation
            self._names[generation.index] = request.id
            self._wishes.append(("add", generation))

    def cancel(self, id: Hashable) -> None:
        """Ends a request; its last output says so. UsageError for an id that isn't being served."""
        with self._lock:
            generation = self._live.pop(id, None)
            if generation is None:
                raise UsageError(f"no request with the id {id!r} is being served")
            del self._names[generation.index]
            self._wishes.append(("cancel", generation))
            self._cancelled.append(Output(id, [], "", "cancelled"))

    @property
    def num_requests(self) -> int:
        """Requests that wait or run."""
        return len(self._live)

    @property
    def free_pages(self) -> int:
        """Pages of the cache that nobody owns."""
        return self._pool.available

    # -- steps

    def run(self) -> Iterator[Output]:
        """Outputs until nothing is left to do. Requests may be added and cancelled meanwhile."""
        while self._busy:
            yield from self._advance()

    async def __aiter__(self) -> AsyncIterator[Output]:
        """The same without blocking the event loop: steps run in a thread."""
        while self._busy:
            for output in await asyncio.to_thread(self._advance):
                yield output

    def step(self, max_steps: int = 1) -> list[Output]:
        """One step, or up to `max_steps` where nothing needs the host between them."""
        if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
            raise UsageError(f"max_steps must be an integer of at least 1, got {max_steps!r}")
        return self._advance(max_steps)

    def close(self) -> None:
        """Ends all requests and frees the model."""
        self._loop.close()
        self._live.clear()
        self.llm.close()

    @property
    def _busy(self) -> bool:
        return bool(self._live or self._wishes or self._cancelled)

    def _advance(self, *max_steps: int) -> list[Output]:
        while self._wishes:
            wish, generation = self._wishes.popleft()
            if wish == "add":
                self._loop.add(generation)
            elif generation.finish_reason is None:  # else it has ended in the meantime
                self._loop.remove(generation)
        pieces = self._loop.step(*max_steps)
        with self._lock:
            outputs = list(self._cancelled)
            self._cancelled.clear()
            # who has been cancelled meanwhile has no name any more
            return outputs + [self._output(piece) for piece in pieces if piece.index in self._names]

    def _output(self, piece: Piece) -> Output:
        id = self._names[piece.index]
        if piece.finish_reason is not None:
            del self._names[piece.index], self._live[id]
        return Output(id, piece.token_ids, piece.text, piece.finish_reason, piece.logprobs)


def _taken(id: Hashable) -> UsageError:
    return UsageError(f"a request with the id {id!r} is being served; give every request an id of its own")
