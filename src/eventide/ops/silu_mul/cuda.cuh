// silu_mul on a GPU, where it isn't fused: element by element.
#pragma once

namespace ev {

template <class A>
struct silu_mul_op : Stateless {
  static constexpr bool RUNS = false;
  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const i64 begin = (i64)m * A::tile_m * A::y_t::dim1, end = (i64)ev_min((m + 1) * A::tile_m, a.y.dim0) * A::y_t::dim1;
    for (i64 i = begin + w.tid; i < end; i += CONSUMERS) {
      const float gate = to_float(a.x.data[2 * i]), up = to_float(a.x.data[2 * i + 1]);
      put(a.y.data + i, gate / (1.f + __expf(-gate)) * up);
    }
  }
};

}  // namespace ev
