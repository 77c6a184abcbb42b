"""Slots and pages: none is in two hands, all come back."""

from __future__ import annotations

import numpy as np

from eventide.engine.pages import PagePool
from eventide.models.decoder import Limits

LIMITS = Limits(max_seqs=3, max_seq_len=64, page_size=16, num_pages=6)


def test_lease() -> None:
    pool = PagePool(LIMITS)
    lease = pool.take(33)
    assert lease is not None and len(lease.pages) == 3
    assert pool.block_table[lease.seq].tolist() == [*lease.pages, 0]
    pool.give_back(lease)
    assert not pool.block_table.any()


def test_runs_out_of_pages_and_of_slots() -> None:
    pool = PagePool(LIMITS)
    big = pool.take(64)
    assert big is not None and pool.take(48) is None
    assert pool.take(16) is not None and pool.take(16) is not None
    assert pool.take(1) is None
    pool.give_back(big)
    assert pool.take(64) is not None


def test_random_use_never_shares() -> None:
    pool, rng, held = PagePool(LIMITS), np.random.default_rng(0), []
    for _ in range(500):
        if held and rng.random() < 0.5:
            pool.give_back(held.pop(int(rng.integers(len(held)))))
        elif (lease := pool.take(int(rng.integers(1, 65)))) is not None:
            held.append(lease)
        pages = [page for lease in held for page in lease.pages]
        seqs = [lease.seq for lease in held]
        assert len(set(pages)) == len(pages) and len(set(seqs)) == len(seqs)
        assert all(tuple(pool.block_table[h.seq, : len(h.pages)]) == h.pages for h in held)
