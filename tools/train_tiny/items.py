"""The units of the generated text, and the split that keeps some of them out of training.

An `Exchange` is one question and the one reply that the generator holds right, so that accuracy is exact match. Its
`key` names the problem and not the wording: `3 + 48`, in whatever sentence, is `sum:3,48` (either order), and a problem
whose key hashes into the held-out part is never generated for training, in any wording. A key of `None` marks what is
always trained on: small talk, tables of general facts, sums of two single digits.

    Exchange("sum", "What is 3 + 48?", "3 + 48 = 51.", "sum:3,48")
    Story(text="Once upon a time …", facts=(Exchange("story_qa", "Where did Mia go?", "Mia went to the park.", …),), …)
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

Split = Literal["train", "heldout"]

# one problem in twenty is held out
HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class Exchange:
    """One user message and its reply; `task` names the row of the model card it is counted in."""

    task: str
    user: str
    reply: str
    key: str | None = None


@dataclass(frozen=True)
class Story:
    """A story, what can be asked about it, and the words by which a user could have requested it."""

    text: str
    facts: tuple[Exchange, ...]
    key: str
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """One training document: plain text, or a chat (role, content) of whole turns; `keys` of everything in it."""

    text: str | None
    turns: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]


def held_out(key: str | None) -> bool:
    """Whether the problem named by `key` belongs to the held-out part."""
    if key is None:
        return False
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "little") % HELD_OUT_ONE_IN == 0


def in_split(key: str | None, split: Split) -> bool:
    """Whether a problem may appear in `split`; what has no key appears in training only."""
    return held_out(key) == (split == "heldout")
