// attention on a GPU, in three variants.
//
// `attention_matrix_op` (device/cuda/attention.cuh), for head sizes of whole 32 and at most 16 query heads a KV head.
//
// `attention_wide_op`, where a tile may have more than those 16 rows, for head sizes of 64 and 128: prompts. A walk has 128 rows,
// 16 of each warp, which holds them as A fragments with sums of its own, and all warps take the same 64 positions at a time, so
// that a key is read from the L2 cache once for 128 rows. Both products are wgmma's: keys are rows of B, values its columns, as
// cp.async brings them from the cache into shared memory (128 bytes a row, pieces swizzled by row % 8), two blocks of each. A
// block's scores become probabilities while the one before is multiplied with its values (FlashAttention 3, 2024). A tile of 16
// rows or fewer is walked as above, its past shared out to the warps: at run time, a step may hold both.
//
//     4 query heads a KV head, a tile of 32 tokens at positions 100 .. 131: three blocks; warp 5 has tokens 20 .. 23, of which row
//     4t + h is head h of token t; only in the blocks from 64 on has it scores to hide
//
// `attention_plain_op`, for all other sizes: LANES = head_dim / 8 lanes hold one position, 16 bytes each, so a warp takes 32 /
// LANES positions at once and the block PARTS = 8 * 32 / LANES streams of positions, joined in shared memory.
#pragma once

namespace ev {

// Tiles of many queries: each warp has 16 rows of its own, a warpgroup 64.
template <class A>
struct attention_wide_op {
  static constexpr bool RUNS = true;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, PAGE = A::page_size;
  static constexpr int ROWS = WARPS * 16, TOGETHER = ROWS / GROUP;
  static constexpr int KEYS = 64;                               // positions of a block
  static constexpr int TILE = KEYS * D * 2, STAGE = 2 * TILE;   // bytes of a block's keys, and with its values
  static constexpr int PAD = (1024 - RING % 1024) % 1024;       // so that stages begin where the swizzle does
  static_assert(PAD + 2 * STAGE <= SCRATCH, "attention's keys and values must fit in the scratch memory");
  // a thread copies piece `tid % PIECES` of rows `tid / PIECES`, + AT_ONCE, ...
  static constexpr int PIECES = D / 8, AT_ONCE = CONSUMERS / PIECES, EACH = KEYS / AT_ONCE;
  static constexpr bool WHOLE = PAGE % KEYS == 0;               // a block is in one page
  static constexpr float LEAST = -3e38f;

  static __device__ __forceinline__ bool is_few(const A& a, int i) { return (a.tile_indptr.data[i + 1] - a.tile_indptr.data[i]) * GROUP <= 16; }

  int issued;  // of the other variant

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int i, int h, int count) {
    if (!is_few(a, i)) return;
    attention_matrix_op<A> few;
    few.prefetch(a, w, i, h, count);
    issued = few.issued;
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int i, int h, int count) {
    if (is_few(a, i)) {
      attention_matrix_op<A> few;  // found again: kept from `prefetch` on it would take registers from the others
      few.begin(a, i, count);
      few.issued = issued;
      few.run(a, w, i, h, count);
      return w.place();
    }
    const int begin = a.tile_indptr.data[i], end = a.tile_indptr.data[i + 1];
    const int* const pages = a.block_table.data + (i64)a.tile_seq.data[i] * A::block_table_t::dim1;
    #pragma unroll 1
    for (int n = 0; n < count; ++n) {
      #pragma unroll 1
      for (int t = begin; t < end; t += TOGETHER) {
        if (n > 0 || t > begin) w.sync();
        some(a, w, pages, t, ev_min(TOGETHER, end - t), h + n);
      }
    }
    w.place();  // so that it isn't kept meanwhile
  }

  // What a thread copies of a block. Where a block is in one page, its place is looked up ahead. Here and below, what follows
  // from a thread's index is computed again where it is needed: registers that live across the products are dear.
  struct Copier {
    const A& a;
    const int* pages;
    i64 head;  // of the caches, first element
    int length, here, ahead;  // first slots of two blocks
    __device__ __forceinline__ int find(int base) const { return WHOLE && base < length ? pages[base / PAGE] * PAGE + base % PAGE : 0; }
    // beyond the end: zeros, for what stands in the cache may be no number, of which 0 times is none either
    __device__ __forceinline__ void copy(const bf16* cache, int slot0, int base, u32 to) const {
      const int tid = thread_index(), row = tid / PIECES, piece = tid % PIECES;
      to += place(row, piece);
      #pragma unroll
      for (int k = 0; k < EACH; ++k) {
        const int r = row + k * AT_ONCE, p = base + r;
        const bool live = p < length;
        const int slot = WHOLE ? slot0 + r : live ? pages[p / PAGE] * PAGE + p % PAGE : 0;
        copy_16_if(to + k * AT_ONCE * 128, cache + head + (i64)slot * D + piece * 8, live);
      }
    }
  };

  static __device__ __forceinline__ void copy_queries(const A& a, u32 to, int t, int h, int rows) {
    const int tid = thread_index(), row = tid / PIECES, piece = tid % PIECES;
    #pragma unroll
    for (int k = 0; k < ROWS / AT_ONCE; ++k) {
      const int r = row + k * AT_ONCE;
      const bool live = r < rows;
      const bf16* const from = a.q.data + (i64)(t + (live ? r / GROUP : 0)) * A::q_t::dim1 + (h * GROUP + (live ? r % GROUP : 0)) * D + piece * 8;
      copy_16_if(to + r / KEYS * TILE + place(r % KEYS, piece), from, live);
    }
  }

  // where piece `piece` of row `row` stands in a tile: 64 dimensions after another, rows of 128 bytes
  static __device__ __forceinline__ u32 place(int row, int piece) {
    return (piece >> 3) * (KEYS * 128) + row * 128 + (((piece ^ row) & 7) << 4);
  }

  // `tokens` tokens from t on, with all query heads of KV head h. Keys are one block ahead of values: while the tensor cores
  // multiply probabilities with values, the next block's scores become probabilities.
  __device__ __forceinline__ void some(const A& a, const Worker& w, const int* pages, int t, int tokens, int h) const {
    const int length = a.pos.data[t] + tokens;
    const u32 memory = shared_address(w.scratch) + PAD;
    Copier c = {a, pages, (i64)h * A::k_cache_t::dim1 * D, length, memory};
    u32 x[D / 16][4];  // this warp's queries, as A fragments
    c.here = c.find(0);
    copy_queries(a, memory + STAGE, t, h, tokens * GROUP);
    commit_copies();
    c.copy(a.k_cache.data, c.here, 0, memory);
    c.copy(a.v_cache.data, c.here, 0, memory + TILE);
    commit_copies();
    c.here = c.find(KEYS);
    c.ahead = c.find(2 * KEYS);
    wait_copies_but<1>();
    w.sync();
    {
      const int tid = thread_index(), lane = tid % 32;
      const u32 mine = memory + STAGE + tid / 128 * TILE;
      #pragma unroll
      for (int k = 0; k < D / 16; ++k) load_matrices(x[k], mine + place(tid % 128 / 32 * 16 + lane % 16, 2 * k + lane / 16));
    }
    wait_copies();
    fence_async_shared();
    w.sync();  // all have their queries, whose place the next keys take, and the first block is there
    c.copy(a.k_cache.data, c.here, KEYS, memory + STAGE);
    commit_copies();
    const float scale = rsqrtf((float)D) * 1.4426950408889634f;  // powers of two instead of e
    float s[KEYS / 2], o[D / 2] = {}, top[2] = {LEAST, LEAST}, sum[2] = {0.f, 0.f}, keep[2];
    u32 p[KEYS / 16][4];
    touch(s);
    wgmma_fence();
    scores(s, x, memory);
    wgmma_wait<0>();
    touch(s);
    if (KEYS - 1 > seen_by_all(length, tokens)) hide(s, length - tokens, tokens);
    weigh(s, top, sum, keep, scale);
    pack(p, s);
    u32 now = memory, next = memory + STAGE;  // stages of block j and j + 1
    int base = KEYS;
    if (warpgroup() == 1) named_arrive(TURNS, CONSUMERS);
    #pragma unroll 1
    for (; base < length; base += KEYS) {
      wait_copies();
      fence_async_shared();
      w.sync();  // keys of this block and values of the one before are there, and all have done with those before them
      touch(s);
      touch(o);
      wgmma_fence();
      named_barrier(TURNS + warpgroup(), CONSUMERS);
      scores(s, x, next);
      add_values(o, p, now + TILE);
      named_arrive(TURNS + 1 - warpgroup(), CONSUMERS);
      c.copy(a.v_cache.data, c.here, base, next + TILE);
      c.copy(a.k_cache.data, c.ahead, base + KEYS, now);
      commit_copies();
      c.here = c.ahead;
      c.ahead = c.find(base + 2 * KEYS);
      wgmma_wait<1>();
      touch(s);
      if (base + KEYS - 1 > seen_by_all(length, tokens)) hide(s, length - tokens - base, tokens);
      weigh(s, top, sum, keep, scale);
      wgmma_wait<0>();
      touch(o);
      if (__any_sync(~0u, keep[0] != 1.f || keep[1] != 1.f)) {
        #pragma unroll
        for (int i = 0; i < D / 2; ++i) o[i] *= keep[i / 2 % 2];
      }
      pack(p, s);
      const u32 other = now;
      now = next;
      next = other;
    }
    if (warpgroup() == 0) named_barrier(TURNS, CONSUMERS);
    wait_copies();
    fence_async_shared();
    w.sync();
    touch(o);
    wgmma_fence();
    add_values(o, p, now + TILE);
    wgmma_wait<0>();
    touch(o);
    const int tid = thread_index(), q = tid & 3;
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      const int row = tid / 32 * 16 + r * 8 + tid % 32 / 4;
      if (row >= tokens * GROUP) continue;
      const float inverse = 1.f / sum[r];
      const int token = t + row / GROUP, column = (h * GROUP + row % GROUP) * D + 2 * q;
      #pragma unroll
      for (int n = 0; n < D / 8; ++n) store_pair(a, token, column + n * 8, o[n * 4 + 2 * r] * inverse, o[n * 4 + 2 * r + 1] * inverse);
    }
  }

  // The warpgroups issue their products in turns, at the barriers TURNS and TURNS + 1: the tensor cores are then at one's while
  // the other weighs its scores.
  static constexpr int TURNS = 2;
  static __device__ __forceinline__ int warpgroup() { return thread_index() / 128; }

  // the last position that each row of the warp sees
  static __device__ __forceinline__ int seen_by_all(int length, int tokens) {
    return length - tokens + ev_min(tokens - 1, thread_index() / 32 * 16 / GROUP);
  }

  // scores of positions beyond a row's own; `first`: the first token's, in the block
  static __device__ __forceinline__ void hide(float (&s)[KEYS / 2], int first, int tokens) {
    const int tid = thread_index(), q = tid & 3;
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int last = first + ev_min(tokens - 1, (tid / 32 * 16 + r * 8 + tid % 32 / 4) / GROUP) - 2 * q;
      #pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
        if (n * 8 > last) s[n * 4 + 2 * r] = LEAST;
        if (n * 8 + 1 > last) s[n * 4 + 2 * r + 1] = LEAST;
      }
    }
  }

  // both are under way when they return
  static __device__ __forceinline__ void scores(float (&s)[KEYS / 2], const u32 (&x)[D / 16][4], u32 keys) {
    const u64 b = matrix_descriptor(keys);
    wgmma_rows<0>(s, x[0], b);
    #pragma unroll
    for (int k = 1; k < D / 16; ++k) wgmma_rows<1>(s, x[k], b + (k / 4 * (KEYS * 128) + k % 4 * 32) / 16);
    wgmma_commit();
  }
  static __device__ __forceinline__ void add_values(float (&o)[D / 2], const u32 (&p)[KEYS / 16][4], u32 values) {
    const u64 b = columns_descriptor(values, KEYS * 128);
    #pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) wgmma_columns(o, p[k], b + k * 2048 / 16);
    wgmma_commit();
  }

  // scores to probabilities; `keep`: by what has been summed is to be multiplied, as the maximum has grown
  static __device__ __forceinline__ void weigh(float (&s)[KEYS / 2], float (&top)[2], float (&sum)[2], float (&keep)[2], float scale) {
    #pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = s[2 * r];
      #pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) most = fmaxf(most, fmaxf(s[n * 4 + 2 * r], s[n * 4 + 2 * r + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float now = fmaxf(top[r], most), shift = now * scale;
      keep[r] = power_of_two((top[r] - now) * scale);
      top[r] = now;
      float added[2] = {0.f, 0.f};
      #pragma unroll
      for (int n = 0; n < KEYS / 8; ++n) {
        #pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& v = s[n * 4 + 2 * r + e];
          v = power_of_two(fmaf(v, scale, -shift));
          added[e] += v;
        }
      }
      sum[r] = sum[r] * keep[r] + (added[0] + added[1]);
    }
  }

  // probabilities as A fragments
  static __device__ __forceinline__ void pack(u32 (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
    #pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) p[i / 4][i % 4] = pack_halves(s[2 * i], s[2 * i + 1]);
  }
};

template <class A>
struct attention_plain_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, LANES = D / 8;
  static constexpr int PER_WARP = 32 / LANES, PARTS = WARPS * PER_WARP;
  static constexpr int PAGE = A::page_size;
  static_assert(D % 8 == 0 && 32 % LANES == 0, "attention needs a head size of 8, 16, 32, 64, 128 or 256");
  static_assert(PARTS * GROUP * (D + 2) * 4 <= SCRATCH, "attention's partial results must fit in the scratch memory");

  __device__ __forceinline__ void run(const A& a, Worker& w, int i, int h, int) {
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
      v = __fdividef(v, total);
      if constexpr (A::y_t::layout == TILED) {
        const float next = __shfl_down_sync(__activemask(), v, 1);
        if (x % 2 == 0) put_pair(a.y, t, h * GROUP * D + x, pack_halves(v, next));
      } else {
        put(a.y.data + (i64)t * A::y_t::dim1 + h * GROUP * D + x, v);
      }
    }
  }
};

template <class A>
struct attention_variant {
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads;
  typedef typename either<D % 32 == 0 && GROUP <= 16, attention_matrix_op<A>, attention_plain_op<A>>::type narrow;
  typedef typename either<(D == 64 || D == 128) && GROUP <= 16 && (A::tile_queries * GROUP > 16), attention_wide_op<A>, narrow>::type type;
};
template <class A>
struct attention_op : attention_variant<A>::type {};

}  // namespace ev
