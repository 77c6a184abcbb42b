// silu_mul on a GPU, where it isn't fused: element by element.
#pragma once

namespace ev {

template <class A>
struct silu_mul_op : Stateless {
  static constexpr bool RUNS = false;
  static __device__ __forceinline__ float value(const A& a, int t, int c) {
    const auto* const x = a.x.data + ((i64)t * A::y_t::dim1 + c) * 2;
    const float gate = to_float(x[0]), up = to_float(x[1]);
    return gated(gate, up);
  }
  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    constexpr int N = A::y_t::dim1;
    const int first = m * A::tile_m, tokens = ev_min(A::tile_m, a.y.dim0 - first);
    if constexpr (N % 2 == 0 && sizeof(*a.y.data) == 2) {
      for (int i = w.tid; i < tokens * (N / 2); i += CONSUMERS) {
        const int t = first + i / (N / 2), c = i % (N / 2) * 2;
        put_pair(a.y, t, c, pack_halves(value(a, t, c), value(a, t, c + 1)));
      }
    } else {
      for (int i = w.tid; i < tokens * N; i += CONSUMERS) put(a.y.data + (i64)first * N + i, value(a, first + i / N, i % N));
    }
  }
};

}  // namespace ev
