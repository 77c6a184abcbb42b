// merge_norm on a GPU: 8 columns a thread at a time, in registers from the first load to the last store. All that registers have
// room for, of several tokens where slabs are few, is asked for before the first of it is used: a round trip is most of what a
// task takes.
#pragma once

namespace ev {

template <class A>
struct merge_norm_op {
  static constexpr bool RUNS = false, ANNOUNCES = true;
  static constexpr int S = A::part_t::dim0, N = A::y_t::dim1, PIECES = (N / 8 + CONSUMERS - 1) / CONSUMERS;
  static constexpr int ROOM = S * PIECES >= 8 ? 1 : 8 / (S * PIECES), G = A::tile_m < ROOM ? A::tile_m : ROOM;  // tokens at once
  static constexpr int AT_ONCE = PIECES * S <= 8 ? PIECES : 1;                                                   // pieces of them
  static_assert(N % 8 == 0, "merge_norm needs a multiple of 8 columns");
  static_assert(G * WARPS * 4 <= SCRATCH, "merge_norm's sums must fit in the scratch memory");

  uint4 norm[PIECES];

  static __device__ __forceinline__ int column(const Worker& w, int i) { return (w.tid + i * CONSUMERS) * 8; }

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int m) {
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) norm[i] = column(w, i) < N ? *(const uint4*)(a.norm_weight.data + column(w, i)) : make_uint4(0, 0, 0, 0);
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int end = ev_min((m + 1) * A::tile_m, a.y.dim0);
    #pragma unroll 1
    for (int t = m * A::tile_m; t < end; t += G) {
      if (t > m * A::tile_m) w.sync();  // the sums have been read
      some(a, w, t, end);
    }
  }

  // tokens t .. t + G - 1; those beyond the end are the last one, again
  __device__ __forceinline__ void some(const A& a, Worker& w, int t, int end) {
    uint4 y[G][PIECES];
    float square[G] = {};
    #pragma unroll
    for (int g = 0; g < G; ++g) {
      #pragma unroll
      for (int i = 0; i < PIECES; ++i)
        y[g][i] = column(w, i) < N ? load_weak_16(a.residual.data + (i64)ev_min(t + g, end - 1) * N + column(w, i)) : make_uint4(0, 0, 0, 0);
    }
    if constexpr (A::residual_t::polled) settle_together(w, [&] {
      bool missing = false;
      #pragma unroll
      for (int g = 0; g < G; ++g) {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i)
          if (column(w, i) < N && absent(y[g][i])) { y[g][i] = load_16(a.residual.data + (i64)ev_min(t + g, end - 1) * N + column(w, i)); missing = true; }
      }
      return missing;
    });
    #pragma unroll
    for (int first = 0; first < PIECES; first += AT_ONCE) {
      uint4 lo[G][AT_ONCE][S], hi[G][AT_ONCE][S];
      #pragma unroll
      for (int g = 0; g < G; ++g) {
        #pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
          #pragma unroll
          for (int s = 0; s < S; ++s) {
            const float* const p = a.part.data + ((i64)s * a.y.dim0 + ev_min(t + g, end - 1)) * N + ev_min(column(w, first + j), N - 8);
            lo[g][j][s] = load_weak_16(p);
            hi[g][j][s] = load_weak_16(p + 4);
          }
        }
      }
      if constexpr (A::part_t::polled) settle_together(w, [&] {
        bool missing = false;
        #pragma unroll
        for (int i = 0; i < G * AT_ONCE * S; ++i) {
          const int g = i / (AT_ONCE * S), j = i / S % AT_ONCE, s = i % S;
          const float* const p = a.part.data + ((i64)s * a.y.dim0 + ev_min(t + g, end - 1)) * N + ev_min(column(w, first + j), N - 8);
          if (unwritten(lo[g][j][s])) { lo[g][j][s] = load_16(p); missing = true; }
          if (unwritten(hi[g][j][s])) { hi[g][j][s] = load_16(p + 4); missing = true; }
        }
        return missing;
      });
      #pragma unroll
      for (int g = 0; g < G; ++g) {
        #pragma unroll
        for (int j = 0; j < AT_ONCE; ++j) {
          if (first + j < PIECES && column(w, first + j) < N) square[g] += merge(lo[g][j], hi[g][j], y[g][first + j]);
        }
      }
    }
    float* const sums = (float*)w.scratch;  // [G, WARPS]
    #pragma unroll
    for (int g = 0; g < G; ++g) {
      square[g] = warp_sum(square[g]);
      if (w.lane == 0) sums[g * WARPS + w.warp] = square[g];
    }
    w.sync();
    #pragma unroll
    for (int g = 0; g < G; ++g) {
      if (t + g >= end) break;
      float all = 0.f;
      #pragma unroll
      for (int i = 0; i < WARPS; ++i) all += sums[g * WARPS + i];
      const float scale = rsqrtf(all * (1.f / N) + A::eps);
      #pragma unroll
      for (int i = 0; i < PIECES; ++i) {
        const int c = column(w, i);
        if (c >= N) break;
        uint4 h;
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          const u32 two = (&y[g][i].x)[e], by = (&norm[i].x)[e];
          (&h.x)[e] = pack_halves(low_half(two) * scale * low_half(by), high_half(two) * scale * high_half(by));
        }
        *(uint4*)(a.y.data + (i64)(t + g) * N + c) = y[g][i];
        put_eight(a.h, t + g, c, h);
      }
    }
  }

  static __device__ __forceinline__ bool unwritten(const uint4& v) { return v.x == ~0u || v.y == ~0u || v.z == ~0u || v.w == ~0u; }

  // adds the slabs' eight sums to eight elements; the sum of their squares
  static __device__ __forceinline__ float merge(const uint4 (&lo)[S], const uint4 (&hi)[S], uint4& y) {
    float v[8] = {}, square = 0.f;
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
      u32& two = (&y.x)[e];
      two = pack_halves(v[2 * e] + low_half(two), v[2 * e + 1] + high_half(two));
      square += low_half(two) * low_half(two) + high_half(two) * high_half(two);
    }
    return square;
  }
};

}  // namespace ev
