// sample_stats on a GPU: a warp a row's piece, of which every lane has its part under way at once. A run is one piece of several
// rows.
#pragma once

namespace ev {

template <class A>
struct sample_stats_op : Stateless {
  static constexpr bool RUNS = true;
  static constexpr int V = A::logits_t::dim1, PER_LANE = A::piece / 32;
  static_assert(A::piece % 128 == 0, "a piece of sample_stats is read as 16 bytes a lane");

  __device__ __forceinline__ void run(const A& a, Worker& w, int piece, int block, int count) {
    const int end = ev_min((block + count) * A::tile_r, a.row_seq.dim0);
    #pragma unroll 1
    for (int r = block * A::tile_r + w.warp; r < end; r += WARPS) one(a, w, r, piece);
  }

  static __device__ __forceinline__ void one(const A& a, const Worker& w, int r, int piece) {
    // number 4 * j + e of a lane's is number 4 * (32 * j + lane) + e of the piece
    const int first = piece * A::piece + w.lane * 4;
    const float* const x = a.logits.data + (i64)r * V + first;
    float value[PER_LANE];
    #pragma unroll
    for (int j = 0; j < PER_LANE / 4; ++j) {
      if constexpr (V % 4 == 0) {
        const uint4 four = first + 128 * j < V ? load_weak_16(x + 128 * j) : make_uint4(LEAST, LEAST, LEAST, LEAST);
        value[4 * j] = __uint_as_float(four.x); value[4 * j + 1] = __uint_as_float(four.y);
        value[4 * j + 2] = __uint_as_float(four.z); value[4 * j + 3] = __uint_as_float(four.w);
      } else {
        #pragma unroll
        for (int e = 0; e < 4; ++e) value[4 * j + e] = first + 128 * j + e < V ? x[128 * j + e] : __uint_as_float(LEAST);
      }
    }
    float top = __uint_as_float(LEAST);
    #pragma unroll
    for (int j = 0; j < PER_LANE; ++j) top = fmaxf(top, value[j]);
    const u32 key = __reduce_max_sync(~0u, order_key(top));
    const u32 bits = key & 0x80000000u ? key ^ 0x80000000u : ~key;
    top = __uint_as_float(bits);
    u32 index = ~0u;  // the lowest of those that have the largest logit
    float sum = 0.f;
    #pragma unroll
    for (int j = PER_LANE - 1; j >= 0; --j) {
      if (__float_as_uint(value[j]) == bits) index = first + 128 * (j / 4) + j % 4;
      sum += __expf(value[j] - top);
    }
    index = __reduce_min_sync(~0u, index);
    sum = warp_sum(sum);
    if (w.lane == 0) {
      const i64 at = (i64)r * A::best_t::dim1 + piece;
      a.best.data[at] = (i64)(((u64)key << 32 | (u32)~index) ^ 0x8000000000000000ull);
      ((float2*)a.sums.data)[at] = make_float2(top, sum);
    }
  }

  static constexpr u32 LEAST = 0xff800000u;  // minus infinity
};

}  // namespace ev
