// merge_norm on a GPU: one token a task, 8 columns a thread at a time, in registers from the first load to the last store.
#pragma once

namespace ev {

template <class A>
struct merge_norm_op {
  static constexpr bool RUNS = false;
  static constexpr int S = A::part_t::dim0, N = A::y_t::dim1, PIECES = (N / 8 + CONSUMERS - 1) / CONSUMERS;
  static_assert(N % 8 == 0, "merge_norm needs a multiple of 8 columns");

  uint4 norm[PIECES];

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int m) {
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const int c = (w.tid + i * CONSUMERS) * 8;
      norm[i] = c < N ? *(const uint4*)(a.norm_weight.data + c) : make_uint4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int tokens = a.y.dim0;
    uint4 y[PIECES];
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const int c = (w.tid + i * CONSUMERS) * 8;
      y[i] = c < N ? load_weak_16(a.residual.data + (i64)m * N + c) : make_uint4(0, 0, 0, 0);
    }
    float square = 0.f;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const int c = (w.tid + i * CONSUMERS) * 8;
      if (c >= N) break;
      uint4 lo[S], hi[S];
      #pragma unroll
      for (int s = 0; s < S; ++s) {
        const float* const p = a.part.data + ((i64)s * tokens + m) * N + c;
        lo[s] = load_weak_16(p);
        hi[s] = load_weak_16(p + 4);
      }
      float v[8] = {};
      #pragma unroll
      for (int s = 0; s < S; ++s) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          v[e] += __uint_as_float((&lo[s].x)[e]);
          v[4 + e] += __uint_as_float((&hi[s].x)[e]);
        }
      }
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        u32& two = (&y[i].x)[e];
        two = pack_halves(v[2 * e] + low_half(two), v[2 * e + 1] + high_half(two));
        square += low_half(two) * low_half(two) + high_half(two) * high_half(two);
      }
      *(uint4*)(a.y.data + (i64)m * N + c) = y[i];
    }
    float* const sums = (float*)w.scratch;
    square = warp_sum(square);
    if (w.lane == 0) sums[w.warp] = square;
    w.sync();
    square = 0.f;
    #pragma unroll
    for (int i = 0; i < WARPS; ++i) square += sums[i];
    const float scale = rsqrtf(square / N + A::eps);
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      const int c = (w.tid + i * CONSUMERS) * 8;
      if (c >= N) break;
      uint4 h;
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        const u32 two = (&y[i].x)[e], by = (&norm[i].x)[e];
        (&h.x)[e] = pack_halves(low_half(two) * scale * low_half(by), high_half(two) * scale * high_half(by));
      }
      put_eight(a.h, m, c, h);
    }
  }
};

}  // namespace ev
