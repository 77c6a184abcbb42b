import triton
import triton.language as tl


@triton.jit
def prefill(
    q_ptr,
    k_ptr,
    v_ptr,
    qo_indptr,
    kv_indptr,
    indices,
    out_ptr,
    lse_ptr,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    block = tl.program_id(0)
    head = tl.program_id(1)
    seq = tl.program_id(2)
    q_start = tl.load(qo_indptr + seq)
    num_q = tl.load(qo_indptr + seq + 1) - q_start
    kv_start = tl.load(kv_indptr + seq)
    num_kv = tl.load(kv_indptr + seq + 1) - kv_start
    if block * BM < num_q:
        kv = head // (HEADS // KV_HEADS)
        dims = tl.arange(0, DIM)
        rows = block * BM + tl.arange(0, BM)
        real = rows < num_q
        where = ((q_start + rows).to(tl.int64) * HEADS + head)[:, None] * DIM + dims[None, :]
        q = tl.load(q_ptr + where, mask=real[:, None], other=0.0)
        limit = rows + 1 + num_kv - num_q  # keys that a row may see
        most = tl.minimum(num_kv, block * BM + BM + num_kv - num_q)
        top = tl.full((BM,), float("-inf"), tl.float32)
        total = tl.zeros((BM,), tl.float32)
        sums = tl.zeros((BM, DIM), tl.float32)
        for first in range(0, most, BN):
            columns = first + tl.arange(0, BN)
            inside = columns < num_kv
            page = tl.load(indices + kv_start + columns, mask=inside, other=0).to(tl.int64)
            at = (page * KV_HEADS + kv)[:, None] * DIM + dims[None, :]
            k = tl.load(k_ptr + at, mask=inside[:, None], other=0.0)
            v = tl.load(v_ptr + at, mask=inside[:, None], other=0.0)
            logits = tl.dot(q, k.T) * scale
            logits = tl.where(columns[None, :] < tl.minimum(limit, num_kv)[:, None], logits, float("-inf"))
            new_top = tl.maximum(top, tl.max(logits, axis=1))
            safe = tl.where(new_top > float("-inf"), new_top, 0.0)
            weights = tl.exp(logits - safe[:, None])
            keep = tl.exp(top - safe)
            total = total * keep + tl.sum(weights, axis=1)
            sums = sums * keep[:, None] + tl.dot(weights.to(tl.bfloat16), v)
            top = new_top
        some = total > 0
        result = tl.where(some[:, None], sums / tl.where(some, total, 1.0)[:, None], 0.0)
        tl.store(out_ptr + where, result.to(tl.bfloat16), mask=real[:, None])
        lse = tl.where(some, (top + tl.log(tl.where(some, total, 1.0))) * 1.4426950408889634, float("-inf"))
        tl.store(lse_ptr + (q_start + rows).to(tl.int64) * HEADS + head, lse, mask=real)


def run(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, sm_scale, output, lse):
    tokens, heads, dim = q.shape
    grid = (triton.cdiv(tokens, 64), heads, qo_indptr.shape[0] - 1)
    prefill[grid](
        q,
        k_cache,
        v_cache,
        qo_indptr,
        kv_indptr,
        kv_indices,
        output,
        lse,
        sm_scale,
        HEADS=heads,
        KV_HEADS=k_cache.shape[2],
        DIM=dim,
        BM=64,
        BN=64,
        num_warps=4,
        num_stages=2,
    )
