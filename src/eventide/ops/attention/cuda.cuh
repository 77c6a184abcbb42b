// attention on a GPU: one query token and one KV head a task; the group's query heads share every load of K and V.
//
// LANES = head_dim / 8 lanes hold one position, 16 bytes each, so a warp takes 32 / LANES positions at once and the block
// PARTS = 8 * 32 / LANES streams of positions. Each stream keeps a running maximum, sum and weighted values (online
// softmax, Milakov and Gimelshein, 2018); they are merged in shared memory in a fixed order.
#pragma once

namespace ev {

template <class A>
struct attention_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, LANES = D / 8;
  static constexpr int PER_WARP = 32 / LANES, PARTS = WARPS * PER_WARP;
  static constexpr int PAGE = A::page_size;
  static_assert(D % 8 == 0 && 32 % LANES == 0, "attention needs a head size of 8, 16, 32, 64, 128 or 256");
  static_assert(PARTS * GROUP * (D + 2) * 4 <= SCRATCH, "attention's partial results must fit in the scratch memory");

  __device__ __forceinline__ void run(const A& a, Worker& w, int i, int h) {
    for (int t = a.tile_indptr.data[i]; t < a.tile_indptr.data[i + 1]; ++t) {
      one(a, w, t, a.tile_seq.data[i], h);
      w.sync();
    }
  }

  static __device__ __forceinline__ void one(const A& a, Worker& w, int t, int seq, int h) {
    const int length = a.pos.data[t] + 1, part = w.tid / LANES, piece = w.tid % LANES;
    const int* pages = a.block_table.data + (i64)seq * A::block_table_t::dim1;
    float q[GROUP][8], acc[GROUP][8], top[GROUP], sum[GROUP];
    const bf16* qp = a.q.data + (i64)t * A::q_t::dim1 + h * GROUP * D + piece * 8;
    const float scale = rsqrtf((float)D);
    #pragma unroll
    for (int g = 0; g < GROUP; ++g) {
      const uint4 v = load_16(qp + g * D);
      const u32* x = &v.x;
      #pragma unroll
      for (int e = 0; e < 8; ++e) { q[g][e] = scale * (e & 1 ? high_half(x[e / 2]) : low_half(x[e / 2])); acc[g][e] = 0.f; }
      top[g] = -1e30f;
      sum[g] = 0.f;
    }
    const i64 head = (i64)h * A::k_cache_t::dim1;
    for (int base = 0; base < length; base += PARTS) {
      const int p = base + part;
      const bool live = p < length;
      const int safe = live ? p : length - 1;
      const i64 at = (head + (i64)pages[safe / PAGE] * PAGE + safe % PAGE) * D + piece * 8;
      const uint4 kv = *(const uint4*)(a.k_cache.data + at), vv = *(const uint4*)(a.v_cache.data + at);
      const u32* kx = &kv.x;
      const u32* vx = &vv.x;
      #pragma unroll
      for (int g = 0; g < GROUP; ++g) {
        float s = 0.f;
        #pragma unroll
        for (int e = 0; e < 4; ++e) s += q[g][2 * e] * low_half(kx[e]) + q[g][2 * e + 1] * high_half(kx[e]);
        #pragma unroll
        for (int o = LANES / 2; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
        if (live) {
          const float next = fmaxf(top[g], s), keep = __expf(top[g] - next), add = __expf(s - next);
          #pragma unroll
          for (int e = 0; e < 4; ++e) {
            acc[g][2 * e] = acc[g][2 * e] * keep + add * low_half(vx[e]);
            acc[g][2 * e + 1] = acc[g][2 * e + 1] * keep + add * high_half(vx[e]);
          }
          sum[g] = sum[g] * keep + add;
          top[g] = next;
        }
      }
    }
    float* values = (float*)w.scratch;                   // [PARTS, GROUP, D]
    float* stats = values + PARTS * GROUP * D;           // [PARTS, GROUP, 2]
    #pragma unroll
    for (int g = 0; g < GROUP; ++g) {
      #pragma unroll
      for (int e = 0; e < 8; ++e) values[(part * GROUP + g) * D + piece * 8 + e] = acc[g][e];
      if (piece == 0) { stats[(part * GROUP + g) * 2] = top[g]; stats[(part * GROUP + g) * 2 + 1] = sum[g]; }
    }
    w.sync();
    for (int x = w.tid; x < GROUP * D; x += CONSUMERS) {
      const int g = x / D;
      float m = -1e30f, total = 0.f, v = 0.f;
      for (int s = 0; s < PARTS; ++s) m = fmaxf(m, stats[(s * GROUP + g) * 2]);
      for (int s = 0; s < PARTS; ++s) {
        const float f = __expf(stats[(s * GROUP + g) * 2] - m);
        total += f * stats[(s * GROUP + g) * 2 + 1];
        v += f * values[s * GROUP * D + x];
      }
      put(a.y.data + (i64)t * A::y_t::dim1 + h * GROUP * D + x, v / total);
    }
  }
};

}  // namespace ev
