"""Sizes of steps and caches for a model and the memory at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

import eventide
from eventide.engine.limits import CACHE_SHARE, DEFAULT_CONTEXT, choose_limits
from eventide.errors import OutOfMemoryError, UsageError
from eventide.models.config import ModelConfig
from eventide.models.decoder import cache_bytes
from eventide.models.hub import resolve
from eventide.models.registry import load_config

CONFIG: ModelConfig = replace(load_config(resolve("eventide-tiny")), max_position_embeddings=40960)
PAGE = 64 * 1536  # bytes: 64 positions of 2 · 6 layers · 64 values of two bytes


def test_defaults() -> None:
    limits = choose_limits(CONFIG, "bfloat16", None)
    assert limits.max_seq_len == DEFAULT_CONTEXT and limits.max_seqs == 64
    assert limits.pages == 64 * DEFAULT_CONTEXT // 64 + 1, "and page 0, which nobody gets"
    assert choose_limits(replace(CONFIG, max_position_embeddings=512), "bfloat16", None).max_seq_len == 512


def test_pages_follow_memory() -> None:
    limits = choose_limits(CONFIG, "bfloat16", None, available=10**9, weight_bytes=10**8)
    room = int(9 * 10**8 * CACHE_SHARE) // PAGE
    assert 0.87 * room < limits.pages <= room
    # the same plan although a little memory has gone
    assert limits == choose_limits(CONFIG, "bfloat16", None, available=10**9 - 10**6, weight_bytes=10**8)
    assert cache_bytes(CONFIG, limits, 2) <= 9 * 10**8
    # a context that nobody asked for shrinks to what fits
    small = choose_limits(CONFIG, "bfloat16", None, available=40 * PAGE)
    assert small.max_seq_len == 30 * 64 and small.pages == 31


@pytest.mark.parametrize("context", [0, -3, 40961, True])
def test_context_out_of_range(context: int) -> None:
    with pytest.raises(UsageError, match=r"max_seq_len must be from 1 to 40960 \(max_position_embeddings"):
        choose_limits(CONFIG, "bfloat16", context)


def test_not_enough_memory() -> None:
    with pytest.raises(OutOfMemoryError, match=r"sequence of 4096 tokens need 6\.0 MiB of memory, and 819\.2 KiB are left"):
        choose_limits(CONFIG, "bfloat16", 4096, available=2**20)
    with pytest.raises(OutOfMemoryError, match="sequence of 256 tokens"):
        choose_limits(CONFIG, "bfloat16", None, available=2**18)


def test_the_size_of_the_cache_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "60MiB")
    with eventide.LLM("eventide-tiny", device="cpu", num_threads=1) as llm:
        size = llm.cache_size
        assert size.available_bytes == 60 << 20 and size.num_tokens == llm._pool.capacity
        assert size.num_bytes == size.num_tokens // 64 * PAGE < CACHE_SHARE * ((60 << 20) - size.weight_bytes)
        assert str(size).startswith(f"a cache for {size.num_tokens:,} tokens ({size.num_tokens // 64} pages of 64) in ")
        assert "of 60.0 MiB free and " in str(size) and str(size).endswith("MiB of weights")
        eventide.Engine(llm, cache_tokens=100)
        assert llm.cache_size.num_tokens == 128 and llm.cache_size.num_bytes == 2 * PAGE
        with pytest.raises(OutOfMemoryError, match="a sequence of 200 tokens needs more than the cache of 128; lower"):
            llm.stream([5] * 100, eventide.SamplingParams(max_new_tokens=100))
