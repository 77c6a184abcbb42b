"""A loaded model's cache: slots for sequences, the block table, and the pages (`cache.PageCache`).

    pool = Pool(limits)
    place = pool.open(hashes)              a slot, and the pages that already hold the beginning; None where no slot is free
    pool.reserve(place, 100)               pages for 100 tokens in all; False, and nothing changed, where too few are free
    pool.publish(place, hashes)            its first len(hashes) pages are full and hold this
    pool.trim(place, 70)                   pages beyond those of 70 tokens are free again
    pool.close(place)

Page 0 is never given out: entries of the block table that nobody uses hold it. So the page that a token is written to stands
in the table once, which the decode program relies on; pages that are shared are full, and only read.

No page is ever copied. A sequence shares full pages alone, and its first token that is not in them starts a page of its own;
so nobody ever writes to a page that another reads, and there is nothing to copy on write. What that costs is at most
page_size - 1 tokens of a common beginning, computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..models.decoder import Limits
from .cache import PageCache

__all__ = ["Place", "Pool"]

KEPT = 4  # contexts' worth of pages that stay findable where nobody has asked for more


@dataclass(eq=False)
class Place:
    """A sequence's slot, and its pages in order of position."""

    seq: int
    pages: list[int]


class Pool:
    """Who has which slot and which pages; `table` is the block table, int32 `[max_seqs, pages_per_seq]`, and `version` counts
    its changes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.table: npt.NDArray[np.int32] = np.zeros((limits.max_seqs, limits.pages_per_seq), np.int32)
        # taken from the end, so low numbers are used first
        self._slots = list(range(limits.max_seqs))[::-1]
        self.version = 0  # of the table
        # memory that is never touched stays unmapped, so what a generation leaves behind is bounded
        self._cache = PageCache(limits.pages, limits.page_size, first=1, keep=KEPT * limits.pages_per_seq)

    @property
    def capacity(self) -> int:
        """Tokens that all pages together hold."""
        return self._cache.num_pages * self.limits.page_size

    @property
    def available(self) -> int:
        """Pages that nobody owns."""
        return self._cache.available

    @property
    def free_slots(self) -> int:
        return len(self._slots)

    def resize(self, num_tokens: int | None) -> None:
        """Holds `num_tokens` from now on, rounded up to pages (None: as many as there is memory for), all of them findable
        for as long as nobody wants their memory; forgets what it held. UsageError while anybody has a place."""
        if len(self._slots) < self.limits.max_seqs:
            raise UsageError("an Engine takes the model's cache over, and open requests or streams hold parts; end them first")
        most = self.limits.pages - 1
        pages = most if num_tokens is None else min(most, -(-num_tokens // self.limits.page_size))
        self._cache = PageCache(pages + 1, self.limits.page_size, first=1)

    def open(self, hashes: Sequence[bytes] = ()) -> Place | None:
        if not self._slots:
            return None
        place = Place(self._slots.pop(), self._cache.find(hashes))
        self.version += bool(place.pages)
        self.table[place.seq, : len(place.pages)] = place.pages
        return place

    def missing(self, place: Place, num_tokens: int) -> int:
        """Pages that the place lacks for `num_tokens`."""
        return max(0, -(-num_tokens // self.limits.page_size) - len(place.pages))

    def reserve(self, place: Place, num_tokens: int) -> bool:
        pages = self._cache.take(self.missing(place, num_tokens))
        if pages is None:
            return False
        self.table[place.seq, len(place.pages) : len(place.pages) + len(pages)] = pages
        self.version += bool(pages)
        place.pages += pages
        return True

    def publish(self, place: Place, hashes: Sequence[bytes], first: int = 0) -> None:
        """`hashes` from the one of page `first` on."""
        for digest, page in zip(hashes, place.pages[first:]):
            self._cache.publish(digest, page)

    def trim(self, place: Place, num_tokens: int) -> None:
        kept = -(-num_tokens // self.limits.page_size)
        self.version += kept < len(place.pages)
        self._cache.release(reversed(place.pages[kept:]))
        self.table[place.seq, kept:] = 0
        del place.pages[kept:]

    def close(self, place: Place) -> None:
        self.trim(place, 0)
        self._slots.append(place.seq)
