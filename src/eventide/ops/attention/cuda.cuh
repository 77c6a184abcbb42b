// attention on a GPU, in three variants. (One file, though long: the generated source takes one of each operator.)
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

// two columns of y, of which the first is even: all that the variants on tensor cores store
template <class A>
__device__ __forceinline__ void store_pair(const A& a, int token, int column, float first, float second) {
  put_pair(a.y, token, column, pack_halves(first, second));
}

template <class A>
struct attention_matrix_op {
  static constexpr bool RUNS = true;
  static constexpr int D = A::head_dim, GROUP = A::num_heads / A::num_kv_heads, PAGE = A::page_size;
  static constexpr int ROWS = D > 128 && GROUP <= 8 ? 8 : 16, TOGETHER = ROWS / GROUP;  // of one walk
  static constexpr int PIECES = D / 8, ITEM = 16 * D * 2;  // pieces of 16 bytes of a position; bytes of an item, keys or values of 16
  static constexpr int SUM_ROW = D + 4;                    // floats of a row of a warp's sums
  static constexpr int SUMS = ROWS * SUM_ROW * 4;          // bytes of a warp's sums, in place of its ring
  static constexpr int FIT = (SCRATCH / WARPS - 16 * 8) / ITEM, DEPTH = FIT < 2 ? 2 : FIT > 4 ? 4 : FIT;  // items of a ring
  static constexpr int OWN = DEPTH * ITEM, PER_WARP = OWN > SUMS ? OWN : SUMS, STATS = WARPS * PER_WARP;
  static constexpr int AHEAD = 3;                          // items after the ring's that are brought to the L2 cache
  static constexpr bool WHOLE = PAGE % 16 == 0;            // a block is in one page
  static constexpr float LEAST = -0x1p100f;                // a power of two: exact, whatever it is multiplied with
  static_assert(STATS + WARPS * 16 * 8 <= SCRATCH, "attention's values must fit in the scratch memory");

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
    const int written = A::block_table_t::single ? first_of_step(a, i) : 0;
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
        if (ROWS == 8 || rows <= 8) some<1>(a, w, t, rows, h + h0, heads);
        else some<ROWS / 8>(a, w, t, rows, h + h0, heads);
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
    #pragma unroll
    for (int n = 0; n < N; ++n) {
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
