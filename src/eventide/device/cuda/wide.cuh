// Products of 16 to 256 tokens with streamed weights, on wgmma: a weight is read from shared memory, and loosened, once for all
// tokens; the tokens come in stages while the product goes on.
//
// A task is a block of 64 rows of the weight, 8 panels; a run of tasks `count` blocks. The two warpgroups take turns at the
// blocks, up to EACH blocks of theirs at once, so that the tokens pass once for 2 * EACH blocks. A chunk of the ring is a line,
// 128 columns, of a block; warp i of the warpgroup makes A fragments of its panels 2i and 2i + 1, in registers, and the B matrix
// stands in stages of x in shared memory (tiles.cuh), for both warpgroups. While the tensor cores multiply with one chunk, the
// warps make the fragments of the next. The sums stay in registers till the end, in an order of k that depends on k alone: slab
// by slab, and in a slab from its last line to its first.
//
//     64 tokens, k = 4096, a run of 3 blocks: warpgroup 0 has blocks 0 and 2, warpgroup 1 block 1. 32 lines of 128 columns;
//     of each line three chunks come, one a block, and a stage of x, 16 KB. Stage 5 comes when all warps have done with stage 1,
//     which stood in the same place.
//
// Weights of 12 bits become the bfloat16 that they were: the exponent's base is added as they are loosened, and a listed weight
// takes its place in the register, which a warp sees to before it multiplies. So results are those of 16 bits, to the bit.
//
// `A` is the class of a grid with the operands and attributes of `linear`, or what looks like one; K: the task's k, which may be
// a slab of the weight's.
#pragma once

namespace ev {

template <class A, int K>
struct wide_product {
  static constexpr int LAYOUT = A::w_t::layout;
  static constexpr bool TIGHT = LAYOUT == TIGHT8, GATED = A::activation == 1;
  static constexpr int TOKENS = A::tile_m, N = A::y_t::dim1, PANELS = (A::w_t::dim0 + 7) / 8;
  static constexpr int LINES = K / BLOCK, LINE_BYTES = TIGHT ? TIGHT_BLOCK_BYTES : BLOCK * 16, TAIL = TIGHT ? TIGHT_TAIL : 0;
  static constexpr int ROOM = LINE_BYTES + TAIL;                 // bytes of a panel's part of a slot
  static constexpr int EACH = TOKENS == 64 ? 2 : 1;              // blocks of a warpgroup that are passed at once
  static constexpr bool AHEAD = TOKENS < 256;                    // whether there are registers for the next chunk's fragments
  static_assert(TOKENS % 16 == 0 && TOKENS <= 256, "a wide linear task holds 16 to 256 tokens");
  static_assert(A::x_t::layout == TILED, "the input of a wide linear must be made by an operator that can tile it");
  static_assert(!A::x_t::polled, "a wide linear's input can't announce itself");
  static_assert(!A::has_norm_weight && !A::has_rows, "a wide linear has no norm and no choice of rows before it");
  static_assert(K % BLOCK == 0, "a wide linear needs k to be a multiple of 128");
  static_assert(!GATED || A::w_t::dim0 % 64 == 0, "a wide linear with an activation needs a multiple of 64 rows");
  static_assert(A::y_t::layout != TILED || !A::has_residual, "a wide linear can't tile a sum with a residual");
  static_assert(STAGES >= 2, "two stages of a wide linear's input must fit in the scratch memory");
  static_assert(TOKENS == WIDE, "all wide products of a kernel have the same tokens a task");
  static_assert(8 * ROOM <= SLOT, "a block of a wide linear must fit in a slot of the ring");

  static __device__ __forceinline__ void stream(const A& a, Loader& l, int n, int count) {
    constexpr int PANEL = panel_bytes(pad_k(A::w_t::dim1), LAYOUT);
    l.stream_blocks((const u8*)a.w.data + (i64)n * 8 * PANEL, {count, PANELS - n * 8, LINES, 2 * EACH, PANEL, LINE_BYTES, TAIL});
  }

  // A place in a ring of barriers with their data, as it goes around.
  template <int SIZE>
  struct Place {
    u32 at, turn;
    __device__ __forceinline__ Place(u32 i) : at(i % SIZE), turn(i / SIZE & 1) {}
    __device__ __forceinline__ void advance(u32 by) {
      at += by;
      if (at >= SIZE) { at -= SIZE; turn ^= 1; }
    }
  };

  // ---- weights

  // What holds for a slab of two panels: the exponent to add to the weights of this lane's rows, and its word of their lists.
  struct Slab { u32 add[2], listed; };
  typedef u32 Fragments[8][4];  // of a line: eight products of 16 columns

  static __device__ __forceinline__ void read_slab(const Worker& w, u32 panels, Slab& s) {
    const u32 tail = panels + LINE_BYTES, in = w.lane & 15;
    s.listed = in < TIGHT_LISTED ? load_shared(tail + (w.lane >> 4) * ROOM + 8 + in * 4) : 0;
    #pragma unroll
    for (int p = 0; p < 2; ++p) {
      const u32 top = load_shared(tail + p * ROOM + (w.lane >> 4) * 4) >> (w.lane >> 2 & 3) * 8 & 255;
      s.add[p] = top ? ((top - 15) << 7) * 0x10001u : 0;
    }
  }

  // Listed weights of the slab's line `line` take their places.
  static __device__ __forceinline__ void place_listed(const Worker& w, const Slab& s, int line, Fragments& f) {
    const Listed mine = {s.listed};
    u32 there = __ballot_sync(~0u, mine && mine.k() / BLOCK == line);
    #pragma unroll 1
    for (; there; there &= there - 1) {
      const int from = __ffs(there) - 1;
      const Listed l = {__shfl_sync(~0u, s.listed, from)};
      const int k = l.k() % BLOCK;
      const bool here = w.lane == l.row() * 4 + (k >> 3 & 3);
      const int at = here ? ((k >> 5) * 2 + (k >> 2 & 1)) * 4 + (k >> 1 & 1) * 2 + (from >> 4) : -1;
      const u32 keep = k & 1 ? 0xffffu : 0xffff0000u, put = k & 1 ? l.word & 0xffff0000u : l.word >> 16;
      #pragma unroll
      for (int i = 0; i < 32; ++i) {
        u32& two = f[i / 4][i % 4];
        if (i == at) two = (two & keep) | put;
      }
    }
  }

  // tile t of a line: the lane's 8 weights of panel p
  static __device__ __forceinline__ void set(Fragments& f, int t, int p, const uint4& v) {
    f[2 * t][p] = v.x;
    f[2 * t][2 + p] = v.y;
    f[2 * t + 1][p] = v.z;
    f[2 * t + 1][2 + p] = v.w;
  }

  // the fragments of a chunk, at `panels` in shared memory; `line`: of the pass
  static __device__ __forceinline__ void make(const Worker& w, u32 panels, int line, Slab& s, Fragments& f) {
    if constexpr (TIGHT) {
      if (line % 4 == 0) read_slab(w, panels, s);
      const u32 keep = opaque(KEEP), at = panels + w.lane * 16;
      uint4 raw[2][3];
      #pragma unroll
      for (int i = 0; i < 6; ++i) raw[i / 3][i % 3] = load_shared_16(at + i / 3 * ROOM + i % 3 * 512);
      #pragma unroll
      for (int p = 0; p < 2; ++p) {
        const u32* const words = &raw[p][0].x;
        #pragma unroll
        for (int t = 0; t < 4; ++t) {
          uint4 v = loosen(words[3 * t], words[3 * t + 1], words[3 * t + 2], 0, keep);
          v.x += s.add[p]; v.y += s.add[p]; v.z += s.add[p]; v.w += s.add[p];
          set(f, t, p, v);
        }
      }
      place_listed(w, s, Input::line(line, LINES) % (SLAB / BLOCK), f);
    } else {
      const u32 at = panels + (w.lane >> 2) * 64 + ((w.lane ^ (w.lane >> 3)) & 3) * 16;
      #pragma unroll
      for (int t = 0; t < 4; ++t)
        #pragma unroll
        for (int p = 0; p < 2; ++p) set(f, t, p, load_shared_16(at + p * ROOM + t * 512));
    }
  }

  // ---- the product

  // One pass over k of `all` blocks, of which MINE are this warpgroup's, those from block n on. `base`: the pass's first stage.
  template <int MINE>
  static __device__ __forceinline__ void pass(const A& a, const Worker& w, int base, int first, int tokens, int n, int all) {
    const int group = w.warp / 4;
    const u32 ring = opaque(shared_address(w.ring)) + w.warp % 4 * 2 * ROOM, full = opaque(shared_address(w.block->full));
    const u32 x = opaque(shared_address(w.scratch)), x_full = opaque(shared_address(w.block->x_full));
    float c[MINE][TOKENS / 2];
    #pragma unroll
    for (int r = 0; r < MINE; ++r)
      #pragma unroll
      for (int i = 0; i < TOKENS / 2; ++i) c[r][i] = 0.f;
    Slab slab[MINE];
    Fragments f[AHEAD ? 2 : 1];
    Place<SLOTS> chunk(w.chunk + group);
    Place<STAGES> stage(base);

    // fragments of this warpgroup's next chunk, block r of `line`
    auto next = [&](int r, int line, Fragments& to) {
      w.await(full + chunk.at * 8, chunk.turn);
      make(w, ring + chunk.at * SLOT, line, slab[r], to);
      __syncwarp();
      if (w.lane == 0) mbar_arrive(full + (SLOTS + chunk.at) * 8);
      // all chunks of a line come before the next line's; of the last block there is none for warpgroup 1 if their number is odd
      chunk.advance(r + 1 < MINE ? 2 : all - 2 * (MINE - 1));
    };
    // products with block r of a line; they are under way when this returns
    auto multiply = [&](int r, const Fragments& by) {
      #pragma unroll
      for (int i = 0; i < STAGES_A_LINE; ++i) {
        Place<STAGES> s = stage;
        s.advance(i);
        if (r == 0) w.await(x_full + s.at * 8, s.turn);
      }
      __syncwarp();
      wgmma_fence();
      #pragma unroll
      for (int i = 0; i < 8; ++i) {
        Place<STAGES> s = stage;
        s.advance(i * STAGES_A_LINE / 8);
        // the two tiles of 64 columns, and in each of them steps of 16
        const u32 tile = x + s.at * STAGE_BYTES + (STAGES_A_LINE == 1 ? i / 4 * (TOKENS * 128) : 0);
        wgmma_product(c[r], by[i], matrix_descriptor(tile) + i % 4 * 2);
      }
      wgmma_commit();
    };
    // this warpgroup has done with a line of x
    auto leave = [&] {
      __syncwarp();
      if (w.lane < STAGES_A_LINE) {
        Place<STAGES> s = stage;
        s.advance(w.lane);
        mbar_arrive(x_full + (STAGES + s.at) * 8, all == 1 ? 2 : 1);
      }
      stage.advance(STAGES_A_LINE);
    };
    if constexpr (!AHEAD) {
      #pragma unroll 1
      for (int line = 0; line < LINES; ++line) {
        next(0, line, f[0]);
        multiply(0, f[0]);
        wgmma_wait<0>();
        leave();
      }
    } else {
      next(0, 0, f[0]);
      #pragma unroll 1
      for (int line = 0; line < LINES; line += 3 - MINE) {
        multiply(0, f[0]);
        if (MINE == 2) next(1, line, f[1]);
        else if (line + 1 < LINES) next(0, line + 1, f[1]);
        wgmma_wait<0>();
        if (MINE == 1) leave();
        if (MINE == 2 || line + 1 < LINES) multiply(MINE - 1, f[1]);
        if (line + 3 - MINE < LINES) next(0, line + 3 - MINE, f[0]);
        wgmma_wait<0>();
        if (MINE == 2 || line + 1 < LINES) leave();
      }
    }
    #pragma unroll
    for (int r = 0; r < MINE; ++r) finish(a, w, c[r], first, tokens, n + group + 2 * r);
  }

  // tokens of tile `m`, blocks n .. n + count - 1
  static __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) {
    const int first = m * TOKENS, tokens = ev_min(TOKENS, a.y.dim0 - first), passes = (count + 2 * EACH - 1) / (2 * EACH);
    if (w.tid == 0) ask_for_input(w.block, {(const u8*)a.x.data + (i64)first * 128, A::x_t::rows * 128, LINES, passes});
    #pragma unroll 1
    for (int p = 0; p < passes; ++p) {
      const int done = p * 2 * EACH, all = ev_min(2 * EACH, count - done), mine = (all + 1 - w.warp / 4) / 2;
      if (EACH == 2 && mine == 2) pass<EACH>(a, w, w.stage, first, tokens, n + done, all);
      else if (mine > 0) pass<1>(a, w, w.stage, first, tokens, n + done, all);
      w.chunk += LINES * all;
      w.stage += LINES * STAGES_A_LINE;
    }
  }

  // ---- the results

  static constexpr int TOGETHER = TOKENS < 64 ? TOKENS : 64, ROW = 68;  // tokens that change places at once; floats of one

  // The sums of a block: lane (g, q) of warp i has rows 16i + g and 16i + g + 8, of tokens 8j + 2q and 8j + 2q + 1. They change
  // places in shared memory, from where short loops take them: code that runs once costs more than what it does.
  static __device__ __forceinline__ void finish(const A& a, const Worker& w, const float (&c)[TOKENS / 2], int first, int tokens, int block) {
    const int group = w.warp / 4, g = w.lane >> 2, q = w.lane & 3;
    float* const sums = (float*)(w.scratch + STAGES * STAGE_BYTES) + group * TOGETHER * ROW;
    #pragma unroll
    for (int t0 = 0; t0 < TOKENS; t0 += TOGETHER) {
      if (t0 > 0 && t0 >= tokens) break;
      named_barrier(2 + group, 128);  // what stood here has been read
      #pragma unroll
      for (int j = 0; j < TOGETHER / 8; ++j) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) sums[(j * 8 + q * 2 + (e & 1)) * ROW + w.warp % 4 * 16 + g + (e >> 1) * 8] = c[t0 / 2 + 4 * j + e];
      }
      named_barrier(2 + group, 128);
      const int there = ev_min(TOGETHER, tokens - t0);
      if constexpr (GATED) put_gated(a, w, sums, first + t0, there, block);
      else put_plain(a, w, sums, first + t0, there, block);
    }
  }

  // four rows of one token a lane
  static __device__ __forceinline__ void put_plain(const A& a, const Worker& w, const float* sums, int first, int tokens, int block) {
    const int thread = w.tid % 128, row = thread % 16 * 4, n = block * 64 + row;
    #pragma unroll 1
    for (int i = thread / 16; i < tokens; i += 8) {
      const float4 sum = *(const float4*)(sums + i * ROW + row);
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
    const int thread = w.tid % 128, piece = thread % 4;
    #pragma unroll 1
    for (int i = thread / 4; i < tokens; i += 32) {
      uint4 two;
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = e * 16 + piece * 4;  // of columns 8e + 2 * piece and the one after
        float4 v = *(const float4*)(sums + i * ROW + row);
        if constexpr (A::has_bias) {
          const bf16* const bias = a.bias.data + block * 64 + row;
          v.x += to_float(bias[0]); v.y += to_float(bias[1]); v.z += to_float(bias[2]); v.w += to_float(bias[3]);
        }
        float h[2] = {v.x / (1.f + __expf(-v.x)) * v.y, v.z / (1.f + __expf(-v.z)) * v.w};
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
