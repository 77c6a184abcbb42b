// add on a GPU, where it isn't fused: element by element.
#pragma once

namespace ev {

template <class A>
struct add_op : Stateless {
  static constexpr bool RUNS = false;
  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    constexpr int COLS = A::y_t::dim1;
    const i64 begin = (i64)m * A::tile_m * COLS, end = (i64)ev_min((m + 1) * A::tile_m, a.y.dim0) * COLS;
    for (i64 i = begin + w.tid; i < end; i += CONSUMERS) {
      i64 from = i;
      if constexpr (A::has_rows) from = (i64)a.rows.data[i / COLS] * COLS + i % COLS;
      put(a.y.data + i, to_float(a.a.data[from]) + to_float(a.b.data[i]));
    }
  }
};

}  // namespace ev
