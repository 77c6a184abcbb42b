// attention_decode on a GPU: a token, a KV head and a split of its past, on tensor cores.
//
// A warp takes 16 positions at a time, TEAM warps 16 · TEAM. Scores are mma(queries, keys): lane (g, q) holds dimensions
// 8q + 32i .. + 7 of query head g (rows beyond the group are zero) and of the keys at positions g and g + 8, 16 bytes a
// load; taking both with the same permutation of the dimensions leaves the product as it is. Probabilities come out in
// the layout that the second product wants them in (Dao, 2023); values go through shared memory, transposed by ldmatrix.
//
// The first 16 · TEAM positions are fetched before the task's dependencies are there: the past was written in earlier
// steps. Norm and rotation need two shuffles in all: dimension d turns with d + head_dim / 2, which the same lane holds.
#pragma once

namespace ev {

template <class A>
struct attention_decode_op {
  static constexpr bool RUNS = false;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, PAGE = A::page_size;
  static constexpr int NC = D / 32;                  // 16-byte pieces of a head vector in a lane
  static constexpr int ROW = D * 2 + 16;             // bytes of a staged value: rows start 16 bytes apart modulo 128
  static constexpr int TABLES = ROW + D * 8;         // bytes of the own value, the rotation and the norms' weights
  static constexpr int FIT = (SCRATCH - TABLES) / (16 * ROW), TEAM = FIT < WARPS ? FIT : WARPS, SPAN = 16 * TEAM;
  static constexpr int OWN = TEAM * 16 * ROW, ROPE = OWN + ROW, NORMS = ROPE + D * 4;  // offsets in the scratch memory
  static_assert(D % 64 == 0 && D <= 256, "attention_decode needs a head size of 64, 128, 192 or 256");
  static_assert(GROUP <= 8, "attention_decode needs at most 8 query heads for each KV head");
  static_assert(TEAM >= 1 && TEAM * GROUP * (D + 2) * 4 <= SCRATCH, "attention_decode must fit in the scratch memory");

  uint4 k[2][NC];
  int pos, begin, end;
  const int* pages;

  __device__ __forceinline__ i64 cell(const A& a, int h, int p) const {
    return ((i64)h * A::k_past_t::dim1 + (i64)__ldg(pages + p / PAGE) * PAGE + p % PAGE) * D;
  }

  // keys at positions base + g and base + 8 + g into registers, values of all 16 into shared memory
  __device__ __forceinline__ void fetch(const A& a, const Worker& w, int h, int base) {
    const int g = w.lane >> 2, q = w.lane & 3;
    #pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int p = base + n * 8 + g;
      const bool live = p < end;
      const i64 at = cell(a, h, live ? p : 0);
      u8* row = w.scratch + (w.warp * 16 + n * 8 + g) * ROW + q * 16;
      #pragma unroll
      for (int i = 0; i < NC; ++i) {
        k[n][i] = live ? *(const uint4*)(a.k_past.data + at + i * 32 + q * 8) : make_uint4(0, 0, 0, 0);
        if (live) copy_16(row + i * 64, a.v_past.data + at + i * 32 + q * 8);
        else *(uint4*)(row + i * 64) = make_uint4(0, 0, 0, 0);
      }
    }
  }

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int t, int h, int j) {
    pos = __ldg(a.pos.data + t);
    begin = __ldg(a.split_begin.data + j);
    end = ev_min(__ldg(a.split_end.data + j), pos);
    pages = a.block_table.data + (i64)__ldg(a.seq.data + t) * A::block_table_t::dim1;
    if (w.warp < TEAM && begin + w.warp * 16 < end) fetch(a, w, h, begin + w.warp * 16);
    for (int i = w.tid; i < D / 4; i += CONSUMERS) copy_16(w.scratch + ROPE + i * 16, a.rope.data + (i64)pos * D + i * 4);
    if constexpr (A::has_q_norm) {
      for (int i = w.tid; i < D / 4; i += CONSUMERS)
        copy_16(w.scratch + NORMS + i * 16, i < D / 8 ? a.q_norm.data + i * 8 : a.k_norm.data + i * 8 - D);
    }
  }

  // normalises and rotates this lane's pieces of one head vector
  __device__ __forceinline__ void prepare(const Worker& w, bool key, int q, uint4 (&v)[NC]) const {
    const float* rope = (const float*)(w.scratch + ROPE) + q * 8;
    const bf16* norm = (const bf16*)(w.scratch + NORMS) + (key ? D : 0);
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
      s = rsqrtf(square / D + A::eps);
    }
    #pragma unroll
    for (int i = 0; i < NC / 2; ++i) {
      u32 *lo = &v[i].x, *hi = &v[i + NC / 2].x;
      uint4 ln, hn;
      if constexpr (A::has_q_norm) {
        ln = *(const uint4*)(norm + i * 32 + q * 8);
        hn = *(const uint4*)(norm + i * 32 + q * 8 + D / 2);
      }
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        float x0 = low_half(lo[e]), x1 = high_half(lo[e]), y0 = low_half(hi[e]), y1 = high_half(hi[e]);
        if constexpr (A::has_q_norm) {
          const u32 l = (&ln.x)[e], u = (&hn.x)[e];
          x0 *= s * low_half(l); x1 *= s * high_half(l); y0 *= s * low_half(u); y1 *= s * high_half(u);
        }
        const float2 c = *(const float2*)(rope + i * 32 + 2 * e), n = *(const float2*)(rope + D / 2 + i * 32 + 2 * e);
        lo[e] = pack_halves(x0 * c.x - y0 * n.x, x1 * c.y - y1 * n.y);
        hi[e] = pack_halves(y0 * c.x + x0 * n.x, y1 * c.y + x1 * n.y);
      }
    }
  }

  // 16 positions: scores, running softmax, weighted values. `live`: how many of them count.
  __device__ __forceinline__ void attend(const Worker& w, const uint4 (&qv)[NC], int live, float (&o)[D / 8][4], float& top, float& sum) const {
    const int q = w.lane & 3;
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
    float next = top;
    #pragma unroll
    for (int n = 0; n < 2; ++n) {
      #pragma unroll
      for (int c = 0; c < 2; ++c) {
        s[n][c] = n * 8 + 2 * q + c < live ? s[n][c] * scale : -1e30f;
        next = fmaxf(next, s[n][c]);
      }
    }
    next = fmaxf(next, __shfl_xor_sync(~0u, next, 1));
    next = fmaxf(next, __shfl_xor_sync(~0u, next, 2));
    const float keep = __expf(top - next);
    sum *= keep;
    #pragma unroll
    for (int n = 0; n < 2; ++n) {
      #pragma unroll
      for (int c = 0; c < 2; ++c) {
        s[n][c] = n * 8 + 2 * q + c < live ? __expf(s[n][c] - next) : 0.f;
        sum += s[n][c];
      }
    }
    top = next;
    const u32 p0 = pack_halves(s[0][0], s[0][1]), p1 = pack_halves(s[1][0], s[1][1]);
    const u8* row = w.scratch + (w.warp * 16 + w.lane % 16) * ROW + w.lane / 16 * 16;
    #pragma unroll
    for (int d = 0; d < D / 8; d += 2) {
      u32 b[4];
      load_matrices_transposed(b, row + d * 16);
      o[d][0] *= keep; o[d][1] *= keep; o[d + 1][0] *= keep; o[d + 1][1] *= keep;
      mma_8816(o[d], p0, p1, b[0], b[1]);
      mma_8816(o[d + 1], p0, p1, b[2], b[3]);
    }
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int t, int h, int j) {
    const int g = w.lane >> 2, q = w.lane & 3;
    const bool mine = begin <= pos && pos < __ldg(a.split_end.data + j);  // the token's own position is in this split
    const int length = end - begin + mine, teams = ev_min(TEAM, (length + 15) / 16);
    float o[D / 8][4] = {}, top = -1e30f, sum = 0.f;
    wait_copies();
    w.sync();  // shows the staged tables to all
    if (w.warp < teams) {
      const bf16* row = a.q_in.data + (i64)t * A::q_in_t::dim1 + q * 8;
      uint4 qv[NC], own_k[NC];
      u8* own_v = w.scratch + OWN + q * 16;  // staged by the warp that will use it
      const bool owner = mine && w.warp == (length - 1) / 16 % TEAM;
      #pragma unroll
      for (int i = 0; i < NC; ++i) {
        qv[i] = g < GROUP ? load_16(row + (h * GROUP + g) * D + i * 32) : make_uint4(0, 0, 0, 0);
        if (owner) {
          own_k[i] = load_16(row + (A::num_heads + h) * D + i * 32);
          if (g == 0) copy_16(own_v + i * 64, row + (A::num_heads + A::num_kv_heads + h) * D + i * 32);
        }
      }
      prepare(w, false, q, qv);
      for (int base = begin + w.warp * 16; base < begin + length; base += SPAN) {
        if (base != begin + w.warp * 16) fetch(a, w, h, base);
        const int live = ev_min(16, begin + length - base);
        if (owner && base + live == begin + length) {  // the own position is the last of these
          if (base >= end) {
            #pragma unroll
            for (int n = 0; n < 2; ++n)
              #pragma unroll
              for (int i = 0; i < NC; ++i) {
                k[n][i] = make_uint4(0, 0, 0, 0);
                *(uint4*)(w.scratch + (w.warp * 16 + n * 8 + g) * ROW + q * 16 + i * 64) = make_uint4(0, 0, 0, 0);
              }
          }
          prepare(w, true, q, own_k);
          wait_copies();
          __syncwarp();
          const int at = pos - base;
          #pragma unroll
          for (int i = 0; i < NC; ++i) {
            if (at == g) k[0][i] = own_k[i];
            if (at == g + 8) k[1][i] = own_k[i];
            if (g == 0) {
              const i64 out = cell(a, h, pos) + i * 32 + q * 8;
              *(uint4*)(a.k_new.data + out) = own_k[i];
              const uint4 v = *(const uint4*)(own_v + i * 64);
              *(uint4*)(a.v_new.data + out) = v;
              *(uint4*)(w.scratch + (w.warp * 16 + at) * ROW + q * 16 + i * 64) = v;
            }
          }
        }
        wait_copies();
        __syncwarp();
        attend(w, qv, live, o, top, sum);
        __syncwarp();
      }
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
    }
    w.sync();  // the staged values have been read
    float* values = (float*)w.scratch;                 // [TEAM, GROUP, D]
    float2* stats = (float2*)(values + TEAM * GROUP * D);
    if (w.warp < teams && g < GROUP) {
      float* p = values + (w.warp * GROUP + g) * D + q * 2;
      #pragma unroll
      for (int d = 0; d < D / 8; ++d) *(float2*)(p + d * 8) = make_float2(o[d][0], o[d][1]);
      if (q == 0) stats[w.warp * GROUP + g] = make_float2(top, sum);
    }
    w.sync();
    const int splits = a.part.dim2;
    for (int x = w.tid; x < GROUP * D; x += CONSUMERS) {
      const int head = x / D;
      float m = -1e30f, n = 0.f, v = 0.f;
      for (int i = 0; i < teams; ++i) m = fmaxf(m, stats[i * GROUP + head].x);
      for (int i = 0; i < teams; ++i) {
        const float2 s = stats[i * GROUP + head];
        const float f = __expf(s.x - m);
        n += f * s.y;
        v += f * values[i * GROUP * D + x];
      }
      const i64 at = ((i64)t * A::num_heads + h * GROUP + head) * splits + j;
      a.part.data[at * D + x % D] = v;
      if (x % D == 0) { a.stats.data[at * 2] = m; a.stats.data[at * 2 + 1] = n; }
    }
  }
};

}  // namespace ev
