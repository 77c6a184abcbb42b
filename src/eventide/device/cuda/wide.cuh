// Products of 16 to 256 tokens with streamed weights, on wgmma: a weight is read from shared memory, and loosened, once for all
// tokens; the tokens come in stages of 64 columns while the product goes on.
//
// A task is a block of 64 rows of the weight, 8 panels; a run of tasks `count` blocks. The two warpgroups take turns at the
// blocks, up to EACH blocks of theirs at once, so that the tokens pass once for 2 * EACH blocks. A chunk of the ring is 128
// columns of a block; warp i of the warpgroup makes A fragments of its panels 2i and 2i + 1, in registers, and the B matrix is a
// stage of x in shared memory (tiles.cuh), for both warpgroups. The sums stay in registers till the end, in an order of k that
// depends on k alone: slab by slab, and in a slab from its last 128 columns to its first.
//
//     64 tokens, k = 4096, a run of 3 blocks: warpgroup 0 has blocks 0 and 2, warpgroup 1 block 1. 32 lines of 128 columns;
//     of each line three chunks come, one a block, and two stages of x, 8 KB each; stage 9 when all warps have done with
//     stage 1, which stood in the same place.
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
  static constexpr int EACH = TOKENS <= 64 ? 2 : 1;              // blocks of a warpgroup that are passed at once
  static constexpr int STAGE_BYTES = TOKENS * 128;
  static_assert(TOKENS % 16 == 0 && TOKENS <= 256, "a wide linear task holds 16 to 256 tokens");
  static_assert(A::x_t::layout == TILED, "the input of a wide linear must be made by an operator that can tile it");
  static_assert(!A::x_t::polled, "a wide linear's input can't announce itself");
  static_assert(!A::has_norm_weight && !A::has_rows, "a wide linear has no norm and no choice of rows before it");
  static_assert(K % BLOCK == 0, "a wide linear needs k to be a multiple of 128");
  static_assert(!GATED || A::w_t::dim0 % 64 == 0, "a wide linear with an activation needs a multiple of 64 rows");
  static_assert(A::y_t::layout != TILED || !A::has_residual, "a wide linear can't tile a sum with a residual");
  static_assert(STAGES >= 2 && STAGES * STAGE_BYTES <= SCRATCH, "the input's stages of a wide linear must fit in the scratch memory");
  static_assert(8 * ROOM <= SLOT, "a block of a wide linear must fit in a slot of the ring");

  static __device__ __forceinline__ void stream(const A& a, Loader& l, int n, int count) {
    constexpr int PANEL = panel_bytes(pad_k(A::w_t::dim1), LAYOUT);
    l.stream_blocks((const u8*)a.w.data + (i64)n * 8 * PANEL, {count, PANELS - n * 8, LINES, 2 * EACH, PANEL, LINE_BYTES, TAIL});
  }

  // ---- x

  static __device__ __forceinline__ u64 acquire_stage(const Worker& w, int i) {
    const u32 at = (w.stage + i) % STAGES;
    w.await(&w.block->x_full[at], ((w.stage + i) / STAGES) & 1, w.stage + i);
    return matrix_descriptor(shared_address(w.scratch + at * STAGE_BYTES));
  }

  // stages i, an even one, and i + 1
  static __device__ __forceinline__ void release_stages(const Worker& w, int i, int arrivals) {
    __syncwarp();
    if (w.lane < 2) mbar_arrive(&w.block->x_empty[(w.stage + i + w.lane) % STAGES], arrivals);
  }

  // ---- weights

  // What holds for a slab of two panels: the exponent to add to the weights of this lane's rows, and its word of their lists.
  struct Slab { u32 add[2], listed; };
  typedef u32 Fragments[4][4];  // of 64 columns: four products of 16

  static __device__ __forceinline__ void read_slab(const Worker& w, const u8* panels, Slab& s) {
    const u8* const tail = panels + LINE_BYTES;
    const int in = w.lane & 15;
    s.listed = in < TIGHT_LISTED ? *(const u32*)(tail + (w.lane >> 4) * ROOM + 8 + in * 4) : 0;
    #pragma unroll
    for (int p = 0; p < 2; ++p) {
      const u32 top = tail[p * ROOM + (w.lane >> 2)];
      s.add[p] = top ? ((top - 15) << 7) * 0x10001u : 0;
    }
  }

  // columns 64 * half .. of a line, of what `load` has read
  static __device__ __forceinline__ void loosen_half(const Slab& s, const uint4 (&raw)[2][3], int half, Fragments& f) {
    const u32 keep = opaque(KEEP);
    #pragma unroll
    for (int t = 0; t < 2; ++t) {
      #pragma unroll
      for (int p = 0; p < 2; ++p) {
        const u32* const from = &raw[p][0].x;
        const int at = (half * 2 + t) * 3;
        uint4 v = loosen(from[at], from[at + 1], from[at + 2], 0, keep);
        f[2 * t][p] = v.x + s.add[p];
        f[2 * t][2 + p] = v.y + s.add[p];
        f[2 * t + 1][p] = v.z + s.add[p];
        f[2 * t + 1][2 + p] = v.w + s.add[p];
      }
    }
  }

  // Listed weights of the slab's line `line` take their places.
  static __device__ __forceinline__ void place_listed(const Worker& w, const Slab& s, int line, Fragments (&f)[2]) {
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
        u32& two = f[i / 16][i / 4 % 4][i % 4];
        if (i == at) two = (two & keep) | put;
      }
    }
  }

  // the same columns of 16-bit weights; `panels`: this lane's place in its two panels
  static __device__ __forceinline__ void load_half(u32 panels, int half, Fragments& f) {
    #pragma unroll
    for (int t = 0; t < 2; ++t) {
      #pragma unroll
      for (int p = 0; p < 2; ++p) {
        const uint4 v = load_shared_16(panels + p * ROOM + (half * 2 + t) * 512);
        f[2 * t][p] = v.x;
        f[2 * t][2 + p] = v.y;
        f[2 * t + 1][p] = v.z;
        f[2 * t + 1][2 + p] = v.w;
      }
    }
  }

  // ---- the product

  static __device__ __forceinline__ void multiply(float (&c)[TOKENS / 2], const Fragments& f, u64 x) {
    #pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_product(c, f[i], x + i * 2);
  }

  // One pass over k of `all` blocks, of which MINE are this warpgroup's. `base`: the pass's first stage of the run. While one
  // warpgroup makes fragments the other one's products go on, so neither has any under way for longer than a chunk.
  template <int MINE>
  static __device__ __forceinline__ void pass(const A& a, const Worker& w, int base, int first, int tokens, int n, int all) {
    const int group = w.warp / 4, arrivals = all == 1 ? 2 : 1;
    float c[MINE][TOKENS / 2];
    #pragma unroll
    for (int r = 0; r < MINE; ++r)
      #pragma unroll
      for (int i = 0; i < TOKENS / 2; ++i) c[r][i] = 0.f;
    Slab slab[MINE];
    #pragma unroll 1
    for (int line = 0; line < LINES; ++line) {
      #pragma unroll
      for (int r = 0; r < MINE; ++r) {
        const int j = line * all + group + 2 * r;
        const u8* const panels = w.acquire(j) + w.warp % 4 * 2 * ROOM;
        const u32 at = shared_address(panels);
        Fragments f[2];
        if constexpr (TIGHT) {
          if (line % 4 == 0) read_slab(w, panels, slab[r]);
          uint4 raw[2][3];
          #pragma unroll
          for (int p = 0; p < 2; ++p)
            #pragma unroll
            for (int i = 0; i < 3; ++i) raw[p][i] = load_shared_16(at + p * ROOM + i * 512 + w.lane * 16);
          #pragma unroll
          for (int half = 0; half < 2; ++half) loosen_half(slab[r], raw, half, f[half]);
          place_listed(w, slab[r], Input::line(line, LINES) % (SLAB / BLOCK), f);
        } else {
          #pragma unroll
          for (int half = 0; half < 2; ++half) load_half(at + (w.lane >> 2) * 64 + ((w.lane ^ (w.lane >> 3)) & 3) * 16, half, f[half]);
        }
        w.release(j);
        const u64 x[2] = {acquire_stage(w, base + line * 2), acquire_stage(w, base + line * 2 + 1)};
        __syncwarp();
        wgmma_fence();
        #pragma unroll
        for (int half = 0; half < 2; ++half) multiply(c[r], f[half], x[half]);
        wgmma_commit();
        wgmma_wait<0>();
      }
      release_stages(w, base + line * 2, arrivals);
    }
    #pragma unroll
    for (int r = 0; r < MINE; ++r) finish(a, w, c[r], first, tokens, n + group + 2 * r);
  }

  // tokens of tile `m`, blocks n .. n + count - 1
  static __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) {
    const int first = m * TOKENS, tokens = ev_min(TOKENS, a.y.dim0 - first), passes = (count + 2 * EACH - 1) / (2 * EACH);
    if (w.tid == 0) ask_for_input(w.block, {(const u8*)a.x.data + (i64)first * 128, A::x_t::rows * 128, STAGE_BYTES, LINES, passes});
    #pragma unroll 1
    for (int p = 0; p < passes; ++p) {
      const int done = p * 2 * EACH, all = ev_min(2 * EACH, count - done), mine = (all + 1 - w.warp / 4) / 2, base = p * 2 * LINES;
      if (EACH == 2 && mine == 2) pass<EACH>(a, w, base, first, tokens, n + done, all);
      else if (mine > 0) pass<1>(a, w, base, first, tokens, n + done, all);
      w.chunk += LINES * all;
    }
    w.stage += passes * 2 * LINES;
  }

  // ---- the results

  static __device__ __forceinline__ float2 bias_of(const A& a, int row) {
    if constexpr (A::has_bias) {
      return make_float2(row < A::w_t::dim0 ? to_float(a.bias.data[row]) : 0.f, row + 8 < A::w_t::dim0 ? to_float(a.bias.data[row + 8]) : 0.f);
    }
    return make_float2(0.f, 0.f);
  }

  // The sums of a block: lane (g, q) of warp i has rows 16i + g and 16i + g + 8, of tokens 8j + 2q and 8j + 2q + 1.
  static __device__ __forceinline__ void finish(const A& a, const Worker& w, const float (&c)[TOKENS / 2], int first, int tokens, int block) {
    const int g = w.lane >> 2, q = w.lane & 3, row = block * 64 + w.warp % 4 * 16 + g;
    const float2 bias = bias_of(a, row);
    #pragma unroll
    for (int j = 0; j < TOKENS / 8; ++j) {
      const float v[4] = {c[4 * j] + bias.x, c[4 * j + 1] + bias.x, c[4 * j + 2] + bias.y, c[4 * j + 3] + bias.y};
      if constexpr (GATED) {
        put_gated(a, w, v, first, tokens, j * 8 + q * 2, block);
      } else if constexpr (A::y_t::layout == TILED) {
        put_tiled(a, v, first, tokens, j * 8 + q * 2, row);
      } else {
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int t = j * 8 + q * 2 + (e & 1), n = row + (e >> 1) * 8;
          if (t < tokens && n < N) put_row(a, first + t, n, v[e]);
        }
      }
    }
  }

  // two rows of one token stand together: lanes with even g take the first token, the others the second
  static __device__ __forceinline__ void put_tiled(const A& a, const float (&v)[4], int first, int tokens, int t, int row) {
    const bool odd = row & 1;
    #pragma unroll
    for (int p = 0; p < 2; ++p) {
      const float other = __shfl_xor_sync(~0u, odd ? v[2 * p] : v[2 * p + 1], 4);
      const int n = (row & ~1) + p * 8;
      if (t + odd < tokens && n < N) put_pair(a.y, first + t + odd, n, odd ? pack_halves(other, v[2 * p + 1]) : pack_halves(v[2 * p], other));
    }
  }

  static __device__ __forceinline__ void put_row(const A& a, int t, int n, float v) {
    if constexpr (A::has_residual) v += to_float(bf16{load_2(a.residual.data + (i64)t * N + n)});
    put(a.y.data + (i64)t * N + n, v);
  }

  // Rows are gate and up by turns, so lanes with even g have gates and those with odd g their ups. The first finish the first
  // token, the others the second; then lanes that have neighbouring columns join them, of one panel each.
  static __device__ __forceinline__ void put_gated(const A& a, const Worker& w, const float (&v)[4], int first, int tokens, int t, int block) {
    const int g = w.lane >> 2;
    const bool up = g & 1, upper = g >> 1 & 1;
    float h[2];
    #pragma unroll
    for (int p = 0; p < 2; ++p) {
      const float other = __shfl_xor_sync(~0u, up ? v[2 * p] : v[2 * p + 1], 4);
      const float gate = up ? other : v[2 * p], times = up ? v[2 * p + 1] : other;
      h[p] = gate / (1.f + __expf(-gate)) * times;
    }
    const float other = __shfl_xor_sync(~0u, upper ? h[0] : h[1], 8);
    const u32 two = upper ? pack_halves(other, h[1]) : pack_halves(h[0], other);
    const int column = block * 32 + w.warp % 4 * 8 + upper * 4 + (g >> 2) * 2;
    if (t + up < tokens) put_pair(a.y, first + t + up, column, two);
  }
};

}  // namespace ev
