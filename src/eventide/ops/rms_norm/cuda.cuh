// rms_norm on a GPU, where it isn't fused: one warp a row.
#pragma once

namespace ev {

template <class A>
struct rms_norm_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int H = A::y_t::dim1;

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int end = ev_min((m + 1) * A::tile_m, a.y.dim0);
    for (int t = m * A::tile_m + w.warp; t < end; t += WARPS) {
      i64 source = t;
      if constexpr (A::has_rows) source = a.rows.data[t];
      float square = 0.f;
      for (int k = w.lane; k < H; k += 32) { float v = to_float(a.x.data[source * H + k]); square += v * v; }
      const float s = rsqrtf(warp_sum(square) / H + A::eps);
      for (int k = w.lane; k < H; k += 32) put(a.y.data + (i64)t * H + k, to_float(a.x.data[source * H + k]) * s * to_float(a.w.data[k]));
    }
  }
};

}  // namespace ev
