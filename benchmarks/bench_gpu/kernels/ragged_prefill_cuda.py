from eventide.bench.worker.nvrtc import Module

kernel = Module.from_file(__file__, "kernel.cu")["ragged_prefill"]


def run(q, k, v, qo_indptr, kv_indptr, sm_scale, output, lse):
    tokens, heads, _ = q.shape
    sequences = qo_indptr.shape[0] - 1
    arguments = (q, k, v, qo_indptr, kv_indptr, output, lse, heads, k.shape[1], sequences, float(sm_scale))
    kernel(grid=(tokens, heads), block=(256,), arguments=arguments)
