import torch
import triton
import triton.language as tl

# Mixture of experts on FP8 with a scale for every block of 128, routed as DeepSeek-V3 does: route (8 experts a token),
# gather (the pairs of each expert), up (both halves of the first product and SwiGLU), down, combine. A pair is
# token * 8 + slot. FP8 values are exact in the 16-bit types that they are multiplied in.


@triton.jit
def route(logits, bias, expert, share, first, local, factor):
    token = tl.program_id(0)
    e = tl.arange(0, 256)
    s = 1.0 / (1.0 + tl.exp(-tl.load(logits + token * 256 + e)))
    biased = tl.reshape(s + tl.load(bias + e).to(tl.float32), (8, 32))
    lane = tl.arange(0, 32)
    best = tl.max(biased, axis=1)
    at = tl.argmax(biased, axis=1)
    second = tl.max(tl.where(lane[None, :] == at[:, None], float("-inf"), biased), axis=1)
    scores = best + second
    better = tl.sum((scores[None, :] > scores[:, None]).to(tl.int32), axis=1)
    left = tl.reshape(tl.where((better < 4)[:, None], biased, float("-inf")), (256,))
    slot = tl.arange(0, 8)
    chosen = tl.full((8,), -1, tl.int32)
    shares = tl.zeros((8,), tl.float32)
    for k in tl.static_range(8):
        place = tl.argmax(left, axis=0)
        own = tl.sum(tl.where(e == place, s, 0.0), axis=0)
        chosen = tl.where(slot == k, place - first, chosen)
        shares = tl.where(slot == k, own, shares)
        left = tl.where(e == place, float("-inf"), left)
    shares = shares / (tl.sum(shares, axis=0) + 1e-20) * factor
    tl.store(expert + token * 8 + slot, tl.where((chosen >= 0) & (chosen < local), chosen, -1))
    tl.store(share + token * 8 + slot, shares)


@triton.jit
def gather(expert, lists, count, tokens, BLOCK: tl.constexpr):
    e = tl.program_id(0)
    found = 0
    for first in range(0, tokens * 8, BLOCK):
        pair = first + tl.arange(0, BLOCK)
        mine = (tl.load(expert + pair, mask=pair < tokens * 8, other=-1) == e).to(tl.int32)
        place = found + tl.cumsum(mine, axis=0) - 1
        tl.store(lists + e * tokens + place, pair, mask=mine > 0)
        found += tl.sum(mine, axis=0)
    tl.store(count + e, found)


@triton.jit
def up(
    x,
    x_scale,
    w,
    w_scale,
    lists,
    count,
    inner,
    tokens,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BM: tl.constexpr,
):
    n = tl.program_id(0)
    e = tl.program_id(1).to(tl.int64)
    columns = n * 128 + tl.arange(0, 128)
    depth = tl.arange(0, 128)
    first = w + (e * 2 * INNER + columns)[:, None] * HIDDEN + depth[None, :]
    scale = w_scale + (e * (2 * INNER // 128) + n) * (HIDDEN // 128)
    total = tl.load(count + e)
    for m in range(0, total, BM):
        rows = m + tl.arange(0, BM)
        pair = tl.load(lists + e * tokens + tl.minimum(rows, total - 1))
        token = (pair // 8).to(tl.int64)
        value = tl.zeros((BM, 128), tl.float32)
        gate = tl.zeros((BM, 128), tl.float32)
        for b in range(0, HIDDEN // 128):
            a = tl.load(x + token[:, None] * HIDDEN + b * 128 + depth[None, :]).to(tl.float16)
            own = tl.load(x_scale + b * tokens + token)
            w1 = tl.load(first + b * 128).to(tl.float16)
            w3 = tl.load(first + INNER * HIDDEN + b * 128).to(tl.float16)
            value += tl.dot(a, w1.T) * (own * tl.load(scale + b))[:, None]
            gate += tl.dot(a, w3.T) * (own * tl.load(scale + (INNER // 128) * (HIDDEN // 128) + b))[:, None]
        result = value * gate / (1.0 + tl.exp(-gate))
        to = inner + pair.to(tl.int64)[:, None] * INNER + columns[None, :]
        tl.store(to, result.to(tl.bfloat16), mask=(rows < total)[:, None])


@triton.jit
def down(
    inner,
    w,
    w_scale,
    lists,
    count,
    share,
    parts,
    tokens,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    BM: tl.constexpr,
):
    n = tl.program_id(0)
    e = tl.program_id(1).to(tl.int64)
    columns = n * 128 + tl.arange(0, 128)
    depth = tl.arange(0, 128)
    weights = w + (e * HIDDEN + columns)[:, None] * INNER + depth[None, :]
    scale = w_scale + (e * (HIDDEN // 128) + n) * (INNER // 128)
    total = tl.load(count + e)
    for m in range(0, total, BM):
        rows = m + tl.arange(0, BM)
        pair = tl.load(lists + e * tokens + tl.minimum(rows, total - 1)).to(tl.int64)
        result = tl.zeros((BM, 128), tl.float32)
        for b in range(0, INNER // 128):
            a = tl.load(inner + pair[:, None] * INNER + b * 128 + depth[None, :])
            # by way of float16: there is no direct conversion to bfloat16
            result += tl.dot(a, tl.load(weights + b * 128).to(tl.float16).to(tl.bfloat16).T) * tl.load(scale + b)
        result *= tl.load(share + pair)[:, None]
        tl.store(parts + pair[:, None] * HIDDEN + columns[None, :], result, mask=(rows < total)[:, None])


@triton.jit
def combine(parts, expert, output, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in tl.static_range(8):
        pair = token * 8 + slot
        chosen = (tl.load(expert + pair) >= 0) & (columns < HIDDEN)
        total += tl.load(parts + pair * HIDDEN + columns, mask=chosen, other=0.0)
    tl.store(output + token * HIDDEN + columns, total.to(tl.bfloat16), mask=columns < HIDDEN)


def new(dtype, *shape):
    return torch.empty(shape, dtype=dtype, device="cuda")


def run(logits, bias, x, x_scale, w1, w1_scale, w2, w2_scale, offset, factor, output):
    (tokens, hidden), (local, _, inner_size) = x.shape, w2.shape
    expert, share = new(torch.int32, tokens, 8), new(torch.float32, tokens, 8)
    lists, count = new(torch.int32, local, tokens), new(torch.int32, local)
    inner, parts = new(torch.bfloat16, tokens * 8, inner_size), new(torch.float32, tokens * 8, hidden)
    sizes = {"HIDDEN": hidden, "INNER": inner_size, "BM": 16, "num_warps": 4, "num_stages": 3}
    route[(tokens,)](logits, bias, expert, share, offset, local, factor, num_warps=1)
    gather[(local,)](expert, lists, count, tokens, BLOCK=1024)
    up[(inner_size // 128, local)](x, x_scale, w1, w1_scale, lists, count, inner, tokens, **sizes)
    down[(hidden // 128, local)](inner, w2, w2_scale, lists, count, share, parts, tokens, **sizes)
    combine[(triton.cdiv(hidden, 1024), tokens)](parts, expert, output, HIDDEN=hidden, BLOCK=1024)
