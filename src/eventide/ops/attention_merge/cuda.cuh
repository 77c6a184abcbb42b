// attention_merge on a GPU: one head a task. head_dim threads hold one output each; the block has SHARES such teams, which
// take every SHARES-th split, eight of all teams at a time so that their loads overlap, and are joined in shared memory.
#pragma once

namespace ev {

template <class A>
struct attention_merge_op : Stateless {
  static constexpr bool RUNS = false, ANNOUNCES = true;
  static constexpr int D = A::head_dim, SHARES = CONSUMERS / D, TOGETHER = SHARES < 8 ? 8 / SHARES : 1;
  static_assert(CONSUMERS % D == 0, "attention_merge needs a head size that divides 256");
  static_assert(SHARES * (D + 2) * 4 <= SCRATCH, "attention_merge's shares must fit in the scratch memory");

  __device__ __forceinline__ void run(const A& a, Worker& w, int t, int h) {
    const int splits = a.part.dim2, share = w.tid / D, d = w.tid % D;
    const i64 head = (i64)t * A::num_heads + h;
    const float2* stats = (const float2*)a.stats.data + head * splits;
    const float* part = a.part.data + head * splits * D + d;
    float top = -1e30f, total = 0.f, v = 0.f;
    for (int j0 = share; j0 < splits; j0 += TOGETHER * SHARES) {
      float2 s[TOGETHER];
      float p[TOGETHER];
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) {
        const int j = j0 + i * SHARES;
        s[i] = j < splits ? load_8(stats + j) : make_float2(-1e30f, 0.f);
        p[i] = j < splits ? load_4(part + (i64)j * D) : 0.f;
      }
      if constexpr (A::part_t::polled && A::stats_t::polled) {
        settle_together(w, [&] {
          bool missing = false;
          #pragma unroll
          for (int i = 0; i < TOGETHER; ++i) {
            const int j = j0 + i * SHARES;
            if (absent(s[i])) { s[i] = load_8(stats + j); missing = true; }
            if (absent(p[i])) { p[i] = load_4(part + (i64)j * D); missing = true; }
          }
          return missing;
        });
      }
      float next = top;
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) next = fmaxf(next, s[i].x);
      const float keep = __expf(top - next);
      total *= keep;
      v *= keep;
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) {
        const float f = __expf(s[i].x - next);
        total += f * s[i].y;
        v += f * p[i];
      }
      top = next;
    }
    w.settled();
    float* values = (float*)w.scratch;          // [SHARES, D]
    float2* sums = (float2*)(values + SHARES * D);
    values[w.tid] = v;
    if (d == 0) sums[share] = make_float2(top, total);
    w.sync();
    if (w.tid < D) {
      float m = -1e30f, n = 0.f, x = 0.f;
      #pragma unroll
      for (int i = 0; i < SHARES; ++i) m = fmaxf(m, sums[i].x);
      #pragma unroll
      for (int i = 0; i < SHARES; ++i) {
        const float f = __expf(sums[i].x - m);
        n += f * sums[i].y;
        x += f * values[i * D + d];
      }
      x = __fdividef(x, n);
      if constexpr (A::y_t::layout == TILED) {
        const float next = __shfl_down_sync(D < 32 ? (1u << D % 32) - 1 : ~0u, x, 1);
        if (d % 2 == 0) put_pair(a.y, t, h * D + d, pack_halves(x, next));
      } else {
        put(a.y.data + (i64)t * A::y_t::dim1 + h * D + d, x);
      }
    }
  }
};

}  // namespace ev
