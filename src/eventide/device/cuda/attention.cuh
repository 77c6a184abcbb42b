// Attention of tiles of few rows, which the operators `attention` and `attention_append` share.
//
// `attention_matrix_op`, on tensor cores, for head sizes of whole 32 and at most 16 query heads a KV head: a task's queries
// are columns of B, TOGETHER tokens times the group's heads, 8 or 16 at most. A run of tasks is consecutive KV heads, which share
// the warps: 8, 4, 2 or 1 for each. Every warp walks positions of its own, 16 at a time, with a maximum, sum and weighted values
// of its own (online softmax, Milakov and Gimelshein, 2018): so no barrier stands inside the walk. Keys and values come into a
// ring of the warp's own, of DEPTH items: a block's keys, its values, the next block's keys, ... An item's place is free for the
// one DEPTH later as soon as it has been multiplied, so that nearly all of the ring is under way all the time. Both products
// are transposed: rows of A are positions in the first, dimensions in the second (ldmatrix transposes values), so that eight
// queries fill a product; the probabilities change lanes in between (movmatrix). At the end the warps' sums are joined in their
// order.
//
// What earlier steps have written is there before the task's events are: the ring is filled with it while the task waits, and
// the next items are brought to the L2 cache. Positions below all that the step has of the sequence are such, for the page that
// a token goes to stands in the block table once, where an invariant of it says so (`single`); else nothing is read ahead.
//
//     4 query heads a KV head, a tile of 4 tokens at positions 100 .. 103: row 4t + h is head h of token t, and sees
//     positions 0 .. 100 + t; one head: warp 2 takes positions 32 .. 47, then nothing, as 160 is beyond 103; a run of three
//     heads: warps 2 and 3 have the second one, warp 2 positions 0 .. 15, 32 .. 47, 64 .. 79, 96 .. 111; with a ring of 3 it holds
//     keys of 0, values of 0 and keys of 32, before the events already; then values of 32 in place of keys of 0, keys of 64 in
//     place of values of 0, ...
#pragma once

namespace ev {

// two columns of y, of which the first is even: all that the variants on tensor cores store
template <class A>
__device__ __forceinline__ void store_pair(const A& a, int token, int column, float first, float second) {
  put_pair(a.y, token, column, pack_halves(first, second));
}

// APPENDS: each tile is one token, alone of its sequence in the step, whose queries and key aren't rotated yet
template <class A, bool APPENDS = false>
struct attention_matrix_op {
  static constexpr bool RUNS = true;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, PAGE = A::page_size;
  static constexpr int ROWS = D > 128 && GROUP <= 8 ? 8 : 16, TOGETHER = ROWS / GROUP;  // of one walk
  static constexpr int PIECES = D / 8, ITEM = 16 * D * 2;  // pieces of 16 bytes of a position; bytes of an item, keys or values of 16
  static constexpr int SUM_ROW = D + 4;                    // floats of a row of a warp's sums
  static constexpr int SUMS = ROWS * SUM_ROW * 4;          // bytes of a warp's sums, in place of its ring
  static constexpr int TABLES = APPENDS ? D * 8 : 0;       // bytes of a token's rotation, and of both norms' weights
  static constexpr int FIT = ((SCRATCH - TABLES) / WARPS - 16 * 8) / ITEM, DEPTH = FIT < 2 ? 2 : FIT > 4 ? 4 : FIT;  // items of a ring
  static constexpr int OWN = DEPTH * ITEM, PER_WARP = OWN > SUMS ? OWN : SUMS, STATS = WARPS * PER_WARP;
  // Of `attention_append`, behind the sums' statistics: how the token turns, and the weights of both norms. They come before the ring's
  // first items, for whoever asks for them behind the events has nothing to do meanwhile.
  static constexpr int TURNS = STATS + WARPS * 16 * 8, NORMS = TURNS + D * 4;
  static constexpr int AHEAD = APPENDS ? 1 : 3;            // items after the ring's that are brought to the L2 cache
  static constexpr bool WHOLE = PAGE % 16 == 0;            // a block is in one page
  static constexpr float LEAST = -0x1p100f;                // a power of two: exact, whatever it is multiplied with
  static_assert(STATS + WARPS * 16 * 8 + TABLES <= SCRATCH, "attention's values must fit in the scratch memory");

  // of the tile's tokens that are done together, for this warp
  int first, length, base, slot[DEPTH / 2 + 2];  // slots where its first blocks begin
  int shift;                                     // 1 << shift warps share a head
  int issued;                                    // items that `prefetch` has had copied
  const int* pages;

  // asked for anew in each function: else the compiler keeps what follows from it in registers from task to task
  static __device__ __forceinline__ u32 lane() { return (u32)thread_index() % 32; }
  static __device__ __forceinline__ u32 warp() { return (u32)thread_index() / 32; }
  __device__ __forceinline__ int stride() const { return 16 << shift; }
  __device__ __forceinline__ int head() const { return warp() >> shift; }  // of the run
  __device__ __forceinline__ int find(u32 p) const { return WHOLE && p < (u32)length ? pages[p / PAGE] * PAGE + p % PAGE : 0; }

  __device__ __forceinline__ void place(const A& a, int t, int tokens, int count) {
    shift = count == 1 ? 3 : count == 2 ? 2 : count <= 4 ? 1 : 0;
    first = a.pos.data[t];
    length = first + tokens;
    base = (warp() & ((1 << shift) - 1)) * 16;
    issued = 0;
    #pragma unroll
    for (int i = 0; i < DEPTH / 2 + 2; ++i) slot[i] = find(base + i * stride());
  }

  __device__ __forceinline__ void begin(const A& a, int i, int count) {
    pages = a.block_table.data + (i64)a.tile_seq.data[i] * A::block_table_t::dim1;
    const int t = a.tile_indptr.data[i];
    place(a, t, ev_min(TOGETHER, a.tile_indptr.data[i + 1] - t), ev_min(count, WARPS));
  }

  // where piece `piece` of position `row` of an item stands: so that 8 pieces that are written or read at once are in
  // different banks
  static __device__ __forceinline__ u32 place_of(u32 row, u32 piece) {
    const u32 turn = (row >> 1 & 3) | (D % 64 == 0 ? (row & 1) << 2 : 0);
    return row * (D * 2) + (piece >> 3 << 7) + (((piece & 7) ^ turn) << 4);
  }

  // the first of the step's positions of the tile's sequence: those below were written in earlier steps
  static __device__ __forceinline__ int first_of_step(const A& a, int i) {
    const int seq = a.tile_seq.data[i];
    int found = a.pos.data[a.tile_indptr.data[i]];
    #pragma unroll 1
    for (int j = lane(); j < a.tile_seq.dim0; j += 32)
      if (a.tile_seq.data[j] == seq) found = ev_min(found, a.pos.data[a.tile_indptr.data[j]]);
    return __reduce_min_sync(~0u, found);
  }

  // this warp's copy of an item, of positions from p on, the first of which stands in `at`; beyond the end: zeros, for what stands
  // in the cache may be no number, of which 0 times is none either
  __device__ __forceinline__ void copy(const bf16* cache, int at, int p, u32 to, u32 l) const {
    const bf16* const mine = cache + (i64)at * D + l * 8;
    #pragma unroll
    for (u32 k = 0; k < D / 16; ++k) {
      constexpr bool EVEN = 32 % PIECES == 0;
      const u32 row = EVEN ? k * (32 / PIECES) + l / PIECES : (k * 32 + l) / PIECES, piece = EVEN ? l % PIECES : (k * 32 + l) % PIECES;
      const bool live = (int)row < length - p;
      const bf16* from = mine + k * 256;
      if constexpr (!WHOLE) from = cache + (live ? (i64)pages[(p + row) / PAGE] * PAGE + (p + row) % PAGE : 0) * D + piece * 8;
      copy_16_if(to + place_of(row, piece), from, live);
    }
  }

  static __device__ __forceinline__ const bf16* cache_of(const A& a, int item, i64 from) { return (item & 1 ? a.v_cache.data : a.k_cache.data) + from; }
  static __device__ __forceinline__ u32 ring(const Worker& w) { return shared_address(w.scratch) + warp() * PER_WARP; }

  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int i, int h, int count) {
    begin(a, i, count);
    if constexpr (APPENDS) bring_tables(a, w);
    fill(a, w, i, h, count);
    if constexpr (APPENDS) {  // the tables, which all warps read behind the barrier to come
      if (issued == DEPTH) wait_copies_but<DEPTH>();
      else wait_copies();
    }
  }
  __device__ __forceinline__ void fill(const A& a, const Worker& w, int i, int h, int count) {
    int written = 0;
    if constexpr (A::block_table_t::single) written = APPENDS ? first : first_of_step(a, i);
    if (head() >= ev_min(count, WARPS)) return;
    const u32 l = lane();
    const i64 from = (i64)(h + head()) * A::k_cache_t::dim1 * D;
    #pragma unroll 1
    for (; issued < DEPTH; ++issued) {
      const int p = base + issued / 2 * stride();
      if (p + 16 > written) break;
      copy(cache_of(a, issued, from), issued < 2 ? slot[0] : slot[1], p, ring(w) + issued * ITEM, l);
      commit_copies();
    }
    // what of it isn't written yet is read again anyway
    const u32 item = DEPTH + l, p = base + item / 2 * stride();
    if (WHOLE && l < AHEAD && (int)p < length) prefetch_bulk(cache_of(a, item, from) + (i64)find(p) * D, ITEM);
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int i, int h, int count) {
    const int begin = a.tile_indptr.data[i], end = a.tile_indptr.data[i + 1];
    #pragma unroll 1
    for (int h0 = 0; h0 < count; h0 += WARPS) {
      const int heads = ev_min(WARPS, count - h0);
      #pragma unroll 1
      for (int t = begin; t < end; t += TOGETHER) {
        const int tokens = ev_min(TOGETHER, end - t);
        if (h0 > 0 || t > begin) {
          w.sync();
          place(a, t, tokens, heads);
        }
        const int rows = tokens * GROUP;
        if (ROWS == 8 || APPENDS || rows <= 8) some<1>(a, w, t, rows, h + h0, heads);
        else some<APPENDS ? 1 : ROWS / 8>(a, w, t, rows, h + h0, heads);
        w.sync();
        join(a, w, t, h + h0, heads, rows);
      }
    }
  }

  // this warp's sums of `rows` rows, 8 * N at most, from token t on: all query heads of one of the KV heads h0 .. h0 + heads - 1
  template <int N>
  __device__ __forceinline__ void some(const A& a, const Worker& w, int t, int rows, int h0, int heads) {
    float o[D / 16][N][4] = {}, top[N][2], sum[N][2] = {};
    #pragma unroll
    for (int n = 0; n < N; ++n) top[n][0] = top[n][1] = LEAST;
    if (head() < heads && base < length) walk<N>(a, w, t, rows, h0 + head(), o, top, sum);
    keep<N>(w, rows, o, top, sum);
  }

  template <int N>
  __device__ __forceinline__ void walk(const A& a, const Worker& w, int t, int rows, int h, float (&o)[D / 16][N][4], float (&top)[N][2], float (&sum)[N][2]) {
    const u32 l = lane(), g = l >> 2, q = l & 3;
    u32 x[N][D / 8];  // queries as B; rows beyond the last are its copies, and nobody asks for what becomes of them
    if constexpr (APPENDS) append(a, w, t, h, x[0]);
    #pragma unroll
    for (int n = 0; n < (APPENDS ? 0 : N); ++n) {
      const u32 r = ev_min(n * 8 + g, rows - 1);
      const bf16* const from = a.q.data + (i64)(t + r / GROUP) * A::q_t::dim1 + (h * GROUP + r % GROUP) * D + q * 2;
      #pragma unroll
      for (int i = 0; i < D / 8; ++i) x[n][i] = __float_as_uint(load_4((const float*)(from + i * 8)));
    }
    const i64 from = (i64)h * A::k_cache_t::dim1 * D;
    u32 at[DEPTH];  // this block's keys, its values, what follows
    #pragma unroll
    for (int i = 0; i < DEPTH; ++i) at[i] = ring(w) + i * ITEM;
    // item `i` of those from this block on; groups are committed for those beyond the end, too, so that their number is right
    auto bring = [&](int i, int slot, u32 to) {
      const int p = base + i / 2 * stride();
      if (p < length) copy(cache_of(a, i, from), slot, p, to, l);
      commit_copies();
    };
    #pragma unroll 1
    for (; issued < DEPTH; ++issued) bring(issued, issued < 2 ? slot[0] : slot[1], at[0] + issued * ITEM);
    int here = slot[DEPTH / 2], ahead = slot[DEPTH / 2 + 1];  // slots of the blocks that are brought next
    const float scale = rsqrtf((float)D) * 1.4426950408889634f;  // powers of two instead of e
    #pragma unroll 1
    for (; base < length; base += stride()) {
      wait_copies_but<DEPTH - 1>();
      __syncwarp();
      float s[N][4] = {}, odd[N][4] = {};
      #pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        u32 k[4];
        load_matrices(k, at[0] + place_of(l % 16, i * 2 + l / 16));
        #pragma unroll
        for (int n = 0; n < N; ++n) mma_16816(i % 2 ? odd[n] : s[n], k[0], k[1], k[2], k[3], x[n][2 * i], x[n][2 * i + 1]);
      }
      __syncwarp();  // all have read the keys
      bring(DEPTH, here, at[0]);
      u32 p[N][2];  // probabilities as B: positions 2q and 2q + 1, and 8 more, of row 8n + g
      float less[N][2];
      bool grown = false;
      #pragma unroll
      for (int n = 0; n < N; ++n) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) s[n][e] += odd[n][e];
        #pragma unroll
        for (int e = 0; e < 2; ++e) {  // row 8n + 2q + e at positions g and g + 8
          float &low = s[n][e], &high = s[n][2 + e];
          const int last = first + (int)((n * 8 + 2 * q + e) / GROUP) - base - (int)g;
          if (last < 0) low = LEAST;
          if (last < 8) high = LEAST;
          float most = fmaxf(low, high);
          #pragma unroll
          for (int j = 4; j < 32; j *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, j));
          const float now = fmaxf(top[n][e], most), shift = now * scale;
          less[n][e] = power_of_two((top[n][e] - now) * scale);
          grown |= now != top[n][e];
          top[n][e] = now;
          low = power_of_two(fmaf(low, scale, -shift));
          high = power_of_two(fmaf(high, scale, -shift));
          sum[n][e] = sum[n][e] * less[n][e] + (low + high);
        }
        p[n][0] = transposed(pack_halves(s[n][0], s[n][1]));
        p[n][1] = transposed(pack_halves(s[n][2], s[n][3]));
      }
      if (__any_sync(~0u, grown)) {
        #pragma unroll
        for (int i = 0; i < D / 16 * N * 4; ++i) o[i / 4 / N][i / 4 % N][i % 4] *= less[i / 4 % N][i % 2];
      }
      wait_copies_but<DEPTH - 1>();
      __syncwarp();
      #pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        u32 v[4];
        load_matrices_transposed(v, at[1] + place_of(l / 16 * 8 + l % 8, i * 2 + l / 8 % 2));
        #pragma unroll
        for (int n = 0; n < N; ++n) mma_16816(o[i][n], v[0], v[1], v[2], v[3], p[n][0], p[n][1]);
      }
      __syncwarp();  // all have read the values
      bring(DEPTH + 1, DEPTH % 2 ? ahead : here, at[1]);
      here = ahead;
      ahead = find(base + (DEPTH / 2 + 2) * stride());
      const u32 before[2] = {at[0], at[1]};
      #pragma unroll
      for (int i = 0; i < DEPTH; ++i) at[i] = i + 2 < DEPTH ? at[i + 2] : before[i + 2 - DEPTH];
    }
  }

  // how a token turns, and the weights of the norms of queries and key
  __device__ __forceinline__ void bring_tables(const A& a, const Worker& w) const {
    const u32 i = thread_index();
    if (i < D / 4) copy_16(w.scratch + TURNS + i * 16, a.own.rope.data + (i64)first * D + i * 4);
    if constexpr (A::has_norm) {
      if (i < D / 4) copy_16(w.scratch + NORMS + i * 16, i < D / 8 ? a.own.q_norm.data + i * 8 : a.own.k_norm.data + i * 8 - D);
    }
    commit_copies();
  }
  // The queries of a token, normalised and rotated, with its key in the rows behind them. A lane has dimensions 8i + 2q and the next one,
  // and those D / 2 further on, with which they turn. The warp that will walk over the token's position puts key and value there.
  __device__ __forceinline__ void append(const A& a, const Worker& w, int t, int h, u32 (&x)[D / 8]) const {
    const u32 l = lane(), g = l >> 2, q = l & 3;
    const bool key = g >= GROUP, mine = (((first / 16) ^ warp()) & ((1 << shift) - 1)) == 0;
    const bf16* const row = a.q.data + (i64)t * A::q_t::dim1;
    const bf16 *const from = row + (key ? A::num_heads + h : h * GROUP + g) * D + q * 2;
    const float2* const turns = (const float2*)(w.scratch + TURNS) + q;
    #pragma unroll
    for (int i = 0; i < D / 8; ++i) x[i] = __float_as_uint(load_weak_4((const float*)(from + i * 8)));
    const bf16* const itself = row + (A::num_heads + A::num_kv_heads + h) * D + l % PIECES * 8;
    uint4 value = load_weak_16(itself);
    if constexpr (A::polled) settle_together(w, [&] {
      bool missing = absent(value);
      if (missing) value = load_16(itself);
      #pragma unroll
      for (int i = 0; i < D / 8; ++i)
        if (absent(x[i])) { x[i] = __float_as_uint(load_4((const float*)(from + i * 8))); missing = true; }
      return missing;
    });
    const u32* const norms = (const u32*)(w.scratch + NORMS + (key ? D * 2 : 0)) + q;
    float scale = 1.f;
    if constexpr (A::has_norm) {
      float square = 0.f;
      #pragma unroll
      for (int i = 0; i < D / 8; ++i) square += low_half(x[i]) * low_half(x[i]) + high_half(x[i]) * high_half(x[i]);
      square += __shfl_xor_sync(~0u, square, 1);
      square += __shfl_xor_sync(~0u, square, 2);
      scale = rsqrtf(square * (1.f / D) + a.own.eps);
    }
    #pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      u32 &low = x[i], &high = x[i + D / 16];
      float x0 = low_half(low), x1 = high_half(low), y0 = low_half(high), y1 = high_half(high);
      if constexpr (A::has_norm) {
        const u32 n = norms[i * 4], m = norms[i * 4 + D / 4];
        x0 *= scale * low_half(n); x1 *= scale * high_half(n); y0 *= scale * low_half(m); y1 *= scale * high_half(m);
      }
      const float2 c = turns[i * 4], s = turns[i * 4 + D / 4];
      low = pack_halves(x0 * c.x - y0 * s.x, x1 * c.y - y1 * s.y);
      high = pack_halves(y0 * c.x + x0 * s.x, y1 * c.y + x1 * s.y);
    }
    if (!mine) return;
    const i64 cell = ((i64)h * A::k_cache_t::dim1 + (i64)pages[first / PAGE] * PAGE + first % PAGE) * D;
    if (g == GROUP) {
      #pragma unroll
      for (int i = 0; i < D / 8; ++i) *(u32*)(a.own.k_new.data + cell + i * 8 + q * 2) = x[i];
    }
    if (l < PIECES) *(uint4*)(a.own.v_new.data + cell + l * 8) = value;
    __syncwarp();  // other lanes copy it from there
  }

  // a warp's sums, in place of its ring; zeros of those that had nothing to walk
  template <int N>
  static __device__ __forceinline__ void keep(const Worker& w, u32 rows, const float (&o)[D / 16][N][4], const float (&top)[N][2], float (&sum)[N][2]) {
    const u32 l = lane(), g = l >> 2, q = l & 3;
    float* const sums = (float*)(w.scratch + warp() * PER_WARP) + g;
    float2* const stats = (float2*)(w.scratch + STATS) + warp() * 16;
    #pragma unroll
    for (int n = 0; n < N; ++n) {
      #pragma unroll
      for (int j = 4; j < 32; j *= 2) {
        sum[n][0] += __shfl_xor_sync(~0u, sum[n][0], j);
        sum[n][1] += __shfl_xor_sync(~0u, sum[n][1], j);
      }
    }
    #pragma unroll
    for (int n = 0; n < N; ++n) {
      #pragma unroll
      for (int e = 0; e < 2; ++e) {
        const u32 row = n * 8 + 2 * q + e;
        if (row >= rows) continue;
        if (g == 0) stats[row] = make_float2(top[n][e], sum[n][e]);
        #pragma unroll
        for (int i = 0; i < D / 8; ++i) sums[row * SUM_ROW + i * 8] = o[i / 2][n][i % 2 * 2 + e];
      }
    }
  }

  // the sums of the warps that share a head, in their order
  __device__ __forceinline__ void join(const A& a, const Worker& w, int t, int h0, u32 heads, u32 rows) const {
    const float scale = rsqrtf((float)D) * 1.4426950408889634f;
    #pragma unroll 1
    for (u32 i = thread_index(); i < heads * rows * (D / 4); i += CONSUMERS) {
      const u32 line = i / (D / 4), n = line / rows, row = line - n * rows, d = i % (D / 4) * 4;
      const float2* const stats = (const float2*)(w.scratch + STATS) + (n << shift) * 16 + row;
      const u8* const sums = w.scratch + (n << shift) * PER_WARP + (row * SUM_ROW + d) * 4;
      float2 stat[WARPS];
      float4 part[WARPS];
      float most = LEAST, total = 0.f;
      #pragma unroll
      for (int s = 0; s < WARPS; ++s) {  // all loads at once: a round trip for each would be as long as a turn of the walk
        const bool there = s < 1 << shift;
        stat[s] = there ? stats[s * 16] : make_float2(LEAST, 0.f);
        part[s] = there ? *(const float4*)(sums + s * PER_WARP) : make_float4(0.f, 0.f, 0.f, 0.f);
        most = fmaxf(most, stat[s].x);
      }
      float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
      #pragma unroll
      for (int s = 0; s < WARPS; ++s) {
        const float f = power_of_two((stat[s].x - most) * scale);
        total += f * stat[s].y;
        v.x += f * part[s].x; v.y += f * part[s].y; v.z += f * part[s].z; v.w += f * part[s].w;
      }
      const float inverse = __fdividef(1.f, total);
      const int token = t + row / GROUP, column = ((h0 + n) * GROUP + row % GROUP) * D + d;
      store_pair(a, token, column, v.x * inverse, v.y * inverse);
      store_pair(a, token, column + 2, v.z * inverse, v.w * inverse);
    }
  }
};

}  // namespace ev
