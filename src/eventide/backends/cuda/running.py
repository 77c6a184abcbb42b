"""The steps of one size of a launch, given out while it runs.

    for found in kernel.loop(symbols, inputs, 3000, stacked={"pos"}, keep={"next_token"}, stop=Stop("next_token", [[eos]])):
        found["next_token"]        int32 [steps that have ended since the last turn, rows]

A launch of 3,000 steps with interval_s 0.03 and 1 ms a step is some hundred turns of thirty steps. A stop rule is looked at
after every turn's poll, so the launch goes on for a step or two behind it, which are not given. Whoever leaves the loop
early closes it (`close`, or the end of the iterator's life), and the launch ends after the step that it is in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

import numpy as np

from ...errors import EventideError
from ..base import Array, Outputs
from ..cpu import Stop

__all__ = ["RunningLoop"]


class RunningLoop(Iterator[Outputs]):
    """An iterator over parts of a loop's outputs, [steps, ...]. `count`: steps given or ready to be.

    `progress` runs the launch and gives steps done; `take(first, last, name)` copies outputs of steps (one, or those that
    are kept); `end` asks the launch to end.
    """

    def __init__(
        self,
        progress: Generator[int, None, None],
        take: Callable[[int, int, str], Outputs],
        end: Callable[[], None],
        stop: Stop | None,
        interval_s: float,
    ) -> None:
        self._progress, self._take, self._end = progress, take, end
        self._stop, self._interval = stop, interval_s
        self._tokens = None if stop is None else np.atleast_2d(np.asarray(stop.tokens, np.int64))
        self._met = np.zeros(0 if self._tokens is None else len(self._tokens), bool)
        self._given, self._cut, self.running = 0, False, True
        self._rest: Outputs | None = None
        self._problem: EventideError | None = None
        self.count = 0

    def __next__(self) -> Outputs:
        begin = time.perf_counter()
        while self.running and not self._cut:
            done = next(self._progress, None)
            if done is None:
                self.running = False
                break
            self._advance(done)
            if self.count > self._given and time.perf_counter() - begin >= self._interval:
                break
        if self._cut:
            self.finish()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        if self.count == self._given:
            raise StopIteration
        found, self._rest = self._rest or self._take(self._given, self.count, ""), None
        self._given = self.count
        return found

    def end(self) -> None:
        """Gives nothing beyond the steps that have been given, and ends the launch."""
        self.count, self._cut, self._rest = self._given, True, None
        self.finish()

    def finish(self) -> Outputs | None:
        """Ends the launch after the step that it is in. What it made till then, which is returned, is given as before."""
        if not self.running:
            return self._rest
        self.running = False
        self._end()
        try:
            for done in self._progress:
                self._advance(done)
        except EventideError as e:
            self._problem = e
        # the next launch writes where these stand
        if self.count > self._given:
            self._rest = self._take(self._given, self.count, "")
        return self._rest

    def close(self) -> None:
        """Ends the launch; nothing more is given."""
        self.running = False
        self.count, self._rest = self._given, None
        self._progress.close()

    def _advance(self, done: int) -> None:
        if self._cut:
            return
        first, self.count = self.count, done
        if self._stop is None or self._tokens is None:
            return
        drawn: Array = np.asarray(self._take(first, done, self._stop.output)[self._stop.output])
        for k, row in enumerate(drawn):
            np.logical_or(self._met, ((row[:, None] == self._tokens) & (self._tokens >= 0)).any(1), out=self._met)
            if self._met.all() if self._stop.when == "all" else self._met.any():
                self.count, self._cut = first + k + 1, True
                return
