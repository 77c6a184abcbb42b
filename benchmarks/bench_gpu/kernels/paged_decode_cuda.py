from eventide.bench.worker.nvrtc import Module

kernel = Module.from_file(__file__, "kernel.cu")["paged_decode"]


def run(q, k_cache, v_cache, kv_indptr, kv_indices, sm_scale, output, lse):
    batch, heads, _ = q.shape
    arguments = (q, k_cache, v_cache, kv_indptr, kv_indices, output, lse, heads, k_cache.shape[2], float(sm_scale))
    kernel(grid=(batch, heads), block=(256,), arguments=arguments)
