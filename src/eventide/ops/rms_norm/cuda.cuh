// rms_norm on a GPU, where it isn't fused. A row is a warp's or, where a task has one row, all warps'; 8 columns a thread at a time.
// Rows that registers hold are read once, all of a row at the same time.
#pragma once

namespace ev {

template <class A>
struct rms_norm_op : Stateless {
  static constexpr bool RUNS = false, ANNOUNCES = true;
  static constexpr int H = A::y_t::dim1, TEAM = A::tile_m == 1 ? CONSUMERS : 32, PIECES = (H / 8 + TEAM - 1) / TEAM;
  static constexpr bool HELD = PIECES <= 4;
  static_assert(H % 8 == 0, "rms_norm needs a multiple of 8 columns");

  static __device__ __forceinline__ uint4 scaled(const A& a, const uint4& v, float scale, int k) {
    const uint4 by = *(const uint4*)(a.w.data + k);
    uint4 y;
    #pragma unroll
    for (int e = 0; e < 4; ++e) {
      const u32 two = (&v.x)[e], times = (&by.x)[e];
      (&y.x)[e] = pack_halves(low_half(two) * scale * low_half(times), high_half(two) * scale * high_half(times));
    }
    return y;
  }
  static __device__ __forceinline__ float square_of(const uint4& v) {
    float square = 0.f;
    #pragma unroll
    for (int e = 0; e < 4; ++e) {
      const u32 two = (&v.x)[e];
      square += low_half(two) * low_half(two) + high_half(two) * high_half(two);
    }
    return square;
  }

  // 1 / rms, from every thread's part of the sum of squares
  static __device__ __forceinline__ float scale_of(const Worker& w, float square) {
    square = warp_sum(square);
    if constexpr (TEAM == CONSUMERS) {
      float* const sums = (float*)w.scratch;
      if (w.lane == 0) sums[w.warp] = square;
      w.sync();
      square = 0.f;
      #pragma unroll
      for (int i = 0; i < WARPS; ++i) square += sums[i];
    }
    return rsqrtf(square * (1.f / H) + A::eps);
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int end = ev_min((m + 1) * A::tile_m, a.y.dim0), first = TEAM == 32 ? w.warp : 0, thread = TEAM == 32 ? w.lane : w.tid;
    for (int t = m * A::tile_m + first; t < end; t += CONSUMERS / TEAM) {
      i64 source = t;
      if constexpr (A::has_rows) source = a.rows.data[t];
      const bf16* const x = a.x.data + source * H;
      float square = 0.f;
      if constexpr (HELD) {
        uint4 v[PIECES];
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) {
          const int k = (thread + i * TEAM) * 8;
          v[i] = k < H ? load_weak_16(x + k) : make_uint4(0, 0, 0, 0);
        }
        if constexpr (A::x_t::polled) settle_together(w, [&] {
          bool missing = false;
          #pragma unroll
          for (int i = 0; i < PIECES; ++i) {
            const int k = (thread + i * TEAM) * 8;
            if (k < H && absent(v[i])) { v[i] = load_16(x + k); missing = true; }
          }
          return missing;
        });
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) square += square_of(v[i]);
        const float scale = scale_of(w, square);
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) {
          const int k = (thread + i * TEAM) * 8;
          if (k < H) put_eight(a.y, t, k, scaled(a, v[i], scale, k));
        }
      } else {
        auto load = [&](int k) {
          const uint4 v = load_weak_16(x + k);
          if constexpr (A::x_t::polled) return settle_16(w, x + k, v);
          return v;
        };
        #pragma unroll 4
        for (int k = thread * 8; k < H; k += TEAM * 8) square += square_of(load(k));
        const float scale = scale_of(w, square);
        #pragma unroll 4
        for (int k = thread * 8; k < H; k += TEAM * 8) put_eight(a.y, t, k, scaled(a, load(k), scale, k));
      }
    }
  }
};

}  // namespace ev
