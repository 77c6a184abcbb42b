"""The step loop: who advances in the next step, by how much, and with which pages.

    loop = StepLoop(runner, pool, token_budget=512)
    loop.add(generation)                      it waits
    while loop.busy:
        for piece in loop.step(): ...         whoever has drawn tokens

`LLM` makes a loop for each call, `Engine` one for good; all loops of a model share its pool. A step has room for
`token_budget` tokens, which go, in this order, to whoever generates (one each), to prompts that have been begun, and to those
that wait: first the lower rank. So between two tokens of a sequence lies one step of at most `token_budget` tokens, as long
as it keeps its place.

    budget 8, page 4      step 1          step 2                       step 3
    a: prompt of 5        5 tokens, 1st   2nd                          3rd
    b: prompt of 9        3 tokens        6 tokens, 1st                2nd

The device is asked for as many steps at once as need nothing of the host. Where a prompt is being read that is one. Where
everybody generates it is the steps until the first of them has all its tokens, as far as pages are free: they are taken ahead
and the rest given back afterwards, a drawn end-of-sequence token ends the steps on the device, and whoever is added or
removed meanwhile ends them early. Those that wait have found no slot or no pages, so nothing can admit them sooner.

What the host does for a step overlaps the device's work where the runner says so (`overlaps`). While a step is under way that
reads prompts, the next one is put together, whoever waits let in where there is room, and queued on the device behind it: what
it reads of the histories the device has drawn by then. The lengths at which sequences end are known ahead; one that ends by a
token has drawn one more in vain, which nobody sees.

When pages run out, the sequence that comes last gives up its own and waits again with what it has drawn; its keys and values
are computed anew when its turn comes. Tokens don't change by that, nor by who else is in the step: a row's arithmetic knows
nothing of the others, and draws are keyed by seed and position.
"""

from __future__ import annotations

from bisect import insort
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from .cache import digests
from .generation import SAMPLED, Generation
from .outputs import Piece
from .pool import Pool
from .runner import Outputs, Runner, Running
from .steps import Chunk, balanced, make_step

__all__ = ["PART_SECONDS", "StepLoop"]

PART_SECONDS = 0.03  # a reader sees new text about this often, and stop strings, which only the host sees, are met
_MANY = 1 << 30


@dataclass
class _Flight:
    """Steps that the device was asked for: (who, tokens a step, whether it draws), in the order of the rows."""

    members: list[tuple[Generation, int, bool]]
    parts: Running
    left: int  # steps
    ends_early: bool = True  # whether a stop token or `parts.end` may cut it short
    gone: list[Generation] = field(default_factory=list)  # removed since; their pages are written to until the end

    def __contains__(self, g: Generation) -> bool:
        return any(one is g for one, _, _ in self.members)


class StepLoop:
    """Runs generations to their ends. part_s: seconds of decoding after which `step` returns. One thread at a time."""

    def __init__(self, runner: Runner, pool: Pool, token_budget: int, part_s: float = PART_SECONDS) -> None:
        self._runner, self._pool, self._part_s = runner, pool, part_s
        self.token_budget = token_budget
        self.waiting: list[Generation] = []
        self.running: list[Generation] = []
        self._flight: _Flight | None = None
        self._following: _Flight | None = None  # queued behind that one
        self._called = False  # somebody came while there was one
        # of the step after the one under way, where that isn't queued: (its chunks, version of the table in it, itself)
        self._ahead: tuple[list[Chunk], int, Any] | None = None
        self.stats = {"steps": 0, "launches": 0, "tokens": 0, "preemptions": 0, "tokens_from_cache": 0}

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, generation: Generation) -> None:
        insort(self.waiting, generation, key=lambda g: g.rank)
        if self._flight is not None:
            self._flight.parts.end()
        self._called = self._following is not None

    def remove(self, generation: Generation) -> None:
        """Ends one that waits or runs."""
        if generation.place is None:
            self.waiting.remove(generation)
        else:
            self._leave(generation)

    def close(self) -> None:
        """Ends all and gives back what they had."""
        self._land_all()
        for generation in list(self.running):
            self._leave(generation)
        self.waiting.clear()

    # -- one step, or several

    def step(self, max_steps: int = _MANY) -> list[Piece]:
        """Advances, by at most `max_steps` steps; what that made certain for each that has drawn a token."""
        if self._flight is not None and self._flight.left > max_steps:
            self._flight.parts.end()
        try:
            flight, outputs = self._next_part(max_steps)
            if flight is None:
                return []
            drew = self._note(flight, outputs)
        except BaseException:
            # Ctrl-C, or a device that failed: whoever goes on begins where the last part ended
            with suppress(Exception):
                self._land_all()
            raise
        ended = [g for g in drew if g.finish_reason is not None]
        if flight.left == 0 or ended:
            self._land()
            for generation in ended:
                self._leave(generation)
            if self._runner.overlaps and max_steps > 1 and self._flight is None:
                # text is made of these tokens while the device goes on
                self._flight = self._launch(max_steps)
        pieces = []
        for generation in drew:
            was_running = generation.finish_reason is None
            pieces.append(generation.piece())
            if was_running and generation.finish_reason is not None and generation.place is not None:
                self._leave(generation)  # a stop string
        return pieces

    def _next_part(self, max_steps: int) -> tuple[_Flight | None, Outputs]:
        while True:
            if self._flight is None:
                self._flight = self._launch(max_steps)
            if self._flight is None:
                return None, {}
            if self._runner.overlaps:
                self._look_ahead(self._flight, max_steps)
            outputs = next(self._flight.parts, None)
            if outputs is not None:
                return self._flight, outputs
            self._land()

    def _note(self, flight: _Flight, outputs: Outputs) -> list[Generation]:
        """Takes account of a part; those that have drawn."""
        steps, row, drew = len(outputs["next_token"]), 0, []
        for generation, count, draws in flight.members:
            if generation not in flight.gone:
                if draws:
                    generation.take(outputs, row)
                    drew.append(generation)
                self._advance(generation, count * steps)
            row += draws
        flight.left -= steps
        self.stats["steps"] += steps
        return drew

    def _land(self) -> None:
        """Ends what the device is doing for this loop, but for what is queued behind it."""
        flight, self._flight, self._following = self._flight, self._following, None
        if flight is None:
            return
        try:
            flight.parts.close()
        finally:
            # who is in the next one as well has pages for it, and keeps them until its end
            ended = [g for g, _, _ in flight.members if self._flight is None or g not in self._flight]
            for generation in ended:
                if generation in flight.gone:
                    self._give_up(generation)
                elif generation.place is not None:
                    self._pool.trim(generation.place, len(generation.known))
        if self._flight is not None and self._called:
            self._flight.parts.end()
        self._called = False

    def _land_all(self) -> None:
        while self._flight is not None:
            self._land()

    def _launch(self, max_steps: int) -> _Flight | None:
        chosen = self._choose()
        if not chosen:
            if self.waiting:
                raise UsageError(
                    "every slot or page is held by a stream that isn't finished; read it to its end, or close() it"
                )
            return None
        decoding = all(count == 1 == g.unread for g, count in chosen)
        schedule = self._runner.plan.schedule
        if decoding and schedule is not None and schedule.num_workers <= len(chosen):
            order = balanced([g.cached_len for g, _ in chosen], schedule.num_workers)
            chosen = [chosen[i] for i in order]
        chunks = [g.chunk(count) for g, count in chosen]
        members = [(g, count, chunk.sample) for (g, count), chunk in zip(chosen, chunks, strict=True)]
        self.stats["launches"] += 1
        if not decoding:
            ahead, self._ahead = self._ahead, None
            prepared = ahead[2] if ahead and ahead[:2] == (chunks, self._pool.version) else self._prepare(chunks)
            return _Flight(members, self._runner.start(prepared, SAMPLED), 1, False)
        return self._decode([(g, g.cached_len, g.left) for g, _ in chosen], members, chunks, max_steps)

    def _prepare(self, chunks: list[Chunk]) -> Any:
        return self._runner.prepare(make_step(self._pool.limits, chunks, self._runner.tile_queries, self._pool.table))

    def _decode(
        self,
        works: list[tuple[Generation, int, int]],
        members: list[tuple[Generation, int, bool]],
        chunks: list[Chunk],
        max_steps: int,
    ) -> _Flight:
        """Steps in which all `works`, (who, tokens before, tokens yet to draw), draw a token."""
        steps = self._reserve_ahead(works, max_steps)
        every = [g.params for g, _, _ in works]
        keep = SAMPLED if any(params.wants_logprobs for params in every) else SAMPLED[:1]
        part_s = PART_SECONDS if any(params.stop for params in every) else self._part_s
        stops = [params.eos_token_ids for params in every]
        return _Flight(members, self._runner.decode(chunks, steps, self._pool.table, stops, keep, part_s), steps)

    def _look_ahead(self, flight: _Flight, max_steps: int) -> None:
        """While a step is under way: queues the one that follows, or prepares it if only one was asked for."""
        if flight.ends_early or self._following is not None:
            return
        after = {id(g): (g.cached_len + count, len(g.known) + draws, g.left - draws) for g, count, draws in flight.members}

        def shared_out() -> tuple[list[tuple[Generation, int, int, int, int]], int]:
            """(who, tokens, tokens before, tokens known, tokens yet to draw) of the step after, and what is left of its budget."""
            states = [(g, *after.get(id(g), (g.cached_len, len(g.known), g.left))) for g in self.running]
            budget, chosen = self.token_budget, []
            for generation, cached, known, left in sorted(states, key=lambda s: (s[2] - s[1] > 1, s[0].rank)):
                count = min(known - cached, budget)
                if count and left > 0:
                    chosen.append((generation, count, cached, known, left))
                    budget -= count
            return chosen, budget

        chosen, budget = shared_out()
        let_in = False
        while budget and self.waiting and len(self.running) < self.token_budget and self._begin(self.waiting[0]):
            budget -= min(self.running[-1].unread, budget)
            let_in = True
        if let_in:
            chosen, _ = shared_out()
        chunks = [g.chunk(count, cached, known) for g, count, cached, known, _ in chosen]
        members = [(g, count, chunk.sample) for (g, count, *_), chunk in zip(chosen, chunks, strict=True)]
        # it can't be made without the pages that it writes to; where they are too few somebody will be pushed out
        pool, ends = self._pool, [(g.place, cached + count) for g, count, cached, *_ in chosen if g.place is not None]
        if not chunks or sum(pool.missing(*end) for end in ends) > pool.available:
            return
        reading = any(chunk.count > 1 or not chunk.sample for chunk in chunks)
        if max_steps > 1:
            for end in ends:
                pool.reserve(*end)
            self.stats["launches"] += 1
            if reading:
                self._following = _Flight(members, self._runner.start(self._prepare(chunks), SAMPLED), 1, False)
            else:
                works = [(g, cached, left) for g, _, cached, _, left in chosen]
                self._following = self._decode(works, members, chunks, max_steps)
        elif reading and (self._ahead is None or self._ahead[:2] != (chunks, pool.version)):
            for end in ends:
                pool.reserve(*end)
            self._ahead = chunks, pool.version, self._prepare(chunks)

    def _reserve_ahead(self, works: list[tuple[Generation, int, int]], max_steps: int) -> int:
        """Steps in which all of `works` can draw a token, with pages for them."""
        pool = self._pool

        def missing(steps: int) -> int:
            return sum(pool.missing(g.place, cached + steps) for g, cached, _ in works if g.place)

        low, high = 1, min(max_steps, *(left for _, _, left in works))
        while low < high:  # the most steps that pages suffice for
            middle = (low + high + 1) // 2
            low, high = (middle, high) if missing(middle) <= pool.available else (low, middle - 1)
        for generation, cached, _ in works:
            assert generation.place is not None
            pool.reserve(generation.place, cached + low)
        return low

    # -- who is next

    def _choose(self) -> list[tuple[Generation, int]]:
        """Who advances by how many tokens, with pages for them."""
        budget, chosen = self.token_budget, []
        # generating first, then prompts; within each by rank
        for generation in sorted(self.running, key=lambda g: (g.unread > 1, g.rank)):
            count = min(generation.unread, budget)
            if generation.place is not None and count and self._grow(generation, count):
                chosen.append((generation, count))
                budget -= count
        while budget and self.waiting and len(self.running) < self.token_budget:
            generation = self.waiting[0]
            if not self._begin(generation):
                break
            count = min(generation.unread, budget)
            chosen.append((generation, count))
            budget -= count
        # a sequence chosen early may have been pushed out by a later one of a lower rank
        return [(g, count) for g, count in chosen if g.place is not None]

    def _begin(self, generation: Generation) -> bool:
        """A slot and pages for all that is known of it, those of its beginning found in the cache where they are; the last
        token is always computed. False: there is no room."""
        page, pool = self._pool.limits.page_size, self._pool
        generation.hashes = digests(generation.known, page, generation.hashes)
        place = pool.open(generation.hashes[: (len(generation.known) - 1) // page])
        if place is None:
            return False
        found = len(place.pages)
        # a page for each that runs is left free, or the first of them to need one would push this one out again
        room = pool.available - len(self.running)
        if pool.missing(place, len(generation.known)) > (room if self.running else pool.available):
            pool.close(place)
            return False
        pool.reserve(place, len(generation.known))
        generation.place, generation.cached_len, generation.num_published = place, found * page, found
        generation.read_len = len(generation.known)
        self._runner.write_tokens(place.seq, generation.known)
        self.stats["tokens_from_cache"] += generation.cached_len
        self.waiting.pop(0)
        self.running.append(generation)
        return True

    def _grow(self, generation: Generation, count: int) -> bool:
        """Pages for `count` more tokens, if need be from those that come last. False: it was itself the last, and waits."""
        assert generation.place is not None
        while not self._pool.reserve(generation.place, generation.cached_len + count):
            last = max(self.running, key=lambda g: g.rank)
            self.running.remove(last)
            self._give_up(last)
            insort(self.waiting, last, key=lambda g: g.rank)
            self.stats["preemptions"] += 1
            if last is generation:
                return False
        return True

    def _advance(self, generation: Generation, count: int) -> None:
        """`count` more tokens have keys and values; pages that are full can be shared from now on."""
        generation.cached_len += count
        self.stats["tokens"] += count
        page, done = self._pool.limits.page_size, generation.num_published
        # where a decode step's bits are not those of a reading step, what others find is what reading gives
        full = (generation.cached_len if self._runner.exact else min(generation.cached_len, generation.read_len)) // page
        if full > done and generation.place is not None:
            generation.hashes = digests(generation.known[: full * page], page, generation.hashes)
            self._pool.publish(generation.place, generation.hashes[done:full], done)
            generation.num_published = full

    def _leave(self, generation: Generation) -> None:
        self.running.remove(generation)
        flights = [f for f in (self._flight, self._following) if f is not None and generation in f]
        for flight in flights:
            flight.gone.append(generation)
            flight.parts.end()
        if not flights:
            self._give_up(generation)
        elif not self.running:
            self._land_all()

    def _give_up(self, generation: Generation) -> None:
        """Gives back slot and pages; what was drawn stays."""
        if generation.place is not None:
            self._pool.close(generation.place)
        generation.place, generation.cached_len, generation.num_published = None, 0, 0
