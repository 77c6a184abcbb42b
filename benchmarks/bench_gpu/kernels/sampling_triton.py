import random

import triton
import triton.language as tl

COUNT = "@COUNT@" == "True"  # top-k, else top-p; put in by dataset.py

# No sort: a threshold t is found by bisection, such that exactly the tokens with p > t survive the filter, then one
# uniform number picks a token by its running sum.


@triton.jit
def measure(row_ptr, t, VOCAB: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, VOCAB, BLOCK):
        at = first + tl.arange(0, BLOCK)
        p = tl.load(row_ptr + at, mask=at < VOCAB, other=0.0)
        total += tl.where(p > t, 1.0 if COUNT else p, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def sample(probs, limits, samples, seed, VOCAB: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    row = tl.program_id(0)
    row_ptr = probs + row.to(tl.int64) * VOCAB
    limit = tl.load(limits + row).to(tl.float32)
    low = -1.0
    high = 1.0
    for _ in range(40):
        middle = (low + high) * 0.5
        value = measure(row_ptr, middle, VOCAB, BLOCK, COUNT)
        # top-k keeps a token while fewer than k are above it, top-p while at most p of the mass is
        fits = (value < limit) if COUNT else (value <= limit)
        high = tl.where(fits, middle, high)
        low = tl.where(fits, low, middle)
    mass = measure(row_ptr, low, VOCAB, BLOCK, False)
    target = tl.rand(seed, row) * mass
    before = 0.0
    found = -1
    last = 0
    for first in range(0, VOCAB, BLOCK):
        at = first + tl.arange(0, BLOCK)
        p = tl.load(row_ptr + at, mask=at < VOCAB, other=0.0)
        p = tl.where((p > low) & (p > 0), p, 0.0)
        running = before + tl.cumsum(p, axis=0)
        here = tl.min(tl.where((running > target) & (p > 0), at, VOCAB), axis=0)
        found = tl.where((found < 0) & (here < VOCAB), here, found)
        last = tl.maximum(last, tl.max(tl.where(p > 0, at, 0), axis=0))
        before += tl.sum(p, axis=0)
    tl.store(samples + row, tl.where(found < 0, last, found).to(tl.int64))


def run(probs, limit, samples):
    rows, vocab = probs.shape
    sample[(rows,)](probs, limit, samples, random.getrandbits(30), VOCAB=vocab, BLOCK=8192, COUNT=COUNT, num_warps=16)
