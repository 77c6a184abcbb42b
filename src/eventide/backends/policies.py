"""Interleaving policies of the interpreter: who takes the next turn, and when a task reads its operands."""

from __future__ import annotations

import random
from typing import Protocol


class Policy(Protocol):
    def pick(self, movable: list[int], running: list[bool]) -> int:
        """The worker that takes the next turn; `running[i]` says whether `movable[i]` is inside a task."""
        ...

    def reads_early(self) -> bool:
        """Whether the task that starts now copies its operands at once, rather than when it ends."""
        ...


class Random:
    """Every movable worker is equally likely."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def pick(self, movable: list[int], running: list[bool]) -> int:
        return self.rng.choice(movable)

    def reads_early(self) -> bool:
        return self.rng.random() < 0.5


class Adversarial(Random):
    """Runs some workers as far ahead as they get while others sleep inside their tasks; the roles change at random.

    Half of the workers are slow: a slow worker moves only when no fast one can. Fast workers read late and slow ones
    early or late at random, so both kinds of race (a value overwritten too early, one read too early) come out.
    """

    def __init__(self, seed: int, change: float = 0.02) -> None:
        super().__init__(seed)
        self.change = change
        self.slow: dict[int, bool] = {}

    def pick(self, movable: list[int], running: list[bool]) -> int:
        if self.rng.random() < self.change:
            self.slow = {}
        for w in movable:
            self.slow.setdefault(w, self.rng.random() < 0.5)
        fast = [w for w in movable if not self.slow[w]]
        return self.rng.choice(fast or movable)


class InOrder:
    """The lowest worker first, each task to its end: the plainest order."""

    def pick(self, movable: list[int], running: list[bool]) -> int:
        return next((w for w, r in zip(movable, running) if r), movable[0])

    def reads_early(self) -> bool:
        return True
