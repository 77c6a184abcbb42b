// rope_append on a GPU: one warp a head vector; lane l rotates the pairs l, l + 32, ... of the half dimension.
#pragma once

namespace ev {

// element `at` of token t of what may be slabs: [tokens, columns], or [splits, tokens, columns]
template <class T, class = void>
struct rope_input {
  static constexpr int COLUMNS = T::dim1;
  static __device__ __forceinline__ float value(const T& x, int t, int at) { return to_float(x.data[(i64)t * COLUMNS + at]); }
};
template <class T>
struct rope_input<T, decltype((void)T::dim2)> {
  static constexpr int COLUMNS = T::dim2;
  static __device__ __forceinline__ float value(const T& x, int t, int at) {
    float v = 0.f;
    #pragma unroll
    for (int s = 0; s < T::dim0; ++s) v += load_4(x.data + ((i64)s * x.dim1 + t) * COLUMNS + at);
    return v;
  }
};

template <class A>
struct rope_append_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int D = A::head_dim, HALF = D / 2, GROUP = A::num_heads / A::num_kv_heads;
  static constexpr int PAIRS = (HALF + 31) / 32;
  typedef rope_input<typename A::q_in_t> In;
  static constexpr int SLOTS_N = A::k_cache_t::dim1;

  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int h) {
    const int first = m * A::tile_m, tokens = ev_min(A::tile_m, a.q.dim0 - first);
    for (int i = w.warp; i < tokens * (GROUP + 2); i += WARPS) {
      const int t = first + i / (GROUP + 2), part = i % (GROUP + 2);
      const i64 cell = ((i64)h * SLOTS_N + a.slot.data[t]) * D;
      if (part == GROUP + 1) {  // value: copied as it is
        const int v = (A::num_heads + A::num_kv_heads + h) * D;
        for (int e = w.lane; e < D; e += 32) put(a.v_cache.data + cell + e, In::value(a.q_in, t, v + e));
        continue;
      }
      const bool query = part < GROUP;
      const int x = (query ? h * GROUP + part : A::num_heads + h) * D;
      float lo[PAIRS], hi[PAIRS], square = 0.f;
      #pragma unroll
      for (int p = 0; p < PAIRS; ++p) {
        const int e = w.lane + p * 32;
        lo[p] = e < HALF ? In::value(a.q_in, t, x + e) : 0.f;
        hi[p] = e < HALF ? In::value(a.q_in, t, x + e + HALF) : 0.f;
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
