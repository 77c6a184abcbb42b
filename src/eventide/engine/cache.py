"""Pages of keys and values: who has them, and which prompts begin alike.

A page holds `page_size` positions of one sequence. A page that is full is never written again, so sequences that begin with
the same tokens share it. What is in a full page is known by a digest of its tokens and of all before them, and stays findable
after its last owner has gone, until its memory is wanted.

    cache = PageCache(num_pages=4, page_size=2)
    a = cache.take(2)                       [0, 1], or None where fewer are left
    cache.publish(digest, page)             page 0 is full: it holds tokens 5 6 (and nothing stands before them)
    cache.release(a)                        page 1 is free again; page 0 is kept as long as nobody needs room
    cache.find(digests([5, 6, 7, 8], 2))    [0]: the first two tokens needn't be computed again
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["PageCache", "digests"]


def digests(tokens: Sequence[int], page_size: int, known: Sequence[bytes] = ()) -> list[bytes]:
    """A digest for every full page of `tokens`, each depending on all the tokens before; those in `known` are taken over."""
    found = list(known)
    for start in range(len(found) * page_size, len(tokens) - page_size + 1, page_size):
        page = np.asarray(tokens[start : start + page_size], np.int32).tobytes()
        found.append(hashlib.blake2b((found[-1] if found else b"") + page, digest_size=16).digest())
    return found


class PageCache:
    """Pages `first` to `num_pages` - 1 with counts of their owners. At most `keep` full pages stay findable without one."""

    def __init__(self, num_pages: int, page_size: int, first: int = 0, keep: int | None = None) -> None:
        self.num_pages, self.page_size = num_pages - first, page_size
        self._keep = num_pages if keep is None else keep
        self._free = list(range(first, num_pages))[::-1]  # low numbers first: memory that is never touched stays unmapped
        self._owners = [0] * num_pages
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # full pages without an owner, longest unused first

    @property
    def available(self) -> int:
        """Pages that can be taken now."""
        return len(self._free) + len(self._kept)

    def take(self, count: int) -> list[int] | None:
        """`count` pages for one owner, or None and nothing changed."""
        if count > self.available:
            return None
        return [self._one() for _ in range(count)]

    def _one(self) -> int:
        if not self._free:
            self._forget()
        page = self._free.pop()
        self._owners[page] = 1
        return page

    def _forget(self) -> None:
        """The page that nobody has used for longest is free."""
        page, _ = self._kept.popitem(last=False)
        del self._page_of[self._digest_of.pop(page)]
        self._free.append(page)

    def find(self, wanted: Iterable[bytes]) -> list[int]:
        """The longest run of pages, from the first on, that hold this; each has one owner more from now on."""
        pages = []
        for digest in wanted:
            page = self._page_of.get(digest)
            if page is None:
                break
            self._kept.pop(page, None)
            self._owners[page] += 1
            pages.append(page)
        return pages

    def publish(self, digest: bytes, page: int) -> None:
        """Says what a full page of an owner holds. The first page to hold something is the one that is found."""
        if digest not in self._page_of and page not in self._digest_of:
            self._page_of[digest], self._digest_of[page] = page, digest

    def release(self, pages: Iterable[int]) -> None:
        """One owner less for each page."""
        for page in pages:
            self._owners[page] -= 1
            if self._owners[page] == 0:
                if page in self._digest_of:
                    self._kept[page] = None
                else:
                    self._free.append(page)
        while len(self._kept) > self._keep:
            self._forget()
