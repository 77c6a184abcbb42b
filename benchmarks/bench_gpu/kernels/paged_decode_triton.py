import triton
import triton.language as tl


@triton.jit
def decode(
    q_ptr,
    k_ptr,
    v_ptr,
    indptr,
    indices,
    out_ptr,
    lse_ptr,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b = tl.program_id(0)
    kv = tl.program_id(1)
    group: tl.constexpr = HEADS // KV_HEADS
    lanes = tl.arange(0, GROUP)
    dims = tl.arange(0, DIM)
    heads = kv * group + lanes
    real = lanes < group
    q = tl.load(q_ptr + (b * HEADS + heads)[:, None] * DIM + dims[None, :], mask=real[:, None], other=0.0)
    start = tl.load(indptr + b)
    stop = tl.load(indptr + b + 1)
    top = tl.full((GROUP,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    sums = tl.zeros((GROUP, DIM), tl.float32)
    for first in range(start, stop, BLOCK):
        places = first + tl.arange(0, BLOCK)
        inside = places < stop
        page = tl.load(indices + places, mask=inside, other=0).to(tl.int64)
        rows = (page * KV_HEADS + kv)[:, None] * DIM + dims[None, :]
        k = tl.load(k_ptr + rows, mask=inside[:, None], other=0.0)
        v = tl.load(v_ptr + rows, mask=inside[:, None], other=0.0)
        logits = tl.dot(q, k.T) * scale
        logits = tl.where(inside[None, :], logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, axis=1))
        weights = tl.exp(logits - new_top[:, None])
        keep = tl.exp(top - new_top)
        total = total * keep + tl.sum(weights, axis=1)
        sums = sums * keep[:, None] + tl.dot(weights.to(tl.bfloat16), v)
        top = new_top
    some = total > 0
    result = tl.where(some[:, None], sums / tl.where(some, total, 1.0)[:, None], 0.0)
    where = (b * HEADS + heads)[:, None] * DIM + dims[None, :]
    tl.store(out_ptr + where, result.to(tl.bfloat16), mask=real[:, None])
    lse = tl.where(some, (top + tl.log(tl.where(some, total, 1.0))) * 1.4426950408889634, float("-inf"))
    tl.store(lse_ptr + b * HEADS + heads, lse, mask=real)


def run(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale, output, lse):
    batch, heads, dim = q.shape
    kv_heads = k_cache.shape[2]
    decode[(batch, kv_heads)](
        q,
        k_cache,
        v_cache,
        kv_indptr,
        kv_indices,
        output,
        lse,
        sm_scale,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        GROUP=16,
        BLOCK=64,
        num_warps=4,
    )
