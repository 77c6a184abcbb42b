import triton
import triton.language as tl


@triton.jit
def matmul(
    a_ptr,
    b_ptr,
    c_ptr,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    inside = rows[:, None] < M
    a = a_ptr + rows[:, None].to(tl.int64) * K + depth[None, :]
    b = b_ptr + columns[:, None].to(tl.int64) * K + depth[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    for _ in range(0, K, BK):
        total = tl.dot(tl.load(a, mask=inside, other=0.0), tl.load(b).T, total)
        a += BK
        b += BK
    c = c_ptr + rows[:, None].to(tl.int64) * N + columns[None, :]
    tl.store(c, total.to(tl.float16), mask=inside)


def run(A, B, C):
    M, K = A.shape
    N = B.shape[0]
    if M <= 16:
        BM, BN, BK, warps, stages = 16, 32, 256, 4, 4
    elif M <= 128:
        BM, BN, BK, warps, stages = 64, 64, 128, 4, 4
    else:
        BM, BN, BK, warps, stages = 128, 128, 64, 8, 4
    grid = (triton.cdiv(M, BM), N // BN)
    matmul[grid](A, B, C, M, N=N, K=K, BM=BM, BN=BN, BK=BK, num_warps=warps, num_stages=stages)
