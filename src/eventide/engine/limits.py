"""How large a step and how much state an engine gets: `Limits` for a model and the memory at hand.

    choose_limits(config, "bfloat16", None, available=8 * 2**30, weight_bytes=1.2e9)
    print(llm.cache_size)       a cache for 45,056 tokens (704 pages of 64) in 4.8 GiB, of 7.0 GiB free and 1.1 GiB of weights

The cache is paged, and its pages take memory only once they are used; so there are as many as `MAX_SEQS` full
sequences need, or as fit in `CACHE_SHARE` of what the weights leave. A context that wasn't asked for by name shrinks to
what fits; one that was is an error when it doesn't.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import dtypes
from ..errors import OutOfMemoryError, UsageError
from ..models.config import ModelConfig
from ..models.decoder import Limits, cache_bytes
from ..models.memory import readable

__all__ = ["DEFAULT_CONTEXT", "MAX_SEQS", "CacheSize", "choose_limits"]

MAX_SEQS = 64
DEFAULT_CONTEXT = 8192  # positions, when max_seq_len isn't given and the model allows as many
CACHE_SHARE = 0.8
_SMALLEST_CONTEXT = 256


@dataclass(frozen=True)
class CacheSize:
    """What the cache holds, and the figures it follows from. `available_bytes`: free before the weights were loaded (None where
    that isn't known); a CPU's cache takes memory only as it is used."""

    num_tokens: int
    page_size: int
    num_bytes: int
    weight_bytes: int
    available_bytes: int | None

    def __str__(self) -> str:
        pages = f"{self.num_tokens // self.page_size:,} pages of {self.page_size}"
        free = "" if self.available_bytes is None else f"{readable(self.available_bytes)} free and "
        size = f"{self.num_tokens:,} tokens ({pages}) in {readable(self.num_bytes)}"
        return f"a cache for {size}, of {free}{readable(self.weight_bytes)} of weights"


def choose_limits(
    config: ModelConfig,
    dtype: str,
    max_seq_len: int | None,
    *,
    available: int | None = None,
    weight_bytes: int = 0,
    max_seqs: int = MAX_SEQS,
) -> Limits:
    """Limits that fit. `available` counts bytes that may be taken (None: unknown), weights not yet subtracted.

    Raises `UsageError` for a context that the model was not made for, `OutOfMemoryError` when not even one sequence
    fits.
    """
    longest = config.max_position_embeddings
    if max_seq_len is not None and (isinstance(max_seq_len, bool) or not 1 <= max_seq_len <= longest):
        raise UsageError(
            f"max_seq_len must be from 1 to {longest} (max_position_embeddings in config.json), got {max_seq_len!r}"
        )
    context = max_seq_len or min(longest, DEFAULT_CONTEXT)
    limits = Limits(max_rows=max_seqs, max_seqs=max_seqs, max_seq_len=context)
    if available is None:
        return _with_pages(limits, limits.pages)
    room = max(0, int((available - weight_bytes) * CACHE_SHARE))
    one_page = replace(limits, num_pages=1)
    page_bytes = cache_bytes(config, one_page, dtypes.itemsize(dtype))
    pages = _rounded(max(0, room // page_bytes - 1))
    needed = limits.pages_per_seq if max_seq_len else -(-min(_SMALLEST_CONTEXT, context) // limits.page_size)
    if pages < needed:
        raise OutOfMemoryError(
            f"the keys and values of one sequence of {needed * limits.page_size} tokens need "
            f"{readable(needed * page_bytes)} of memory, and {readable(room)} are left for them beside "
            f"{readable(weight_bytes)} of weights; give a smaller max_seq_len, or free some memory"
        )
    if pages < limits.pages_per_seq:
        context = pages * limits.page_size
    return _with_pages(replace(limits, max_seq_len=context), min(pages, max_seqs * -(-context // limits.page_size)))


def _with_pages(limits: Limits, pages: int) -> Limits:
    """`limits` with so many pages, and page 0, which nobody gets (see `pool`)."""
    # a step can't hold more tokens than the cache has slots for
    return replace(limits, num_pages=pages + 1, max_tokens=min(limits.max_tokens, pages * limits.page_size))


def _rounded(pages: int) -> int:
    """Down to four significant bits: free memory is never the same twice, but the plan should be."""
    shift = max(0, pages.bit_length() - 4)
    return pages >> shift << shift
