// linear on a GPU: weights stream through the ring as panels of 8 rows, tensor cores multiply them with up to 8 tokens.
//
// A run of tasks is `count` consecutive panels. Chunk j of the run is a slab of at most 512 k of one panel; the
// warp that owns the chunk multiplies it with the same slab of x and leaves 8 rows x tokens partial sums in shared
// memory; then all threads add the slabs in ascending order, so a result depends on k alone, and apply the epilogue.
//
// mma.m16n8k16 wants x as A and w as B. Both fragments are taken with the same permutation of k: lane (g, q) holds the 8
// consecutive k at 8q of every 32, one 16-byte load each, for token g and for weight row g. Tokens 8..15 of A are zero. For
// one token w is A.
//
// The norm of the prologue costs no barrier of its own: x * norm_weight is staged, and 1/rms scales the finished sums.
#pragma once

namespace ev {

template <class A>
struct linear_narrow_op {
  static constexpr bool RUNS = true, ANNOUNCES = true;
  static constexpr int LAYOUT = A::w_t::layout;
  static constexpr bool TIGHT = LAYOUT == TIGHT8;
  static constexpr int K = A::x_t::dim1, KP = pad_k(K);
  static constexpr int SLABS = (KP + SLAB - 1) / SLAB;       // chunks of one panel
  static constexpr int TOKENS = A::tile_m;
  static constexpr bool DOT = TOKENS == 1;
  static constexpr int XS = KP * 2 + 64;                     // bytes of a staged token: rows 64 bytes apart modulo 128
  static constexpr bool STAGED = TOKENS * XS + 8192 <= SCRATCH;
  static constexpr int X_BYTES = STAGED ? TOKENS * XS : 0;
  static constexpr int TEAM = WARPS / TOKENS;                // warps that bring a token: all of them their share at once
  static constexpr int SUMS = X_BYTES, SCALES = TEAM * TOKENS * 4;
  static constexpr int PART = (X_BYTES + SCALES + 127) / 128 * 128;
  static constexpr int PANEL_PART = SLABS * TOKENS * 32;     // bytes of partial sums of one panel
  static constexpr int PANELS = (SCRATCH - PART) / PANEL_PART;
  static constexpr bool GATED = A::activation == 1;
  static constexpr int COLS = GATED ? 4 : 8;                 // columns of y in a panel
  static constexpr bool WHOLE_CHUNKS = KP % SLAB == 0;  // else panels are streamed one by one: no chunk holds parts of two
  static_assert(TOKENS <= 8, "a linear task holds at most 8 tokens");
  static_assert(K % 8 == 0, "a linear needs k to be a multiple of 8");
  static_assert(PANELS >= 1, "the partial sums of one panel must fit in the scratch memory");
  static_assert(STAGED || !A::has_norm_weight, "the normalised input must fit in the scratch memory");

  static __device__ __forceinline__ void stream(const A& a, Loader& l, int m, int n, int count) {
    constexpr int PANEL = panel_bytes(KP, LAYOUT);
    l.stream((const u8*)a.w.data + (i64)n * PANEL, (i64)count * PANEL, slab_bytes(SLAB, LAYOUT));
  }

  static __device__ __forceinline__ i64 source_row(const A& a, int token) {
    if constexpr (A::has_rows) return a.rows.data[token];
    return token;
  }

  // 16-byte pieces of a token, for each thread of its team; and how many of them are asked for together
  static constexpr int PIECES = (KP / 8 + TEAM * 32 - 1) / (TEAM * 32), TOGETHER = PIECES < 16 ? PIECES : 16;
  uint4 norm[A::has_norm_weight ? TOGETHER : 1];
  static __device__ __forceinline__ int column(const Worker& w, int piece) { return (w.tid % (TEAM * 32) + piece * TEAM * 32) * 8; }
  static __device__ __forceinline__ uint4 load_norm(const A& a, int k) { return k < K ? *(const uint4*)(a.norm_weight.data + k) : make_uint4(0, 0, 0, 0); }

  // what depends on nothing is fetched before the task's dependencies are there
  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int m, int n, int count) {
    if constexpr (A::has_norm_weight) {
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) norm[i] = load_norm(a, column(w, i));
    }
  }

  // Calls fn(token, piece, k, v) for this thread's pieces of x, once they are there.
  template <class Fn>
  static __device__ __forceinline__ void for_pieces(const A& a, const Worker& w, int first, int tokens, const Fn& fn) {
    const int token = w.warp / TEAM;
    if (token >= tokens) return;
    const bf16* const row = a.x.data + source_row(a, first + token) * K;
    #pragma unroll
    for (int p0 = 0; p0 < PIECES; p0 += TOGETHER) {
      uint4 got[TOGETHER];
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) {
        const int k = column(w, p0 + i);
        got[i] = k < K ? load_16(row + k) : make_uint4(0, 0, 0, 0);
      }
      if constexpr (A::x_t::polled) settle_together(w, [&] {
        bool missing = false;
        #pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
          if (absent(got[i])) { got[i] = load_16(row + column(w, p0 + i)); missing = true; }
        }
        return missing;
      });
      #pragma unroll
      for (int i = 0; i < TOGETHER; ++i) {
        if (column(w, p0 + i) < KP) fn(token, p0 + i, column(w, p0 + i), got[i]);
      }
    }
  }

  // x (times the norm's weight) into shared memory, and each warp's part of the sums of squares
  __device__ __forceinline__ void stage(const A& a, Worker& w, int first, int tokens) {
    float square = 0.f;
    for_pieces(a, w, first, tokens, [&](int t, int piece, int k, uint4 v) {
      if constexpr (A::has_norm_weight) {
        const uint4 weight = piece < TOGETHER ? norm[piece % TOGETHER] : load_norm(a, k);
        u32* x = &v.x;
        const u32* s = &weight.x;
        #pragma unroll
        for (int i = 0; i < 4; ++i) {
          float lo = low_half(x[i]), hi = high_half(x[i]);
          square += lo * lo + hi * hi;
          x[i] = pack_halves(lo * low_half(s[i]), hi * high_half(s[i]));
        }
      }
      *(uint4*)(w.scratch + t * XS + k * 2) = v;
    });
    if constexpr (A::has_norm_weight) {
      square = warp_sum(square);
      if (w.lane == 0 && w.warp < TEAM * TOKENS) ((float*)(w.scratch + SUMS))[w.warp] = square;
    }
    w.settled();
    w.sync();
  }

  static __device__ __forceinline__ bf16 load_residual(const A& a, const Worker& w, i64 at) {
    if constexpr (A::residual_t::polled) return settle(w, a.residual.data + at);
    return a.residual.data[at];
  }

  // the same for an input that isn't staged
  static __device__ __forceinline__ void await(const A& a, const Worker& w, int first, int tokens) {
    for_pieces(a, w, first, tokens, [](int, int, int, const uint4&) {});
    w.settled();
    w.sync();
  }

  // Calls fn(i, w0, w1, w2, w3) for every block of a chunk, its tiles i .. i + 3: the lane's 8 weights of each.
  template <class Fn>
  static __device__ __forceinline__ void for_blocks(const Worker& w, const u8* chunk, int blocks, const Fn& fn) {
    if constexpr (TIGHT) {
      const uint4* p = (const uint4*)chunk + w.lane;
      const u32 keep = opaque(KEEP);
      uint4 next[3] = {p[0], p[32], p[64]};
      #pragma unroll 1  // cold instructions cost more than the loop
      for (int i = 0; i < blocks; ++i) {
        const uint4 u = next[0], v = next[1], s = next[2];
        p += TIGHT_BLOCK_BYTES / 16;
        next[0] = p[0]; next[1] = p[32]; next[2] = p[64];  // beyond the last block: of shared memory still
        fn(i * 4, loosen(u.x, u.y, u.z, TIGHT_BASE, keep), loosen(u.w, v.x, v.y, TIGHT_BASE, keep),
           loosen(v.z, v.w, s.x, TIGHT_BASE, keep), loosen(s.y, s.z, s.w, TIGHT_BASE, keep));
      }
    } else {
      const int g = w.lane >> 2, q = w.lane & 3;
      const uint4* p = (const uint4*)chunk + g * 4 + (q ^ ((g >> 1) & 3));
      for (int i = 0; i < blocks; ++i, p += 128) fn(i * 4, p[0], p[32], p[64], p[96]);
    }
  }

  // Products of chunk j with its slab of x, one sum for each row and token: 8 rows x TOKENS floats at `sums`. An x that isn't
  // staged comes from L2 two blocks ahead, the first of them while the chunk is waited for.
  static __device__ __forceinline__ void multiply(const A& a, const Worker& w, int j, int first, int tokens, float* sums) {
    const int slab = j % SLABS;
    const int g = w.lane >> 2, q = w.lane & 3, k0 = slab * SLAB + q * 8, token = ev_min(g, tokens - 1);
    const u8* xp;
    if constexpr (STAGED) xp = w.scratch + token * XS + k0 * 2;
    else xp = (const u8*)(a.x.data + source_row(a, first + token) * K + k0);
    const int blocks = ev_min(SLAB, KP - slab * SLAB) / BLOCK;
    constexpr bool FAR = !STAGED && !DOT;
    uint4 next[FAR ? 2 : 1][4];
    auto ask = [&](uint4 (&to)[4], int i) {
      #pragma unroll
      for (int t = 0; t < 4; ++t) {
        const bool there = g < tokens && i < blocks * 4 && (K % BLOCK == 0 || k0 + (i + t) * 32 < K);
        to[t] = there ? load_16(xp + (i + t) * 64) : make_uint4(0, 0, 0, 0);
      }
    };
    if constexpr (FAR) { ask(next[0], 0); ask(next[1], 4); }
    const u8* const chunk = w.acquire(j), *const tail = chunk + blocks * TIGHT_BLOCK_BYTES;
    u32 tops = 0, listed = 0;
    if constexpr (TIGHT) {
      tops = DOT ? tail[g] : *(const unsigned short*)(tail + q * 2);
      listed = *(const u32*)(tail + 8);
    }
    auto x_of = [&](int i) {
      if constexpr (STAGED) return *(const uint4*)(xp + i * 64);
      const bool there = g < 2 && (K % BLOCK == 0 || k0 + i * 32 + (g & 1) * 64 < K);
      return there ? load_16(xp + i * 64) : make_uint4(0, 0, 0, 0);
    };
    float acc[4][4] = {}, c[2];
    if constexpr (DOT) {
      // w as A: rows g of it are tiles i and i + 1, rows g + 8 the two after them; as many columns of B as there are, by
      // turns, hold x of the first and of the second two. Half as many instructions as for 8 tokens, and nothing to move.
      xp += (g & 1) * 128;
      for_blocks(w, chunk, blocks, [&](int i, const uint4& w0, const uint4& w1, const uint4& w2, const uint4& w3) {
        const uint4 x = x_of(i), y = x_of(i + 1);
        mma_16816(acc[0], w0.x, w2.x, w0.y, w2.y, x.x, x.y);
        mma_16816(acc[1], w0.z, w2.z, w0.w, w2.w, x.z, x.w);
        mma_16816(acc[2], w1.x, w3.x, w1.y, w3.y, y.x, y.y);
        mma_16816(acc[3], w1.z, w3.z, w1.w, w3.w, y.z, y.w);
      });
      c[0] = ((acc[0][0] + acc[1][0]) + (acc[2][0] + acc[3][0])) + ((acc[0][3] + acc[1][3]) + (acc[2][3] + acc[3][3]));
    } else {
      for_blocks(w, chunk, blocks, [&](int i, const uint4& w0, const uint4& w1, const uint4& w2, const uint4& w3) {
        const uint4 tiles[4] = {w0, w1, w2, w3};
        uint4 now[4];
        #pragma unroll
        for (int t = 0; t < 4; ++t) {
          if constexpr (FAR) { now[t] = next[0][t]; next[0][t] = next[FAR][t]; }
          else now[t] = x_of(i + t);
        }
        if constexpr (FAR) ask(next[FAR], i + 8);
        #pragma unroll
        for (int t = 0; t < 4; ++t) {
          const uint4 x = now[t];
          mma_8816(acc[t % 2 * 2], x.x, x.y, tiles[t].x, tiles[t].y);
          mma_8816(acc[t % 2 * 2 + 1], x.z, x.w, tiles[t].z, tiles[t].w);
        }
      });
      #pragma unroll
      for (int r = 0; r < 2; ++r) c[r] = (acc[0][r] + acc[1][r]) + (acc[2][r] + acc[3][r]);
    }
    if constexpr (TIGHT) {
      const float scale[2] = {tight_scale(tops & 255), tight_scale(tops >> 8)};
      c[0] *= scale[0];
      if constexpr (!DOT) c[1] *= scale[1];
      #pragma unroll 1
      for (int e = 1; listed; ++e) {
        const Listed l = {listed};
        const int k = slab * SLAB + l.k();
        bf16 x;
        if constexpr (STAGED) x = *(const bf16*)(w.scratch + token * XS + k * 2);
        else x = bf16{load_2(a.x.data + source_row(a, first + token) * K + k)};
        const int row = DOT ? g : q * 2;
        if (l.row() == row) c[0] += l.missing(scale[0]) * to_float(x);
        if (!DOT && l.row() == row + 1) c[1] += l.missing(scale[1]) * to_float(x);
        listed = e < TIGHT_LISTED ? *(const u32*)(tail + 8 + e * 4) : 0;
      }
    }
    if constexpr (DOT) {
      if (q == 0) sums[g] = c[0];
    } else {
      if (g < tokens) *(float2*)(sums + g * 8 + q * 2) = make_float2(c[0], c[1]);
    }
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) {
    const int first = m * TOKENS, tokens = ev_min(TOKENS, a.y.dim0 - first);
    bool settle_first = false;
    i64 first_at = 0;
    float residual = 0.f;  // of this thread's first result: loaded beside x, not after the product
    if constexpr (A::has_residual) {
      const int width = ev_min(PANELS, count) * COLS, t = row_of(w.tid, width), col = n * COLS + w.tid - t * width;
      settle_first = t < tokens && col < A::y_t::dim1;
      if (settle_first) {
        first_at = source_row(a, first + t) * A::y_t::dim1 + col;
        residual = to_float(bf16{load_2(a.residual.data + first_at)});
      }
    }
    if constexpr (STAGED) stage(a, w, first, tokens);
    else if constexpr (A::x_t::polled) await(a, w, first, tokens);
    if constexpr (A::has_residual) {
      if (A::residual_t::polled && settle_first) residual = to_float(settle(w, a.residual.data + first_at));
    }
    float* part = (float*)(w.scratch + PART);
    for (int p0 = 0; p0 < count; p0 += PANELS) {
      const int panels = ev_min(PANELS, count - p0), chunks = panels * SLABS;
      for (int j = w.first_own(); j < chunks; j += WARPS) {
        multiply(a, w, j, first, tokens, part + j * TOKENS * 8);
        w.release(j);
      }
      w.chunk += chunks;
      w.sync();
      finish(a, w, part, n + p0, panels, first, tokens, p0 == 0, residual);
      if (p0 + PANELS < count) w.sync();
    }
  }

  // i / width, without the division where there is one row
  static __device__ __forceinline__ int row_of(int i, int width) { return TOKENS == 1 ? i >= width : i / width; }

  static __device__ __forceinline__ float scale(const A& a, const Worker& w, int t) {
    if constexpr (A::has_norm_weight) {
      const float* sums = (const float*)(w.scratch + SUMS) + t * TEAM;
      float s = 0.f;
      #pragma unroll
      for (int i = 0; i < TEAM; ++i) s += sums[i];
      return rsqrtf(s * (1.f / K) + A::eps);
    }
    return 1.f;
  }

  static __device__ __forceinline__ float total(const float* part, int panel, int t, int row) {
    const float* p = part + ((panel * SLABS) * TOKENS + t) * 8 + row;
    float v = 0.f;
    #pragma unroll
    for (int s = 0; s < SLABS; ++s) v += p[s * TOKENS * 8];
    return v;
  }

  static __device__ __forceinline__ void finish(const A& a, const Worker& w, const float* part, int n, int panels, int first, int tokens, bool ahead, float residual) {
    const int per_token = panels * COLS;
    #pragma unroll 1
    for (int i = w.tid; i < per_token * tokens; i += CONSUMERS) {
      const int t = row_of(i, per_token), at_panel = i - t * per_token, panel = at_panel / COLS, c = at_panel % COLS;
      const int col = (n + panel) * COLS + c;
      if (col >= A::y_t::dim1) continue;
      const float s = scale(a, w, t);
      float v;
      if constexpr (GATED) {
        float gate = total(part, panel, t, 2 * c) * s, up = total(part, panel, t, 2 * c + 1) * s;
        if constexpr (A::has_bias) { gate += to_float(a.bias.data[2 * col]); up += to_float(a.bias.data[2 * col + 1]); }
        v = gated(gate, up);
      } else {
        v = total(part, panel, t, c) * s;
        if constexpr (A::has_bias) v += to_float(a.bias.data[col]);
      }
      if constexpr (A::has_residual)
        v += ahead && i == w.tid ? residual : to_float(load_residual(a, w, source_row(a, first + t) * A::y_t::dim1 + col));
      put(a.y.data + (i64)(first + t) * A::y_t::dim1 + col, v);
    }
  }
};

// More tokens a task: see device/cuda/wide.cuh.
template <class A>
struct linear_wide_op : Stateless {
  static constexpr bool RUNS = true, WHOLE_CHUNKS = true;
  typedef typename either<(DIRECT > 0), direct_product<A, A::x_t::dim1>, wide_product<A, A::x_t::dim1>>::type Product;
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int m, int n, int count) { Product::stream(a, l, n, count); }
  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) { Product::run(a, w, m, n, count); }
};

// And with tasks of few rows: see device/cuda/slim.cuh.
template <class A>
struct linear_slim_op {
  static constexpr bool RUNS = true, WHOLE_CHUNKS = true;
  typedef slim_product<A, 1> Product;
  static_assert(!A::has_norm_weight && !A::has_rows, "a slim linear has no norm and no choice of rows before it");
  static_assert(!A::x_t::polled, "a slim linear's input can't announce itself");
  static_assert(A::activation != 1 || !A::has_residual, "a slim linear with an activation can't add a residual");
  static_assert(A::activation != 1 || sizeof(*A::y_t::data) == 2, "a slim linear with an activation needs an output in bfloat16");
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int m, int n, int count) { Product::stream(a, l, n, count); }
  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int m, int n, int count) {
    if (w.tid == 0) Product::describe(a, w.block->slim(), m, n, count, [&](Slim& p) {
      p.gated = A::activation == 1;
      if constexpr (A::y_t::layout == TILED) p.y_rows = A::y_t::rows;
      if constexpr (A::has_bias) p.bias = a.bias.data;
      if constexpr (A::has_residual) p.residual = a.residual.data;
      if constexpr (A::has_squares) {
        p.halved = a.squares.data;
        p.halves = A::squares_t::dim0;
        p.eps = A::eps;
        p.per_column = 1.f / A::x_t::dim1;
      }
    });
  }
  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) { Product::run(a, w); }
};

template <class A>
struct linear_op
    : either<(A::tile_m > 8), typename either<A::tile_n == 16, linear_slim_op<A>, linear_wide_op<A>>::type, linear_narrow_op<A>>::type {
  static_assert(A::tile_m > 8 || !A::has_squares, "a linear of few tokens can't end a norm that another operator began");
};

}  // namespace ev
