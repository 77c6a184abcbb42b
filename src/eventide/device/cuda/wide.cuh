// Products of 16 to 256 tokens with streamed weights, on wgmma: a weight is read from shared memory, and loosened, once for all
// tokens; the tokens come in stages while the product goes on.
//
// A task is a block of 64 rows of the weight, 8 panels (or, of slabs with 16 tokens, of 32, and a chunk two lines: warps.cuh); a run of tasks `count` blocks, which are passed TOGETHER at a time, so
// that the tokens pass once for all of them. A chunk of the ring is a line, 128 columns, of a block. Warp i of a warpgroup makes A
// fragments of the chunk's panels 2i and 2i + 1, in registers, and the B matrix is a stage of x in shared memory (tiles.cuh).
// While one warpgroup makes fragments, the other one's products go on. They share the work by lines where tokens are few, each
// having every second line of all blocks (BY_LINES), for that is even; and by blocks where tokens are many, so that both read the
// same stages. The sums stay in registers till the end, in an order of k that depends on k alone: ascending; by lines, the second
// warpgroup's after the first one's.
//
//     64 tokens, k = 4096, a run of 3 blocks: 32 lines of 128 columns. Of each line three chunks come, one a block, and a stage
//     of x, 16 KB. Warpgroup 0 has lines 0, 2, 4, ... Stage 5 comes when it has done with stage 1, which stood in the same place.
//
// `A` is the class of a grid with the operands and attributes of `linear`, or what looks like one; K: the task's k, which may be
// a slab of the weight's.
#pragma once

namespace ev {

template <class A, int K>
struct wide_product {
  static constexpr int LAYOUT = A::w_t::layout;
  typedef line_of_weights<LAYOUT> Weights;
  typedef typename Weights::Slab Slab;
  typedef typename Weights::Raw Raw;
  typedef chunks_of_lines<LAYOUT> Chunks;
  static constexpr bool TIGHT = Weights::TIGHT, GATED = A::activation == 1;
  static constexpr int TOKENS = A::tile_m, N = A::y_t::dim1;
  static constexpr int LINES = K / BLOCK, LINE_BYTES = Weights::BYTES, TAIL = Weights::TAIL;
  static constexpr int TOGETHER = BY_LINES ? 3 : 2;              // blocks that are passed at once
  static constexpr bool BY_WARPS = TOKENS <= 16;                 // each warp multiplies by itself, see warps.cuh
  static constexpr int ROWS = A::tile_n;                         // of a block, 64 or, so that more workers have one, 32
  static constexpr bool HALF = ROWS == 32;
  static_assert(ROWS == 64 || (HALF && BY_WARPS && !GATED && LINES % 2 == 0), "blocks of 32 rows are for 16 tokens and even lines");
  static_assert(TOKENS % 16 == 0 && TOKENS <= 256, "a wide linear task holds 16 to 256 tokens");
  static_assert(A::x_t::layout == TILED, "the input of a wide linear must be made by an operator that can tile it");
  static_assert(!A::x_t::polled, "a wide linear's input can't announce itself");
  static_assert(!A::has_norm_weight && !A::has_rows, "a wide linear has no norm and no choice of rows before it");
  static_assert(!A::has_squares || TOKENS <= 64, "a wide linear of more than 64 tokens can't end a norm");
  static_assert(K % BLOCK == 0, "a wide linear needs k to be a multiple of 128");
  static_assert(!GATED || A::w_t::dim0 % 64 == 0, "a wide linear with an activation needs a multiple of 64 rows");
  static_assert(A::y_t::layout != TILED || !A::has_residual, "a wide linear can't tile a sum with a residual");
  static_assert(TOKENS < 0 || STAGES >= 2, "two stages of a wide linear's input must fit in the scratch memory");
  // else a warpgroup would wait for a stage whose place the other one has, and take the stage two laps before for it
  static_assert(TOKENS < 0 || !BY_LINES || STAGES % 2 == 0, "the stages that warpgroups have by turns must be even in number");
  static_assert(TOKENS == WIDE, "all wide products of a kernel have the same tokens a task");
  static_assert(8 * (LINE_BYTES + TAIL) <= SLOT, "a block of a wide linear must fit in a slot of the ring");

  // `line`: of the weight, where this product's k begins
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int n, int count, int line = 0) {
    l.stream_blocks({a.w.maps, n, count, TOGETHER, line, LINES, pad_k(A::w_t::dim1) / BLOCK, LINE_BYTES, TAIL, HALF});
  }

  // ---- the product

  // One pass over k of `all` blocks from block n on, by lines. `base`: the pass's first stage. All blocks run the same instructions
  // but for the products, which name their sums' registers: what a layer runs should stay in the multiprocessor's cache (slim.cuh).
  // Products end in their branch, for the assembler would hold those that go on across branches in order; to begin some of them while
  // other fragments are made was slower (docs/performance.md, "Two warpgroups in step").
  static __device__ __forceinline__ void pass_by_lines(const A& a, const Worker& w, int base, int first, int tokens, int n, int all) {
    const int group = w.warp / 4;
    const u32 x = opaque(shared_address(w.scratch)), x_full = opaque(shared_address(w.block->x_full));
    float c[TOGETHER][TOKENS / 2] = {};
    Slab slabs[TOGETHER] = {};  // or the compiler would keep their registers through all of the kernel
    Chunks chunks(w);
    Place<STAGES> stage(base + group);
    #pragma unroll 1
    for (int line = group; line < LINES; line += 2) {
      const bool x_there = mbar_test_wait(x_full + stage.at * 8, stage.turn);
      #pragma unroll 1
      for (int r = 0; r < all; ++r) {
        Fragments f;
        chunks.take_line(w, line, r, slabs, f);
        const u32 tiles = x + stage.at * STAGE_BYTES;
        if (r == 0 && !x_there) w.await(x_full + stage.at * 8, stage.turn);
        #pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
          if (r != i) continue;
          begin_products();
          products<0, 4>(c[i], f, tiles);
          wgmma_wait<0>();
        }
      }
      __syncwarp();
      if (w.lane == 0) mbar_arrive(x_full + (STAGES + stage.at) * 8, 2);  // this warp has done with the line of x
      stage.advance(2);
    }
    #pragma unroll 1
    for (int r = 0; r < all; ++r) {
      named_barrier(1, CONSUMERS);  // the sums before have been read
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) if (r == i) lay_down(w, c[i], 0);
      named_barrier(1, CONSUMERS);
      put_block(a, w, sums_of(w), first, tokens, n + r);
    }
  }

  // The same of up to 16 tokens (warps.cuh).
  static __device__ __forceinline__ void pass_by_warps(const A& a, const Worker& w, int first, int tokens, int n, int all) {
    typedef products_by_warps<LAYOUT> Core;
    static_assert(TOGETHER <= Core::TOGETHER, "a pass must not have more blocks than it has sums for");
    Core::pass(w.launch, w.block, w.ring, w.scratch, w.chunk, w.stage, w.segment, w.step, LINES, all, HALF);
    #pragma unroll 1
    for (int r = 0; r < all; ++r) put_block(a, w, sums_of(w) + r * Core::BLOCK_SUMS, first, tokens, n + r);
#if EV_TRACE
    w.memory_wait += w.block->waited[0];
    w.weights_at = w.block->waited[1];
#endif
  }

  // The same of this warpgroup's one block, number `group`. Where both have one their products go on by turns, a line each: together
  // they would begin and end together, and the tensor cores wait while both make fragments.
  static constexpr int TURNS = 4;  // named barriers, one for each warpgroup
  static __device__ __forceinline__ void pass_by_blocks(const A& a, const Worker& w, int base, int first, int tokens, int n, int all) {
    const int group = w.warp / 4;
    const u32 x = opaque(shared_address(w.scratch)), x_full = opaque(shared_address(w.block->x_full));
    float c[TOKENS / 2] = {};
    Slab slab = {};
    Chunks chunks(w);
    Place<STAGES> stage(base);
    __syncwarp();
    if (all == 2 && group == 1) named_arrive(TURNS, CONSUMERS);
    #pragma unroll 1
    for (int line = 0; line < LINES; ++line) {
      const bool x_there = mbar_test_wait(x_full + stage.at * 8, stage.turn);
      Raw raw;
      Fragments f;
      chunks.take(w, raw, line % 4 == 0, slab);
      half<0>(w, raw, slab, line, f);
      if (!x_there) w.await(x_full + stage.at * 8, stage.turn);
      __syncwarp();
      if (all == 2) named_barrier(TURNS + group, CONSUMERS);
      begin_products();
      products<0, 2>(c, f, x + stage.at * STAGE_BYTES);
      half<2>(w, raw, slab, line, f);
      Place<STAGES> s = stage;
      s.advance(STAGES_A_LINE - 1);
      if (STAGES_A_LINE == 2) w.await(x_full + s.at * 8, s.turn);
      begin_products();
      products<2, 2>(c, f, x + s.at * STAGE_BYTES);
      if (all == 2 && (group == 0 || line + 1 < LINES)) named_arrive(TURNS + 1 - group, CONSUMERS);
      wgmma_wait<0>();
      __syncwarp();
      if (w.lane < STAGES_A_LINE) {  // this warp has done with the line of x
        Place<STAGES> s = stage;
        s.advance(w.lane);
        mbar_arrive(x_full + (STAGES + s.at) * 8, all == 1 ? 2 : 1);
      }
      stage.advance(STAGES_A_LINE);
    }
    const int barrier = 2 + w.warp / 4;
    #pragma unroll
    for (int t0 = 0; t0 < TOKENS; t0 += AT_ONCE) {
      if (t0 > 0 && t0 >= tokens) break;
      named_barrier(barrier, 128);
      lay_down(w, c, t0);
      named_barrier(barrier, 128);
      put_block(a, w, sums_of(w), first + t0, ev_min(AT_ONCE, tokens - t0), n + w.warp / 4);
    }
  }

  // fragments of tiles FIRST and FIRST + 1 of a chunk
  template <int FIRST>
  static __device__ __forceinline__ void half(const Worker& w, const Raw& raw, const Slab& slab, int line, Fragments& f) {
    raw.make(FIRST, slab, f);
    raw.make(FIRST + 1, slab, f);
    if constexpr (TIGHT) Weights::template place_listed<FIRST, 2>(w, slab, line % 4, f);
  }
  static __device__ __forceinline__ void begin_products() {
    __syncwarp();
    wgmma_fence();
  }
  // Products with tiles FIRST to FIRST + COUNT - 1 of a chunk, under way when it returns.
  template <int FIRST, int COUNT>
  static __device__ __forceinline__ void products(float (&c)[TOKENS / 2], const Fragments& f, u32 tiles) {
    const u32 x = uniform(tiles);  // or every product waits for two moves of its descriptor to the warp's registers
    #pragma unroll
    for (int i = 2 * FIRST; i < 2 * (FIRST + COUNT); ++i) wgmma_product(c, f[i], matrix_descriptor(x, (STAGES_A_LINE == 1 ? i / 4 * (TOKENS * 8) : 0) + i % 4 * 2));
    wgmma_commit();
  }

  // tokens of tile `m`, blocks n .. n + count - 1
  static __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) {
    const int first = m * TOKENS, tokens = ev_min(TOKENS, a.y.dim0 - first), passes = (count + TOGETHER - 1) / TOGETHER;
    if (w.tid == 0) ask_for_input(w.block, {(const u8*)a.x.data + (i64)first * 128, A::x_t::rows * 128, LINES, passes});
    if constexpr (A::has_squares) other_half<TOKENS>(w, a.squares.data + first, A::squares_t::dim0, a.squares.dim1, tokens, 1.f / K, A::eps, scales(w));
    #pragma unroll 1
    for (int p = 0; p < passes; ++p) {
      const int done = p * TOGETHER, all = ev_min(TOGETHER, count - done);
      if constexpr (BY_WARPS) pass_by_warps(a, w, first, tokens, n + done, all);
      else if constexpr (BY_LINES) pass_by_lines(a, w, w.stage, first, tokens, n + done, all);
      else if (w.warp / 4 < all) pass_by_blocks(a, w, w.stage, first, tokens, n + done, all);
      w.chunk += BY_LINES ? (LINES / (HALF ? 2 : 1) + 1 - w.warp / 4) / 2 * all : w.warp / 4 < all ? LINES : 0;
      w.stage += LINES * STAGES_A_LINE;
    }
  }

  // ---- the results

  static constexpr int AT_ONCE = TOKENS <= 64 ? TOKENS : 32, ROW = SUMS_ROW;  // tokens that change places at once; floats of one
  static constexpr int TEAM = BY_LINES ? CONSUMERS : 128;               // threads that store a block
  static_assert(TOKENS < 0 || 2 * AT_ONCE * ROW * 4 <= SUMS_BYTES, "the sums of both warpgroups must fit behind the stages");

  // The sums of a block change places in shared memory, from where short loops take them: code that runs once costs more than what it
  // does. By blocks the warpgroups have their own places, by lines one behind the other.
  static __device__ __forceinline__ float* sums_of(const Worker& w) {
    return (float*)(w.scratch + STAGES * STAGE_BYTES) + (BY_LINES ? 0 : w.warp / 4 * AT_ONCE * ROW);
  }
  // Lane (g, q) of warp i has rows 16i + g and 16i + g + 8, of tokens 8j + 2q and 8j + 2q + 1. Those from t0 on, AT_ONCE of them.
  // (The thread's index is asked for anew: what follows from it would take a register for every address, through all of the product.)
  static __device__ __forceinline__ void lay_down(const Worker& w, const float (&c)[TOKENS / 2], int t0) {
    const int tid = thread_index();
    const u32 to = opaque(shared_address(w.scratch) + STAGES * STAGE_BYTES + ((tid / 128 * AT_ONCE + tid % 4 * 2) * ROW + tid / 32 % 4 * 16 + tid / 4 % 8) * 4);
    #pragma unroll
    for (int j = 0; j < AT_ONCE / 8; ++j) {
      if (t0 + j * 8 >= TOKENS) break;  // the last ones, where TOKENS is no multiple of them
      #pragma unroll
      for (int e = 0; e < 4; ++e) store_shared(to + ((j * 8 + (e & 1)) * ROW + (e >> 1) * 8) * 4, c[t0 / 2 + 4 * j + e]);
    }
  }
  static __device__ __forceinline__ void put_block(const A& a, const Worker& w, const float* sums, int first, int tokens, int block) {
    if constexpr (GATED) put_gated(a, w, sums, first, tokens, block);
    else put_plain(a, w, sums, first, tokens, block);
  }

  // of the tokens, where their norm is to be ended
  static __device__ __forceinline__ float* scales(const Worker& w) { return (float*)(w.scratch + STAGES * STAGE_BYTES + SUMS_BYTES); }

  // four rows of a token
  static __device__ __forceinline__ float4 sum_of(const Worker& w, const float* sums, int token, int row) {
    float4 v = *(const float4*)(sums + token * ROW + row);
    auto add = [&](int at) {
      const float4 u = *(const float4*)(sums + at + row);
      v.x += u.x; v.y += u.y; v.z += u.z; v.w += u.w;
    };
    if constexpr (HALF) add(token * ROW + 32);
    if constexpr (BY_LINES) add((AT_ONCE + token) * ROW);
    if constexpr (HALF) add((AT_ONCE + token) * ROW + 32);
    if constexpr (A::has_squares) {
      const float s = scales(w)[token];
      v.x *= s; v.y *= s; v.z *= s; v.w *= s;
    }
    return v;
  }

  // four rows of one token a lane
  static __device__ __forceinline__ void put_plain(const A& a, const Worker& w, const float* sums, int first, int tokens, int block) {
    constexpr int PARTS = ROWS / 4;
    const int thread = thread_index() % TEAM, row = thread % PARTS * 4, n = block * ROWS + row;
    #pragma unroll 1
    for (int i = thread / PARTS; i < tokens; i += TEAM / PARTS) {
      const float4 sum = sum_of(w, sums, i, row);
      float v[4] = {sum.x, sum.y, sum.z, sum.w};
      const i64 at = (i64)(first + i) * N + n;
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (N % 4 && n + e >= N) continue;
        if constexpr (A::has_bias) v[e] += n + e < N ? to_float(a.bias.data[n + e]) : 0.f;
        if constexpr (A::has_residual) v[e] += n + e < N ? to_float(bf16{load_2(a.residual.data + at + e)}) : 0.f;
      }
      if constexpr (A::y_t::layout == TILED) {
        put_pair(a.y, first + i, n, pack_halves(v[0], v[1]));
        put_pair(a.y, first + i, n + 2, pack_halves(v[2], v[3]));
      } else if constexpr (N % 4 == 0) {
        if (n < N) put_four(a.y.data + at, v);
      } else {
        #pragma unroll
        for (int e = 0; e < 4; ++e) if (n + e < N) put(a.y.data + at + e, v[e]);
      }
    }
  }
  static __device__ __forceinline__ void put_four(float* y, const float (&v)[4]) { *(float4*)y = make_float4(v[0], v[1], v[2], v[3]); }
  static __device__ __forceinline__ void put_four(bf16* y, const float (&v)[4]) { *(uint2*)y = make_uint2(pack_halves(v[0], v[1]), pack_halves(v[2], v[3])); }

  // Rows are gate and up by turns, so 64 of them make 32 columns: four pieces of 16 bytes, one a lane, where y is tiled.
  static __device__ __forceinline__ void put_gated(const A& a, const Worker& w, const float* sums, int first, int tokens, int block) {
    static_assert(sizeof(*a.y.data) == 2, "a wide linear with an activation needs an output in bfloat16");
    const int thread = thread_index() % TEAM, piece = thread % 4;
    #pragma unroll 1
    for (int i = thread / 4; i < tokens; i += TEAM / 4) {
      uint4 two;
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = e * 16 + piece * 4;  // of columns 8e + 2 * piece and the one after
        float4 v = sum_of(w, sums, i, row);
        if constexpr (A::has_bias) {
          const bf16* const bias = a.bias.data + block * 64 + row;
          v.x += to_float(bias[0]); v.y += to_float(bias[1]); v.z += to_float(bias[2]); v.w += to_float(bias[3]);
        }
        float h[2] = {gated(v.x, v.y), gated(v.z, v.w)};
        if constexpr (A::has_residual) {
          const bf16* const residual = a.residual.data + (i64)(first + i) * N + block * 32 + row / 2;
          h[0] += to_float(bf16{load_2(residual)});
          h[1] += to_float(bf16{load_2(residual + 1)});
        }
        (&two.x)[e] = pack_halves(h[0], h[1]);
      }
      if constexpr (A::y_t::layout == TILED) {
        put_piece(a.y, first + i, block * 32, piece, two);
      } else {
        #pragma unroll
        for (int e = 0; e < 4; ++e) put_pair(a.y, first + i, block * 32 + e * 8 + piece * 2, (&two.x)[e]);
      }
    }
  }
};

}  // namespace ev
