"""Slots and pages: none is in two hands but the full ones that are shared, all come back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from eventide.engine.cache import digests
from eventide.engine.pool import Place, Pool
from eventide.errors import UsageError
from eventide.models.decoder import Limits

LIMITS = Limits(max_seqs=3, max_seq_len=64, page_size=16, num_pages=7)


def opened(pool: Pool, num_tokens: int, hashes: list[bytes] | None = None) -> Place | None:
    place = pool.open(hashes or [])
    if place is not None and not pool.reserve(place, num_tokens):
        pool.close(place)
        return None
    return place


def test_a_place() -> None:
    pool = Pool(LIMITS)
    place = opened(pool, 33)
    assert place is not None and len(place.pages) == 3 and 0 not in place.pages
    assert pool.table[place.seq].tolist() == [*place.pages, 0]
    pool.trim(place, 16)
    assert pool.table[place.seq].tolist() == [place.pages[0], 0, 0, 0] and pool.available == 5
    pool.close(place)
    assert not pool.table.any() and pool.available == 6 and pool.free_slots == 3


def test_runs_out_of_pages_and_of_slots() -> None:
    pool = Pool(LIMITS)
    big = opened(pool, 64)
    assert big is not None and opened(pool, 48) is None
    assert opened(pool, 16) is not None and opened(pool, 16) is not None
    assert pool.open() is None
    with pytest.raises(UsageError, match="open requests or streams hold parts; end them first"):
        pool.resize(32)
    pool.close(big)
    assert opened(pool, 64) is not None


def test_a_size_by_hand() -> None:
    pool = Pool(LIMITS)
    assert pool.capacity == 96
    pool.resize(33)
    assert pool.capacity == 48 and pool.available == 3
    pool.resize(None)
    assert pool.capacity == 96


def test_what_is_left_behind_is_bounded_until_somebody_asks_for_more() -> None:
    """Memory of the CPU is mapped when it is first written to: a model used now and then shouldn't grow for ever."""
    limits = Limits(max_seqs=2, max_seq_len=32, page_size=16, num_pages=41)

    def used(pool: Pool) -> set[int]:
        seen = set()
        for i in range(30):
            hashes = digests(list(range(i, i + 16)), 16)
            place = pool.open(hashes)
            assert place is not None and pool.reserve(place, 17)
            seen |= set(place.pages)
            pool.publish(place, hashes)
            pool.close(place)
        return seen

    pool = Pool(limits)
    assert len(used(pool)) == 4 * 2 + 2
    pool.resize(None)
    assert len(used(pool)) > 30


def test_random_use_shares_nothing_but_full_pages() -> None:
    """What is written to, a sequence's page behind the shared ones, stands in the table once: nothing needs copying."""
    pool, rng = Pool(LIMITS), np.random.default_rng(0)
    held: list[tuple[Place, list[int]]] = []
    shared = 0
    for _ in range(2000):
        if held and rng.random() < 0.5:
            pool.close(held.pop(int(rng.integers(len(held))))[0])
        else:
            tokens = [int(rng.integers(0, 2))] * int(rng.integers(1, 65))
            hashes = digests(tokens, 16)
            place = pool.open(hashes[: (len(tokens) - 1) // 16])
            if place is not None and not pool.reserve(place, len(tokens)):
                pool.close(place)
            elif place is not None:
                held.append((place, tokens))
                pool.publish(place, hashes)
        owners = Counter(page for place, _ in held for page in place.pages)
        assert 0 not in owners and len({place.seq for place, _ in held}) == len(held)
        assert pool.available == 6 - len(owners)
        contents: dict[int, tuple[int, ...]] = {}
        for place, tokens in held:
            assert pool.table[place.seq].tolist() == place.pages + [0] * (4 - len(place.pages))
            for i, page in enumerate(place.pages):
                if owners[page] > 1:
                    shared += 1
                    full = tuple(tokens[: 16 * (i + 1)])
                    assert len(full) == 16 * (i + 1) and contents.setdefault(page, full) == full
            if len(tokens) % 16:
                assert owners[place.pages[-1]] == 1, "the page that its next token goes to"
    assert shared > 100
