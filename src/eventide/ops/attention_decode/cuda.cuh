// attention_decode on a GPU: a token, a KV head and a split of its past, on tensor cores.
//
// The split is walked in spans of 128 positions. First every warp scores 16 of them: mma(queries, keys), where lane (g, q)
// holds dimensions 8q + 32i .. + 7 of query head g (rows beyond the group are zero) and of the keys at positions g and
// g + 8; taking both with the same permutation of the dimensions leaves the product as it is. Then the warps agree on
// each head's largest score, and probabilities go to shared memory. Last, every warp multiplies all 128 of them with the
// values of its share of the dimensions, which ldmatrix transposes on the way.
//
// The first span is fetched before the task's dependencies are there: the past was written in earlier steps. By then the
// loader has had it brought into L2. Row GROUP of the queries is the token's own key, so one pass normalises and rotates
// both. The code is kept short on purpose: it runs once a layer, and instructions come from as far as data.
#pragma once

namespace ev {

template <class A>
struct attention_decode_op {
  static constexpr bool RUNS = false, ANNOUNCES = true;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, PAGE = A::page_size;
  static constexpr int NC = D / 32;                   // 16-byte pieces of a head vector in a lane
  static constexpr int SPAN = 16 * WARPS, ROW = D * 2 + 16;  // bytes of a staged vector: 16 apart modulo 128
  static constexpr int P_ROW = SPAN * 2 + 16;         // bytes of a head's probabilities
  static constexpr int OWN_K = SPAN * ROW, OWN_V = OWN_K + ROW, PROBS = OWN_V + ROW, STATS = PROBS + 8 * P_ROW;
  static constexpr int ROPE = STATS + WARPS * 8 * 8, NORMS = ROPE + D * 4, BYTES = NORMS + D * 4;
  static constexpr int TILES = D / 16;                // of 16 dimensions; warp w multiplies tiles w, w + 8, ...
  static constexpr int MINE = (TILES + WARPS - 1) / WARPS;
  static_assert(D % 64 == 0 && D <= 256, "attention_decode needs a head size of 64, 128, 192 or 256");
  static_assert(GROUP <= 7, "attention_decode needs at most 7 query heads for each KV head");
  static_assert(BYTES <= SCRATCH, "attention_decode must fit in the scratch memory");

  uint4 k[2][NC];
  int pos, begin, end;
  const int* pages;

  __device__ __forceinline__ i64 cell(const A& a, int h, int p) const {
    return ((i64)h * A::k_past_t::dim1 + (i64)pages[p / PAGE] * PAGE + p % PAGE) * D;
  }

  // the past of a task, which stands in memory since the step before the last at least, page by page
  static __device__ __forceinline__ void ahead(const A& a, Loader& l, int t, int h, int j) {
    const int pos = a.pos.data[t], end = ev_min(a.split_end.data[j], pos);
    const int* const table = a.block_table.data + (i64)a.seq.data[t] * A::block_table_t::dim1;
    for (int p = (int)(a.split_begin.data[j] / PAGE + l.lane) * PAGE; p < end; p += LANES * PAGE) {
      const i64 at = ((i64)h * A::k_past_t::dim1 + (i64)table[p / PAGE] * PAGE) * D;
      prefetch_bulk(a.k_past.data + at, PAGE * D * 2);
      prefetch_bulk(a.v_past.data + at, PAGE * D * 2);
    }
  }

  // of the span from `base` on: the keys of this warp's 16 positions into registers, their values into shared memory
  __device__ __forceinline__ void fetch(const A& a, const Worker& w, int h, int base) {
    const int g = w.lane >> 2, q = w.lane & 3;
    #pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int row = w.warp * 16 + n * 8 + g, p = base + row;
      const bool live = p < end;
      const i64 at = cell(a, h, live ? p : 0) + q * 8;
      u8* const staged = w.scratch + row * ROW + q * 16;
      #pragma unroll
      for (int i = 0; i < NC; ++i) {
        k[n][i] = live ? *(const uint4*)(a.k_past.data + at + i * 32) : make_uint4(0, 0, 0, 0);
        if (live) copy_16(staged + i * 64, a.v_past.data + at + i * 32);
        else *(uint4*)(staged + i * 64) = make_uint4(0, 0, 0, 0);
      }
    }
  }

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int t, int h, int j) {
    pos = a.pos.data[t];
    begin = a.split_begin.data[j];
    end = ev_min(a.split_end.data[j], pos);
    pages = a.block_table.data + (i64)a.seq.data[t] * A::block_table_t::dim1;
    for (int i = w.tid; i < D / 4; i += CONSUMERS) {
      copy_16(w.scratch + ROPE + i * 16, a.rope.data + (i64)pos * D + i * 4);
      if constexpr (A::has_q_norm)
        copy_16(w.scratch + NORMS + i * 16, i < D / 8 ? a.q_norm.data + i * 8 : a.k_norm.data + i * 8 - D);
    }
    commit_copies();
    fetch(a, w, h, begin);
    commit_copies();
  }

  // normalises and rotates this lane's pieces of one head vector: dimension d turns with d + D/2, held by the same lane
  __device__ __forceinline__ void prepare(const Worker& w, bool key, uint4 (&v)[NC]) const {
    const int q = w.lane & 3;
    const float* rope = (const float*)(w.scratch + ROPE) + q * 8;
    const bf16* norm = (const bf16*)(w.scratch + NORMS) + (key ? D : 0) + q * 8;
    float s = 1.f;
    if constexpr (A::has_q_norm) {
      float square = 0.f;
      #pragma unroll
      for (int i = 0; i < NC; ++i) {
        const u32* u = &v[i].x;
        #pragma unroll
        for (int e = 0; e < 4; ++e) square += low_half(u[e]) * low_half(u[e]) + high_half(u[e]) * high_half(u[e]);
      }
      square += __shfl_xor_sync(~0u, square, 1);
      square += __shfl_xor_sync(~0u, square, 2);
      s = rsqrtf(square * (1.f / D) + A::eps);
    }
    #pragma unroll
    for (int i = 0; i < NC / 2; ++i) {
      u32 *lo = &v[i].x, *hi = &v[i + NC / 2].x;
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        float x0 = low_half(lo[e]), x1 = high_half(lo[e]), y0 = low_half(hi[e]), y1 = high_half(hi[e]);
        if constexpr (A::has_q_norm) {
          const u32 l = *(const u32*)(norm + i * 32 + 2 * e), u = *(const u32*)(norm + D / 2 + i * 32 + 2 * e);
          x0 *= s * low_half(l); x1 *= s * high_half(l); y0 *= s * low_half(u); y1 *= s * high_half(u);
        }
        const float2 c = *(const float2*)(rope + i * 32 + 2 * e), n = *(const float2*)(rope + D / 2 + i * 32 + 2 * e);
        lo[e] = pack_halves(x0 * c.x - y0 * n.x, x1 * c.y - y1 * n.y);
        hi[e] = pack_halves(y0 * c.x + x0 * n.x, y1 * c.y + x1 * n.y);
      }
    }
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int t, int h, int j) {
    const int g = w.lane >> 2, q = w.lane & 3;
    const bool mine = begin <= pos && pos < a.split_end.data[j];  // the token's own position is in this split
    const int length = ev_max(end - begin, 0) + mine;
    // row g of the queries; row GROUP: the own key; the own value goes straight to shared memory
    const bf16* const row = a.q_in.data + (i64)t * A::q_in_t::dim1 + q * 8;
    const int vector = g < GROUP ? h * GROUP + g : A::num_heads + h;
    const bf16 *const query = row + vector * D, *const value = row + (A::num_heads + A::num_kv_heads + h) * D;
    const bool values = w.warp == 0 && g == 0;
    uint4 qv[NC], own[NC] = {};
    #pragma unroll
    for (int i = 0; i < NC; ++i) {
      qv[i] = load_16(query + i * 32);
      if (values) own[i] = load_16(value + i * 32);
    }
    if constexpr (A::q_in_t::polled && A::k_in_t::polled && A::v_in_t::polled) settle_together(w, [&] {
      bool missing = false;
      #pragma unroll
      for (int i = 0; i < NC; ++i) {
        if (absent(qv[i])) { qv[i] = load_16(query + i * 32); missing = true; }
        if (absent(own[i])) { own[i] = load_16(value + i * 32); missing = true; }
      }
      return missing;
    });
    if (values) {
      #pragma unroll
      for (int i = 0; i < NC; ++i) *(uint4*)(w.scratch + OWN_V + q * 16 + i * 64) = own[i];
    }
    w.settled();
    wait_copies_but<1>();
    w.sync();  // the tables are there; the first span's values are waited for when they are wanted
    prepare(w, g >= GROUP, qv);
    if (w.warp == 0 && g == GROUP) {
      #pragma unroll
      for (int i = 0; i < NC; ++i) *(uint4*)(w.scratch + OWN_K + q * 16 + i * 64) = qv[i];
    }
    w.sync();
    if (mine && w.warp == 0 && g == 0) {
      const i64 out = cell(a, h, pos) + q * 8;
      #pragma unroll
      for (int i = 0; i < NC; ++i) {
        *(uint4*)(a.k_new.data + out + i * 32) = *(const uint4*)(w.scratch + OWN_K + q * 16 + i * 64);
        *(uint4*)(a.v_new.data + out + i * 32) = *(const uint4*)(w.scratch + OWN_V + q * 16 + i * 64);
      }
    }
    float o[MINE][2][4] = {}, top = -1e30f, sum = 0.f;
    for (int base = begin; base < begin + length; base += SPAN) {
      if (base != begin) {
        fetch(a, w, h, base);
      }
      const int own = mine ? pos - base : -1;  // place of the own position in this span
      #pragma unroll
      for (int n = 0; n < 2; ++n) {
        if (own == w.warp * 16 + n * 8 + g) {
          #pragma unroll
          for (int i = 0; i < NC; ++i) {
            k[n][i] = *(const uint4*)(w.scratch + OWN_K + q * 16 + i * 64);
            *(uint4*)(w.scratch + own * ROW + q * 16 + i * 64) = *(const uint4*)(w.scratch + OWN_V + q * 16 + i * 64);
          }
        }
      }
      span(w, qv, begin + length - base, o, top, sum);
    }
    finish(a, w, t, h, j, o, top, sum);
  }

  // one span: scores, probabilities, weighted values. `live`: how many of its positions count.
  __device__ __forceinline__ void span(const Worker& w, const uint4 (&qv)[NC], int live, float (&o)[MINE][2][4], float& top, float& sum) const {
    const int g = w.lane >> 2, q = w.lane & 3;
    float s[2][4] = {};
    #pragma unroll
    for (int i = 0; i < NC; ++i) {
      #pragma unroll
      for (int n = 0; n < 2; ++n) {
        mma_8816(s[n], qv[i].x, qv[i].y, k[n][i].x, k[n][i].y);
        mma_8816(s[n], qv[i].z, qv[i].w, k[n][i].z, k[n][i].w);
      }
    }
    const float scale = rsqrtf((float)D);
    float next = -1e30f;
    #pragma unroll
    for (int n = 0; n < 2; ++n) {
      #pragma unroll
      for (int c = 0; c < 2; ++c) {
        s[n][c] = w.warp * 16 + n * 8 + 2 * q + c < live ? s[n][c] * scale : -1e30f;
        next = fmaxf(next, s[n][c]);
      }
    }
    next = fmaxf(next, __shfl_xor_sync(~0u, next, 1));
    next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
    float* const tops = (float*)(w.scratch + STATS);  // [8 heads, WARPS]
    float* const sums = tops + 8 * WARPS;
    if (q == 0) tops[g * WARPS + w.warp] = next;
    w.sync();
    next = top;
    #pragma unroll
    for (int i = 0; i < WARPS; ++i) next = fmaxf(next, tops[g * WARPS + i]);
    const float keep = __expf(top - next);
    top = next;
    float part = 0.f;
    #pragma unroll
    for (int n = 0; n < 2; ++n) {
      #pragma unroll
      for (int c = 0; c < 2; ++c) {
        s[n][c] = s[n][c] > -1e29f ? __expf(s[n][c] - next) : 0.f;
        part += s[n][c];
      }
      *(u32*)(w.scratch + PROBS + g * P_ROW + (w.warp * 16 + n * 8 + 2 * q) * 2) = pack_halves(s[n][0], s[n][1]);
    }
    part += __shfl_xor_sync(~0u, part, 1);
    part += __shfl_xor_sync(~0u, part, 2);
    if (q == 0) sums[g * WARPS + w.warp] = part;
    wait_copies();
    w.sync();
    part = 0.f;
    #pragma unroll
    for (int i = 0; i < WARPS; ++i) part += sums[g * WARPS + i];
    sum = sum * keep + part;
    const int blocks = ev_min(WARPS, (live + 15) / 16);
    #pragma unroll
    for (int m = 0; m < MINE; ++m) {
      const int tile = w.warp + m * WARPS;
      if (tile >= TILES) break;
      #pragma unroll
      for (int e = 0; e < 2; ++e) { o[m][0][e] *= keep; o[m][1][e] *= keep; }
      const u8* values = w.scratch + w.lane % 16 * ROW + tile * 32 + w.lane / 16 * 16;
      const u8* probs = w.scratch + PROBS + g * P_ROW + q * 4;
      #pragma unroll 1
      for (int i = 0; i < blocks; ++i, values += 16 * ROW, probs += 32) {
        u32 b[4];
        load_matrices_transposed(b, values);
        const u32 p0 = *(const u32*)probs, p1 = *(const u32*)(probs + 16);
        mma_8816(o[m][0], p0, p1, b[0], b[1]);
        mma_8816(o[m][1], p0, p1, b[2], b[3]);
      }
    }
    w.sync();  // the next span overwrites all of this
  }

  __device__ __forceinline__ void finish(const A& a, const Worker& w, int t, int h, int j, const float (&o)[MINE][2][4], float top, float sum) const {
    const int g = w.lane >> 2, q = w.lane & 3;
    if (g >= GROUP) return;
    const i64 at = ((i64)t * A::num_heads + h * GROUP + g) * a.part.dim2 + j;
    #pragma unroll
    for (int m = 0; m < MINE; ++m) {
      const int tile = w.warp + m * WARPS;
      if (tile >= TILES) break;
      #pragma unroll
      for (int n = 0; n < 2; ++n) *(float2*)(a.part.data + at * D + tile * 16 + n * 8 + q * 2) = make_float2(o[m][n][0], o[m][n][1]);
    }
    if (w.warp == 0 && q == 0) *(float2*)(a.stats.data + at * 2) = make_float2(top, sum);
  }
};

}  // namespace ev
