from eventide.bench.worker.nvrtc import Module

kernel = Module.from_file(__file__, "kernel.cu")["paged_prefill"]


def run(q, k_cache, v_cache, qo_indptr, kv_indptr, kv_indices, sm_scale, output, lse):
    tokens, heads, _ = q.shape
    sequences = qo_indptr.shape[0] - 1
    tables = (qo_indptr, kv_indptr, kv_indices)
    arguments = (q, k_cache, v_cache, *tables, output, lse, heads, k_cache.shape[2], sequences, float(sm_scale))
    kernel(grid=(tokens, heads), block=(256,), arguments=arguments)
