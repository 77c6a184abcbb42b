// rms_norm on a GPU, where it isn't fused: one warp a row, 8 columns a lane at a time.
#pragma once

namespace ev {

template <class A>
struct rms_norm_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int H = A::y_t::dim1;
  static_assert(H % 8 == 0, "rms_norm needs a multiple of 8 columns");

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int end = ev_min((m + 1) * A::tile_m, a.y.dim0);
    for (int t = m * A::tile_m + w.warp; t < end; t += WARPS) {
      i64 source = t;
      if constexpr (A::has_rows) source = a.rows.data[t];
      const bf16* const x = a.x.data + source * H;
      float square = 0.f;
      #pragma unroll 4
      for (int k = w.lane * 8; k < H; k += 256) {
        const uint4 v = load_weak_16(x + k);
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          const u32 two = (&v.x)[e];
          square += low_half(two) * low_half(two) + high_half(two) * high_half(two);
        }
      }
      const float scale = rsqrtf(warp_sum(square) / H + A::eps);
      #pragma unroll 4
      for (int k = w.lane * 8; k < H; k += 256) {
        uint4 v = load_weak_16(x + k);
        const uint4 by = *(const uint4*)(a.w.data + k);
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          u32& two = (&v.x)[e];
          const u32 times = (&by.x)[e];
          two = pack_halves(low_half(two) * scale * low_half(times), high_half(two) * scale * high_half(times));
        }
        put_eight(a.y, t, k, v);
      }
    }
  }
};

}  // namespace ev
