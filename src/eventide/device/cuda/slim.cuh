// Products of 16 or 32 tokens with blocks of few rows. A block is 16 rows, two panels, and a chunk of the ring a slab of them, 512
// columns, whose four lines are the four warps' of a warpgroup: each multiplies by itself, with mma.sync, and has its own part of k.
// So all workers have rows, and no output is cut into slabs that somebody must add. Slabs are the warpgroups' by turns. Four blocks
// are passed together, or two of 32 tokens: each pass brings all of x out of the L2 cache.
//
//     16 tokens, k = 4096, a run of 3 blocks: 8 slabs, of which warpgroup 0 has 0, 2, 4, 6, and its warp 3 lines 3, 11, 19, 27.
//     Of each slab three chunks come, and of x four stages, one for each warp.
//
// Then the eight warps' sums of a block meet in shared memory and are added in the order of the warps, so in one that depends on k
// alone. A line's sums are scaled by its rows' powers of two, which spares the exponents' additions to its weights.
//
// All slim products of a kernel whose weights have one layout run the same instructions, `slim_core`, which is told in shared memory what to do. A layer's
// instructions should stay in the multiprocessor's cache, 128 KB: 128 bytes of them take 17 cycles from there and 47 from L2, more
// at every jump, and a phase of a layer runs most of its own once or twice. It is a function, not inlined into the worker's loop:
// there its registers cost the other operators theirs.
//
// Where stages are no multiple of 8, a place has been another warp's before: whoever waits for it makes sure first that what
// stood there has been read, or it would take the parity of two laps before for that of this one.
#pragma once

namespace ev {

constexpr int SLIM_TOGETHER = WIDE == 16 ? 4 : 2;  // blocks that are passed at once

template <int LAYOUT>
struct slim_core {
  typedef line_of_weights<LAYOUT, true> Weights;
  typedef typename Weights::Slab Slab;
  typedef typename Weights::Raw Raw;
  static constexpr int TOKENS = WIDE == 16 ? 16 : 32;
  typedef float Sums[TOKENS / 8][4];

  static __device__ __forceinline__ float* sums(const Worker& w) { return (float*)(w.scratch + STAGES * STAGE_BYTES); }
  static __device__ __forceinline__ float* scales(const Worker& w) { return (float*)(w.scratch + STAGES * STAGE_BYTES + SUMS_BYTES); }

  // chunks that this warp's group has of so many blocks
  static __device__ __forceinline__ u32 chunks_of(const Worker& w, int lines, int blocks) { return ((lines + 3) / 4 + 1 - w.warp / 4) / 2 * blocks; }

  static __device__ __noinline__ void run(const Launch& launch, Block* block, u8* ring, u8* scratch, u32 chunk, u32 stage, int segment, int step) {
    Worker w = {launch, block, ring, scratch};
    w.place();
    w.segment = segment;
    w.step = step;
#if EV_TRACE
    w.memory_wait = w.weights_at = 0;
#endif
    const Slim& p = block->slim();
    const int tokens = ev_min(TOKENS, p.tokens - p.first), lines = p.lines;
    if (p.halved) other_half<TOKENS>(w, p.halved + p.first, p.halves, p.tokens, tokens, p.per_column, p.eps, scales(w));
    #pragma unroll 1
    for (int done = 0; done < p.blocks; done += SLIM_TOGETHER) {
      const int all = ev_min(SLIM_TOGETHER, p.blocks - done);
      pass(w, chunk, stage, lines, all, tokens, done);
      chunk += chunks_of(w, lines, all);
      stage += lines;
    }
#if EV_TRACE
    if (w.tid == 0) { block->waited[0] = w.memory_wait; block->waited[1] = w.weights_at; }
#endif
  }

  // One pass over k of `all` blocks, number `done` of the run's and those after. Two at a time have their fragments in registers.
  static __device__ __forceinline__ void pass(const Worker& w, u32 first_chunk, u32 first_stage, int lines, int all, int tokens, int done) {
    const int group = w.warp / 4, part = w.warp % 4, slabs = (lines + 3) / 4;
    const u32 ring = opaque(shared_address(w.ring)) + group * OWN_SLOTS * SLOT;
    const u32 full = opaque(shared_address(w.block->full)) + group * OWN_SLOTS * 8;
    const u32 x = opaque(shared_address(w.scratch)), x_full = opaque(shared_address(w.block->x_full));
    const Result result(w, all, tokens, done);
    Sums c[SLIM_TOGETHER] = {};
    Place<OWN_SLOTS> chunk(first_chunk);
    Place<STAGES> stage(first_stage + w.warp);
    bool there = mbar_test_wait(full + chunk.at * 8, chunk.turn);  // asked for early: the answer takes a while
    #pragma unroll 1
    for (int slab = group; slab < slabs; slab += 2) {
      const int line = slab * 4 + part, left = ev_min(lines - slab * 4, 4);
      if (STAGES % 8 && line >= STAGES && line < lines) w.await(x_full + (STAGES + stage.at) * 8, stage.turn ^ 1);
      const bool x_there = mbar_test_wait(x_full + stage.at * 8, stage.turn);
      #pragma unroll 1
      for (int b = 0; b < all; b += 2) {
        const bool two = all - b > 1;
        Fragments f[2];
        float scale[2][2];
        read_block(w, ring, full, chunk, there, part, left, f[0], scale[0]);
        if (two) read_block(w, ring, full, chunk, there, part, left, f[1], scale[1]);
        if (line >= lines) continue;
        if (b == 0 && !x_there) w.await(x_full + stage.at * 8, stage.turn);
        Sums d[2] = {};
        if (two) multiply<2>(w, x + stage.at * STAGE_BYTES, f, d);
        else multiply<1>(w, x + stage.at * STAGE_BYTES, f, d);
        #pragma unroll
        for (int i = 0; i < SLIM_TOGETHER; i += 2) {
          if (b != i) continue;
          add_scaled(c[i], scale[0], d[0]);
          if (two) add_scaled(c[i + 1], scale[1], d[1]);
        }
      }
      if (line < lines) {
        __syncwarp();
        if (w.lane == 0) mbar_arrive(x_full + (STAGES + stage.at) * 8, WARPS);  // for all of them
      }
      stage.template skip<8>();
    }
    finish(w, c, result);
  }

  // The fragments of this warp's line of a chunk, which `left` lines of a slab are, and what its rows' sums are to be scaled by.
  static __device__ __forceinline__ void read_block(const Worker& w, u32 ring, u32 full, Place<OWN_SLOTS>& chunk, bool& there, int part, int left, Fragments& f, float (&scale)[2]) {
    const u32 at = ring + chunk.at * SLOT, pitch = slab_bytes(left * BLOCK, LAYOUT);
    w.await_chunk(full + chunk.at * 8, chunk.turn, there);
    Raw raw;
    Slab tops = {};
    raw.load(w, at + part * Weights::BYTES, pitch);
    if constexpr (Weights::TIGHT) tops.read(w, at + left * Weights::BYTES, pitch);
    __syncwarp();
    if (w.lane == 0) mbar_arrive(full + (SLOTS + chunk.at) * 8);
    chunk.advance(1);
    there = mbar_test_wait(full + chunk.at * 8, chunk.turn);
    #pragma unroll
    for (int t = 0; t < 4; ++t) raw.make(t, tops, f);
    if constexpr (Weights::TIGHT) Weights::template place_listed<0, 4>(w, tops, part, f);
    scale[0] = tops.scale(0);
    scale[1] = tops.scale(1);
  }

  // Blocks with a line of x, 16 columns at a time. A line's products are sums of their own, for they are scaled.
  template <int MINE>
  static __device__ __forceinline__ void multiply(const Worker& w, u32 stage, const Fragments (&f)[2], Sums (&d)[2]) {
    const int row = w.lane / 16 * 8 + w.lane % 8;
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
      u32 b[TOKENS / 16][4];
      #pragma unroll
      for (int n = 0; n < TOKENS / 16; ++n)
        load_matrices(b[n], stage + i / 4 * (TOKENS * 128) + (n * 16 + row) * 128 + (((i % 4 * 2 + w.lane / 8 % 2) ^ (row & 7)) << 4));
      #pragma unroll
      for (int k = 0; k < MINE; ++k) {
        #pragma unroll
        for (int j = 0; j < TOKENS / 8; ++j)
          mma_16816(d[k][j], f[k][i][0], f[k][i][1], f[k][i][2], f[k][i][3], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  static __device__ __forceinline__ void add_scaled(Sums& c, const float (&scale)[2], const Sums& d) {
    #pragma unroll
    for (int j = 0; j < TOKENS / 8; ++j)
      #pragma unroll
      for (int e = 0; e < 4; ++e) c[j][e] += scale[e / 2] * d[j][e];
  }

  // What a thread makes of the sums: four rows of a token of one of the blocks, a piece. What it wants beside them it asks for before
  // the product.
  static_assert(TOKENS * SLIM_TOGETHER * 4 == CONSUMERS, "a thread of a slim product has one piece");
  struct Result {
    int at, token, which, n;  // the token in the tile and in the step, if it is there; the block of the pass, and the first of the rows
    uint2 residual, norm, bias;
    __device__ __forceinline__ Result(const Worker& w, int all, int tokens, int done) {
      const Slim& p = w.block->slim();
      at = w.tid / (SLIM_TOGETHER * 4);
      which = w.tid / 4 % SLIM_TOGETHER;
      token = at < tokens && which < all ? p.first + at : -1;
      n = (p.block + done + which) * 16 + w.tid % 4 * 4;
      residual = norm = bias = make_uint2(0, 0);
      if (token < 0) return;
      if (p.residual) residual = load_weak_8(p.residual + (i64)token * p.columns + (p.gated ? n / 2 : n));
      if (p.h) norm = *(const uint2*)(p.norm_weight + n);
      if (p.bias) bias = *(const uint2*)(p.bias + n);
    }
  };

  // The sums of all blocks: lane (g, q) of each warp has rows g and g + 8 of tokens 8j + 2q and 8j + 2q + 1. The pieces of a token
  // stand in another order for every second pair of tokens, because a warp's stores would meet in a bank, and so would the blocks.
  static constexpr int BLOCK_SUMS = WARPS * TOKENS * 16 + 16;
  static __device__ __forceinline__ void finish(const Worker& w, const Sums (&c)[SLIM_TOGETHER], const Result& result) {
    const Slim& p = w.block->slim();
    const int g = w.lane >> 2, q = w.lane & 3, piece = w.tid % 4;
    float* const all = sums(w);
    w.sync();  // what stood here has been read
    #pragma unroll
    for (int r = 0; r < SLIM_TOGETHER; ++r) {
      float* const to = all + r * BLOCK_SUMS + w.warp * (TOKENS * 16);
      #pragma unroll
      for (int j = 0; j < TOKENS / 8; ++j)
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = g + e / 2 * 8;
          to[(j * 8 + q * 2 + (e & 1)) * 16 + ((row >> 2 ^ q) << 2) + (row & 3)] = c[r][j][e];
        }
    }
    w.sync();
    float v[4] = {};
    #pragma unroll
    for (int i = 0; i < WARPS; ++i) {
      const float4 u = *(const float4*)(all + result.which * BLOCK_SUMS + (i * TOKENS + result.at) * 16 + ((piece ^ (result.at >> 1 & 3)) << 2));
      v[0] += u.x; v[1] += u.y; v[2] += u.z; v[3] += u.w;
    }
    if (p.halved) {
      const float s = scales(w)[result.at];
      #pragma unroll
      for (int e = 0; e < 4; ++e) v[e] *= s;
    }
    add_halves(v, result.bias);
    if (p.gated) {
      v[0] = gated(v[0], v[1]);
      v[1] = gated(v[2], v[3]);
      v[2] = v[3] = 0.f;
    }
    add_halves(v, result.residual);
    const bool mine = result.token >= 0;
    if (mine) store(p, v, result.token, result.n);
    if (p.h) {
      if (mine) {
        *(u32*)(p.h + tiled_pair(p.h_rows, result.token, result.n)) = pack_halves(v[0] * low_half(result.norm.x), v[1] * high_half(result.norm.x));
        *(u32*)(p.h + tiled_pair(p.h_rows, result.token, result.n + 2)) = pack_halves(v[2] * low_half(result.norm.y), v[3] * high_half(result.norm.y));
      }
      float square = (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]);
      square += __shfl_xor_sync(~0u, square, 1);
      square += __shfl_xor_sync(~0u, square, 2);
      if (p.pairs) square += __shfl_xor_sync(~0u, square, 4);
      if (mine && piece == 0 && !(p.pairs && result.which % 2)) p.squares[(i64)(result.n / (p.pairs ? 32 : 16)) * p.tokens + result.token] = square;
    }
  }
  static __device__ __forceinline__ void add_halves(float (&v)[4], const uint2& two) {
    v[0] += low_half(two.x); v[1] += high_half(two.x); v[2] += low_half(two.y); v[3] += high_half(two.y);
  }

  // `v` becomes what was stored
  static __device__ __forceinline__ void store(const Slim& p, float (&v)[4], int token, int n) {
    const i64 at = (i64)token * p.columns + (p.gated ? n / 2 : n);
    if (p.wide) {
      *(float4*)((float*)p.y + at) = make_float4(v[0], v[1], v[2], v[3]);
      return;
    }
    const uint2 y = make_uint2(pack_halves(v[0], v[1]), pack_halves(v[2], v[3]));
    if (p.gated) {
      *(u32*)((u8*)p.y + (p.y_rows ? tiled_pair(p.y_rows, token, n / 2) : at * 2)) = y.x;
    } else if (p.y_rows) {
      *(u32*)((u8*)p.y + tiled_pair(p.y_rows, token, n)) = y.x;
      *(u32*)((u8*)p.y + tiled_pair(p.y_rows, token, n + 2)) = y.y;
    } else {
      *(uint2*)((bf16*)p.y + at) = y;
    }
    v[0] = low_half(y.x); v[1] = high_half(y.x); v[2] = low_half(y.y); v[3] = high_half(y.y);
  }
};

// Tasks of slim products: what the classes of grids with the operands of `linear` or `linear_residual` tell of themselves. BLOCKS: of
// a task; `more` adds what the operator has to the description.
template <class A, int BLOCKS>
struct slim_product {
  typedef slim_core<A::w_t::layout> Core;
  static constexpr int K = A::x_t::dim1, LINES = K / BLOCK, SLABS = (LINES + 3) / 4;
  static_assert(A::tile_m < 0 || A::tile_m == WIDE, "all products of a kernel have the same tokens a task");
  static_assert(A::tile_m % 16 == 0 && A::tile_m <= 32, "a slim linear task holds 16 or 32 tokens");
  static_assert(A::x_t::layout == TILED, "the input of a slim linear must be made by an operator that can tile it");
  static_assert(K % BLOCK == 0, "a slim linear needs k to be a multiple of 128");
  static_assert(A::w_t::dim0 % 16 == 0, "a slim linear needs a multiple of 16 rows");
  static_assert(A::tile_m < 0 || STAGES % 4 == 0, "a slim linear needs a multiple of 4 stages of input");
  static_assert(2 * slab_bytes(SLAB, A::w_t::layout) <= SLOT, "a slab of a slim linear must fit in a slot of the ring");
  static_assert(SLIM_TOGETHER * 4 * Core::BLOCK_SUMS <= SUMS_BYTES, "the sums of a pass must fit behind the stages");

  // of tasks n .. n + count - 1
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int n, int count) {
    constexpr u32 PANEL = panel_bytes(K, A::w_t::layout), LAST = slab_bytes(K - (SLABS - 1) * SLAB, A::w_t::layout);
    l.stream_slabs({(const u8*)a.w.data + (i64)n * BLOCKS * 2 * PANEL, count * BLOCKS, SLIM_TOGETHER, SLABS, PANEL, slab_bytes(SLAB, A::w_t::layout), LAST});
  }

  // by one thread, while the task waits: tokens of tile `m`, tasks n .. n + count - 1
  template <class More>
  static __device__ __forceinline__ void describe(const A& a, Slim& p, int m, int n, int count, const More& more) {
    p = {};
    p.x = (const u8*)a.x.data + (i64)m * A::tile_m * 128;
    p.pitch = A::x_t::rows * 128;
    p.lines = LINES;
    p.y = a.y.data;
    p.wide = sizeof(*a.y.data) == 4;
    p.columns = A::y_t::dim1;
    p.tokens = a.y.dim0;
    p.first = m * A::tile_m;
    p.block = n * BLOCKS;
    p.blocks = count * BLOCKS;
    more(p);
  }

  static __device__ __forceinline__ void run(const A& a, Worker& w) {
    if constexpr (!A::WAITS) w.sync();  // the description can be seen
    const Slim& p = w.block->slim();
    const int blocks = p.blocks, passes = (blocks + SLIM_TOGETHER - 1) / SLIM_TOGETHER;
    if (w.tid == 0) ask_for_input(w.block, {p.x, p.pitch, LINES, passes});
    Core::run(w.launch, w.block, w.ring, w.scratch, w.chunk, w.stage, w.segment, w.step);
    w.chunk += Core::chunks_of(w, LINES, blocks);
    w.stage += LINES * passes;
#if EV_TRACE
    w.memory_wait = w.block->waited[0];
    w.weights_at = w.block->waited[1];
#endif
  }
};

}  // namespace ev
