"""Who owns which sequence slot and which cache pages.

    pool = PagePool(limits)
    lease = pool.take(num_tokens=100)      a slot and ceil(100 / page_size) pages, or None when there is no room
    pool.block_table[lease.seq]            the pages, in order of position
    pool.give_back(lease)

A request takes all the pages that it may come to need before it starts, so that it can always finish.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..models.decoder import Limits

__all__ = ["Lease", "PagePool"]


@dataclass(frozen=True)
class Lease:
    """Sequence slot `seq` and its pages."""

    seq: int
    pages: tuple[int, ...]


class PagePool:
    """Free slots and pages, and the block table int32 `[max_seqs, pages_per_seq]` that steps are given.

    Entries that no lease covers hold page 0: no position that a step touches leads there.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.block_table: npt.NDArray[np.int32] = np.zeros((limits.max_seqs, limits.pages_per_seq), np.int32)
        # taken from the end, so low numbers are used first and memory that is never touched stays unmapped
        self._seqs = list(range(limits.max_seqs))[::-1]
        self._pages = list(range(limits.pages))[::-1]

    def take(self, num_tokens: int) -> Lease | None:
        """Room for a sequence of `num_tokens`, or None until something is given back."""
        num_pages = -(-num_tokens // self.limits.page_size)
        if not self._seqs or num_pages > len(self._pages):
            return None
        lease = Lease(self._seqs.pop(), tuple(self._pages.pop() for _ in range(num_pages)))
        self.block_table[lease.seq, :num_pages] = lease.pages
        return lease

    def give_back(self, lease: Lease) -> None:
        self.block_table[lease.seq] = 0
        self._seqs.append(lease.seq)
        self._pages.extend(reversed(lease.pages))
