// rope_append on a GPU: one warp a head vector; lane l rotates the pairs l, l + 32, ... of the half dimension.
#pragma once

namespace ev {

template <class A>
struct rope_append_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int D = A::head_dim, HALF = D / 2, GROUP = A::num_heads / A::num_kv_heads;
  static constexpr int PAIRS = (HALF + 31) / 32;
  static constexpr int QKV = A::q_in_t::dim1, SLOTS_N = A::k_cache_t::dim1;

  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int h) {
    const int first = m * A::tile_m, tokens = ev_min(A::tile_m, a.q.dim0 - first);
    for (int i = w.warp; i < tokens * (GROUP + 2); i += WARPS) {
      const int t = first + i / (GROUP + 2), part = i % (GROUP + 2);
      const bf16* row = a.q_in.data + (i64)t * QKV;
      const i64 cell = ((i64)h * SLOTS_N + a.slot.data[t]) * D;
      if (part == GROUP + 1) {  // value: copied as it is
        const bf16* v = row + (A::num_heads + A::num_kv_heads + h) * D;
        for (int e = w.lane; e < D; e += 32) a.v_cache.data[cell + e] = v[e];
        continue;
      }
      const bool query = part < GROUP;
      const bf16* x = row + (query ? h * GROUP + part : A::num_heads + h) * D;
      float lo[PAIRS], hi[PAIRS], square = 0.f;
      #pragma unroll
      for (int p = 0; p < PAIRS; ++p) {
        const int e = w.lane + p * 32;
        lo[p] = e < HALF ? to_float(x[e]) : 0.f;
        hi[p] = e < HALF ? to_float(x[e + HALF]) : 0.f;
        square += lo[p] * lo[p] + hi[p] * hi[p];
      }
      if constexpr (A::has_q_norm) {
        const float s = rsqrtf(warp_sum(square) / D + A::eps);
        const bf16* g = query ? a.q_norm.data : a.k_norm.data;
        #pragma unroll
        for (int p = 0; p < PAIRS; ++p) {
          const int e = w.lane + p * 32;
          if (e < HALF) { lo[p] *= s * to_float(g[e]); hi[p] *= s * to_float(g[e + HALF]); }
        }
      }
      const float* rope = a.rope.data + (i64)a.pos.data[t] * D;
      bf16* out = query ? a.q.data + (i64)t * A::q_t::dim1 + (h * GROUP + part) * D : a.k_cache.data + cell;
      #pragma unroll
      for (int p = 0; p < PAIRS; ++p) {
        const int e = w.lane + p * 32;
        if (e < HALF) {
          const float c = rope[e], s = rope[e + HALF];
          put(out + e, lo[p] * c - hi[p] * s);
          put(out + e + HALF, hi[p] * c + lo[p] * s);
        }
      }
    }
  }
};

}  // namespace ev
