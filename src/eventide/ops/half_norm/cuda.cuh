// half_norm on a GPU: a token is all warps', 8 columns a thread at a time, of which those of a block are neighbours in a warp.
#pragma once

namespace ev {

template <class A>
struct half_norm_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int N = A::h_t::dim1, PIECES = A::block / 8;  // threads that have a block
  static_assert(N % 8 == 0 && A::block % 8 == 0 && 32 % PIECES == 0, "half_norm needs blocks of 8, 16, 32, ... 256 columns");

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int end = ev_min((m + 1) * A::tile_m, a.h.dim0);
    for (int t = m * A::tile_m; t < end; ++t) {
      for (int first = 0; first < N; first += CONSUMERS * 8) {
        const int n = first + w.tid * 8;
        uint4 v = n < N ? load_weak_16(a.x.data + (i64)t * N + n) : make_uint4(0, 0, 0, 0);
        const uint4 by = n < N ? *(const uint4*)(a.norm_weight.data + n) : make_uint4(0, 0, 0, 0);
        float square = 0.f;
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          u32& two = (&v.x)[e];
          const float lo = low_half(two), hi = high_half(two);
          square += lo * lo + hi * hi;
          two = pack_halves(lo * low_half((&by.x)[e]), hi * high_half((&by.x)[e]));
        }
        #pragma unroll
        for (int o = 1; o < PIECES; o *= 2) square += __shfl_xor_sync(~0u, square, o);
        if (n >= N) continue;
        put_eight(a.h, t, n, v);
        if (n % A::block == 0) a.squares.data[(i64)(n / A::block) * a.squares.dim1 + t] = square;
      }
    }
  }
};

}  // namespace ev
