// Products of 16 to 128 tokens with streamed weights: the tokens stay in registers, and the weights pass them once.
//
// With many tokens it is the activations that must not be read again and again: 64 tokens x 8 rows a chunk would take eight
// times the weights' bytes out of shared memory. So each warp holds its part of x as the A fragments of mma.m16n8k16, 128
// registers a lane: G groups of 16 tokens x KW of k. The eight warps are TOKEN_PARTS parts of the tokens times K_PARTS parts
// of k, and together hold TOKENS x ROUND of x:
//
//     TOKENS   parts of tokens x k    G x KW        ROUND    a chunk of 8 rows x 512 k is read by    partial sums of a panel
//       16            1 x 8           1 x 512       4096              1 warp                              4 KB
//       32            1 x 8           2 x 256       2048              2 warps                             8 KB
//       64            2 x 4           2 x 256       1024              4 warps                             8 KB
//      128            4 x 2           2 x 256        512              8 warps                             8 KB
//
// A run of tasks is `count` consecutive panels. The ring brings, for each round of k, that round's part of every panel; a
// panel's parts meet in shared memory, two panels a barrier, and are added in ascending order of k by the thread that owns
// four rows of one token. Longer k than a round: the sums of some panels wait in shared memory for the next round.
//
// Worked example: 64 tokens, k = 4096, a run of 24 panels. Four rounds of 1024 k. In round 1 warp 5 (tokens 32..63, k part 2)
// loads x[32..63, 1536..1791], 8 tiles of 32 k; then for each panel it waits for the panel's second chunk of the round (k
// 1536..2047), multiplies its first half, and leaves 32 tokens x 8 rows of sums. After two panels: a barrier, and thread 9
// adds the four parts of token 4, rows 4..7 of the first of them to what round 0 left.
//
// x * norm_weight is what is held, and 1/rms scales the finished sums. `A` is the class of a grid with the operands and
// attributes of `linear`, or what looks like one; K: the task's k, which may be a slab of the weight's.
#pragma once

namespace ev {

template <class A, int K>
struct wide_product {
  static constexpr int LAYOUT = A::w_t::layout;
  static constexpr bool TIGHT = LAYOUT == TIGHT8, GATED = A::activation == 1;
  static constexpr int KP = pad_k(K), N = A::y_t::dim1, STRIDE = A::x_t::dim1;
  static constexpr int TOKENS = A::tile_m, GROUPS = TOKENS / 16;
  static constexpr int TOKEN_PARTS = GROUPS > 2 ? GROUPS / 2 : 1, G = GROUPS / TOKEN_PARTS, K_PARTS = WARPS / TOKEN_PARTS;
  // k of one warp: as many as there are registers for, fewer where that leaves no warp without work
  static constexpr int part_of_k() {
    int kw = BLOCK;
    while (kw < SLAB / G && kw * K_PARTS < KP) kw *= 2;
    return kw;
  }
  static constexpr int KW = part_of_k(), TILES = KW / 32, ROUND = K_PARTS * KW, ROUNDS = (KP + ROUND - 1) / ROUND;
  static constexpr int CHAINS = G == 1 ? 4 : 2;  // sums of a group that don't wait for each other
  static constexpr int BATCH = 64 / TOKENS > 2 ? 64 / TOKENS : 2;      // panels between two barriers
  static constexpr int PART = K_PARTS * TOKENS * 8;                     // floats: the partial sums of a panel
  static constexpr int SQUARES = 2 * BATCH * PART * 4;                  // bytes: two buffers of partial sums come first
  static constexpr int NORM = SQUARES + (A::has_norm_weight ? K_PARTS * TOKENS * 4 : 0);
  static constexpr int SUMS = NORM + (A::has_norm_weight ? KP * 2 : 0);
  static constexpr int KEPT = ROUNDS == 1 ? 1 << 30 : (SCRATCH - SUMS) / (TOKENS * 32);  // panels whose sums may wait
  static_assert(TOKENS % 16 == 0 && TOKENS <= 128, "a wide linear task holds 16, 32, 64 or 128 tokens");
  static_assert(!A::x_t::polled, "a wide linear's input can't announce itself");
  static_assert(K % 8 == 0, "a linear needs k to be a multiple of 8");
  static_assert(SUMS <= SCRATCH && KEPT >= 1, "the partial sums of a wide linear must fit in the scratch memory");
  static_assert(TOKENS < 0 || SLOTS >= IN_FLIGHT + WARPS, "the ring needs slots for a chunk of every warp beyond those in flight");

  static constexpr int PANEL = panel_bytes(pad_k(A::w_t::dim1), LAYOUT), MINE = panel_bytes(KP, LAYOUT), SLAB_BYTES = slab_bytes(SLAB, LAYOUT);

  // the loader's view: piece i of a run is round i % ROUNDS of block i / ROUNDS
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int n, int count) {
    const int block = l.piece / ROUNDS, round = l.piece % ROUNDS, at = round * (ROUND / SLAB) * SLAB_BYTES;
    const int bytes = round == ROUNDS - 1 ? MINE - at : ROUND / SLAB * SLAB_BYTES;
    const int each = block_of(count), first = block * each, panels = ev_min(each, count - first);
    l.stream((const u8*)a.w.data + (i64)(n + first) * PANEL + at, bytes, SLAB_BYTES);
    l.rows = panels;
    l.pitch = PANEL;
    l.piece = round == ROUNDS - 1 && first + panels >= count ? 0 : l.piece + 1;
  }

  // panels of a block: equal blocks of at most KEPT
  static __device__ __forceinline__ int block_of(int count) {
    if constexpr (ROUNDS == 1) return count;
    const int blocks = (count + KEPT - 1) / KEPT;
    return (count + blocks - 1) / blocks;
  }

  // what depends on nothing is fetched before the task's dependencies are there
  __device__ __forceinline__ void prefetch(const A& a, Worker& w) {
    if constexpr (A::has_norm_weight) {
      for (int k = w.tid * 8; k < KP; k += CONSUMERS * 8) {
        u8* const to = w.scratch + NORM + k * 2;
        if (k < K) copy_16(to, a.norm_weight.data + k);
        else *(uint4*)to = make_uint4(0, 0, 0, 0);
      }
    }
  }

  // ---- this warp's part of x, and its sums of squares

  struct Held {
    // lane (g, q): 8 k at 8q of every 32, of tokens g and g + 8 of the group, as mma wants them: pairs 0 and 1 of both tokens
    // by turns, then pairs 2 and 3
    u32 x[G][TILES][2][4];
    float square[G][2];
  };

  static __device__ __forceinline__ i64 source_row(const A& a, int token) {
    if constexpr (A::has_rows) return a.rows.data[token];
    return token;
  }

  static __device__ __forceinline__ void load(const A& a, const Worker& w, Held& h, int first, int token0, int tokens, int k0, bool fresh) {
    const int g = w.lane >> 2, k = k0 + (w.lane & 3) * 8;
    uint4 got[G][TILES][2];
    #pragma unroll
    for (int n = 0; n < G; ++n) {
      #pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = token0 + n * 16 + half * 8 + g;
        const bool live = t < tokens;
        const bf16* const row = a.x.data + source_row(a, first + (live ? t : 0)) * STRIDE + k;
        #pragma unroll
        for (int i = 0; i < TILES; ++i) got[n][i][half] = live && k + i * 32 < K ? load_weak_16(row + i * 32) : make_uint4(0, 0, 0, 0);
      }
    }
    if constexpr (A::has_norm_weight) {
      if (fresh) {  // the staged norm is there
        wait_copies();
        w.sync();
      }
    }
    // Something has to be done with every word: else the assembler leaves it where the load has put it, and moves four of them
    // before each product.
    const u32 zero = w.block->quit >> 8;
    #pragma unroll
    for (int i = 0; i < TILES; ++i) {
      uint4 norm = make_uint4(0, 0, 0, 0);
      if constexpr (A::has_norm_weight) {
        if (k + i * 32 < KP) norm = *(const uint4*)(w.scratch + NORM + (k + i * 32) * 2);
      }
      #pragma unroll
      for (int n = 0; n < G; ++n) {
        #pragma unroll
        for (int half = 0; half < 2; ++half) {
          const u32* const from = &got[n][i][half].x;
          const u32* const by = &norm.x;
          #pragma unroll
          for (int e = 0; e < 4; ++e) {
            u32 v = from[e];
            if constexpr (A::has_norm_weight) {
              h.square[n][half] += low_half(v) * low_half(v) + high_half(v) * high_half(v);
              v = multiply_halves(v, by[e]);
            } else {
              v ^= zero;
            }
            h.x[n][i][e / 2][e % 2 * 2 + half] = v;
          }
        }
      }
    }
  }

  // ---- the product

  static __device__ __forceinline__ void step(const Held& h, float (&c)[G][CHAINS][4], int i, const uint4& b) {
    #pragma unroll
    for (int n = 0; n < G; ++n) {
      const u32(&lo)[4] = h.x[n][i][0], (&hi)[4] = h.x[n][i][1];
      const int chain = CHAINS == 4 ? i % 2 * 2 : 0;
      mma_16816(c[n][chain], lo[0], lo[1], lo[2], lo[3], b.x, b.y);
      mma_16816(c[n][chain + 1], hi[0], hi[1], hi[2], hi[3], b.z, b.w);
    }
  }

  // the same where the tile is known late
  template <int I>
  static __device__ __forceinline__ void step_at(const Held& h, float (&c)[G][CHAINS][4], int i, const uint4& b) {
    if constexpr (I < TILES) {
      if (i == I) {
        distinct<I>();
        step(h, c, I, b);
      } else {
        step_at<I + 1>(h, c, i, b);
      }
    }
  }

  // The weights that 12 bits can't say, as products of their own with all else zero: first the weight in the measure of what
  // was decoded, then what stands in its place, negative. `in` is where this warp's k begin in the slab.
  static __device__ __forceinline__ void add_listed(const Worker& w, const Held& h, float (&c)[G][CHAINS][4], const u8* tail, int in) {
    const u32* const list = (const u32*)(tail + 8);
    #pragma unroll 1
    for (int e = 0; e < TIGHT_LISTED; ++e) {
      const Listed l = {list[e]};
      if (!l) break;
      const int k = l.k() - in;
      if (k < 0 || k >= KW) continue;
      const float weight = l.weight() * __uint_as_float((238u - tail[l.row()]) << 23);  // times 2 ^ (111 - top)
      const bool mine = w.lane == l.row() * 4 + (k >> 3 & 3);
      const int shift = (k & 1) * 16, place = k >> 1 & 3;
      u32 two = mine ? __float_as_uint(weight) >> 16 << shift : 0;
      #pragma unroll 1
      for (int turn = 0; turn < 2; ++turn) {
        const uint4 b = make_uint4(place == 0 ? two : 0, place == 1 ? two : 0, place == 2 ? two : 0, place == 3 ? two : 0);
        step_at<0>(h, c, k / 32, b);
        two = mine ? 0xb000u << shift : 0;
      }
    }
  }

  // The weights of a chunk, tile by tile and ahead of use: lane (g, q) has the 8 at 8q of every 32 k of row g.
  struct Weights {
    static constexpr int AHEAD = 3, HELD = TIGHT ? 3 : AHEAD + 1;
    u32 at;            // of the lane's first piece, in shared memory
    uint4 held[HELD];  // TIGHT8: of a block of 4 tiles, which comes whole; else tiles i .. i + AHEAD, at i % HELD

    __device__ __forceinline__ Weights(const Worker& w, const u8* chunk, int in) {
      const int g = w.lane >> 2, q = w.lane & 3;
      at = shared_address(chunk) + (TIGHT ? in / BLOCK * TIGHT_BLOCK_BYTES + w.lane * 16 : in * 16 + g * 64 + ((q ^ ((g >> 1) & 3)) << 4));
    }
    __device__ __forceinline__ void load(int tile) {
      if constexpr (!TIGHT) {
        held[tile % HELD] = load_shared_16(at + tile * 512);
      } else if (tile % 4 == 0) {
        #pragma unroll
        for (int i = 0; i < 3; ++i) held[i] = load_shared_16(at + tile / 4 * TIGHT_BLOCK_BYTES + i * 512);
      }
    }
  };

  // the product with tiles 0 .. tiles - 1, TILES of them if WHOLE: then nothing has to be asked between them
  template <bool WHOLE>
  static __device__ __forceinline__ void tiles_of(const Held& h, float (&c)[G][CHAINS][4], Weights& f, int tiles) {
    if constexpr (TIGHT) {
      const u32 keep = opaque(KEEP);
      f.load(0);
      #pragma unroll
      for (int i = 0; i < TILES; i += 4) {
        if (!WHOLE && i >= tiles) break;
        const uint4 u = f.held[0], v = f.held[1], s = f.held[2];
        if (WHOLE ? i + 4 < TILES : i + 4 < tiles) f.load(i + 4);
        step(h, c, i, loosen(u.x, u.y, u.z, TIGHT_BASE, keep));
        step(h, c, i + 1, loosen(u.w, v.x, v.y, TIGHT_BASE, keep));
        step(h, c, i + 2, loosen(v.z, v.w, s.x, TIGHT_BASE, keep));
        step(h, c, i + 3, loosen(s.y, s.z, s.w, TIGHT_BASE, keep));
      }
    } else {
      #pragma unroll
      for (int i = 0; i < Weights::AHEAD; ++i) f.load(i);
      #pragma unroll
      for (int i = 0; i < TILES; ++i) {
        if (!WHOLE && i >= tiles) break;
        if (i + Weights::AHEAD < TILES) f.load(i + Weights::AHEAD);  // beyond `tiles`: of the ring still
        step(h, c, i, f.held[i % Weights::HELD]);
      }
    }
  }

  // this warp's part of k times one panel, into `out` [TOKENS, 8]; `blocks`: k of the slab in units of BLOCK
  static __device__ __forceinline__ void multiply(const Worker& w, const Held& h, const u8* chunk, int in, int blocks, int tiles, float* out) {
    const int g = w.lane >> 2, q = w.lane & 3;
    float c[G][CHAINS][4] = {};
    Weights f(w, chunk, in);
    if (KP % KW == 0 || tiles == TILES) tiles_of<true>(h, c, f, tiles);
    else tiles_of<false>(h, c, f, tiles);
    const u8* const tail = chunk + blocks * TIGHT_BLOCK_BYTES;
    if constexpr (TIGHT) {
      if (*(const u32*)(tail + 8)) add_listed(w, h, c, tail, in);
    }
    #pragma unroll
    for (int n = 0; n < G; ++n) {
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        if constexpr (CHAINS == 4) c[n][0][e] += c[n][2][e], c[n][1][e] += c[n][3][e];
        c[n][0][e] += c[n][1][e];
      }
    }
    if constexpr (TIGHT) {
      const u32 tops = *(const unsigned short*)(tail + q * 2);
      const float scale[2] = {tight_scale(tops & 255), tight_scale(tops >> 8)};
      #pragma unroll
      for (int n = 0; n < G; ++n) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) c[n][0][e] *= scale[e & 1];
      }
    }
    #pragma unroll
    for (int n = 0; n < G; ++n) {
      float* const p = out + (n * 16 + g) * 8 + q * 2;
      *(float2*)p = make_float2(c[n][0][0], c[n][0][1]);
      *(float2*)(p + 64) = make_float2(c[n][0][2], c[n][0][3]);
    }
  }

  // What this warp does of a round of `width` k. Computed anew for each panel from the thread's index: registers that live
  // across the product are dear, and where the compiler runs out of them it reloads from memory in the inner loop.
  struct Mine {
    static constexpr bool EVEN = KP % ROUND == 0;  // all rounds are whole
    int lane, token_part, k_part, width;
    __device__ __forceinline__ Mine(int w) : width(w) {
      const int tid = thread_index();
      lane = tid % 32;
      token_part = tid / 32 % TOKEN_PARTS;
      k_part = tid / 32 / TOKEN_PARTS;
    }
    __device__ __forceinline__ int token0() const { return token_part * G * 16; }
    __device__ __forceinline__ int begin() const { return k_part * KW; }      // of its k, in the round
    __device__ __forceinline__ int in() const { return k_part * KW % SLAB; }  // and in their slab
    __device__ __forceinline__ int live() const { return EVEN ? KW : ev_max(0, ev_min(KW, width - begin())); }
    __device__ __forceinline__ int slab() const { return EVEN ? (ROUND < SLAB ? ROUND : SLAB) : ev_min(SLAB, width - (begin() - in())); }
    // of all that read the chunk, the first one makes up for those that there could be and aren't
    __device__ __forceinline__ int arrivals() const {
      const int readers = TOKEN_PARTS * ((slab() + KW - 1) / KW);
      return token_part == 0 && in() == 0 ? WARPS - readers + 1 : 1;
    }
  };

  // tokens of tile `m`, panels n .. n + count - 1
  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) {
    const int first = m * TOKENS, tokens = ev_min(TOKENS, a.y.dim0 - first);
    float* const parts = (float*)w.scratch;
    u32 turn = 0;
    float scale = 1.f;
    const int each = block_of(count);
    Held h;
    for (int b = 0; b < count; b += each) {
      const int panels = ev_min(each, count - b);
      #pragma unroll
      for (int i = 0; i < G; ++i) h.square[i][0] = h.square[i][1] = 0.f;
      #pragma unroll 1
      for (int round = 0; round < ROUNDS; ++round) {
        const int width = ev_min(ROUND, KP - round * ROUND), chunks = (width + SLAB - 1) / SLAB;
        const bool last = round == ROUNDS - 1;
        {
          const Mine mine(width);
          load(a, w, h, first, mine.token0(), tokens, round * ROUND + mine.begin(), b == 0 && round == 0);
          if constexpr (A::has_norm_weight) {
            if (last && b == 0) leave_squares(w, h, mine.k_part, mine.token0());
          }
        }
        #pragma unroll 1
        for (int p0 = 0; p0 < panels; p0 += BATCH, ++turn) {
          const int some = ev_min(BATCH, panels - p0);
          float* const part = parts + (turn & 1) * BATCH * PART;
          Owned own;
          if (last) own.fetch(a, w, first, tokens, n + b + p0, some);
          #pragma unroll 1
          for (int p = 0; p < some; ++p) {
            const Mine mine(width);
            if (mine.live() <= 0) break;
            const int j = (p0 + p) * chunks + mine.begin() / SLAB;
            const u8* const chunk = w.acquire(j);
            if (mine.token0() < tokens) {
              float* const out = part + p * PART + (mine.k_part * TOKENS + mine.token0()) * 8;
              multiply(w, h, chunk, mine.in(), mine.slab() / BLOCK, (mine.live() + 31) / 32, out);
            }
            w.release(j, mine.arrivals());
          }
          w.sync();
          const int token = Owned::token(w);
          if (token < tokens) {
            if (A::has_norm_weight && last && b == 0 && p0 == 0) scale = scale_of(w, token);
            own.finish(a, w, part, first + token, n + b + p0, some, (width + KW - 1) / KW, round, last, p0, scale);
          }
        }
        w.chunk += panels * chunks;
      }
    }
  }

  static __device__ __forceinline__ void leave_squares(const Worker& w, const Held& h, int k_part, int token0) {
    float* const squares = (float*)(w.scratch + SQUARES) + k_part * TOKENS + token0 + (w.lane >> 2);
    #pragma unroll
    for (int n = 0; n < G; ++n) {
      #pragma unroll
      for (int half = 0; half < 2; ++half) {
        float s = h.square[n][half];
        s += __shfl_xor_sync(~0u, s, 1);
        s += __shfl_xor_sync(~0u, s, 2);
        if ((w.lane & 3) == 0) squares[n * 16 + half * 8] = s;
      }
    }
  }
  static __device__ __forceinline__ float scale_of(const Worker& w, int token) {
    const float* const squares = (const float*)(w.scratch + SQUARES) + token;
    float s = 0.f;
    #pragma unroll
    for (int i = 0; i < K_PARTS; ++i) s += squares[i * TOKENS];
    return rsqrtf(s / K + A::eps);
  }

  // ---- what one thread makes of a batch: four rows of one token, of every AT_ONCE'th panel

  struct Owned {
    static constexpr int AT_ONCE = CONSUMERS / (2 * TOKENS), EACH = (BATCH + AT_ONCE - 1) / AT_ONCE;
    static constexpr int COLS = GATED ? 2 : 4;             // columns of y
    static constexpr bool WHOLE = N % (GATED ? 4 : 8) == 0;  // no panel is cut
    uint2 residual[A::has_residual ? EACH : 1];            // asked for before the batch is multiplied

    static __device__ __forceinline__ int token(const Worker& w) { return w.tid % (2 * TOKENS) / 2; }
    static __device__ __forceinline__ int half(const Worker& w) { return w.tid & 1; }
    static __device__ __forceinline__ int panel(const Worker& w) { return w.tid / (2 * TOKENS); }
    static __device__ __forceinline__ int col(const Worker& w, int n, int i) { return (n + panel(w) + i * AT_ONCE) * 2 * COLS + half(w) * COLS; }

    __device__ __forceinline__ void fetch(const A& a, const Worker& w, int first, int tokens, int n, int some) {
      if constexpr (A::has_residual) {
        #pragma unroll
        for (int i = 0; i < EACH; ++i) {
          residual[i] = make_uint2(0, 0);
          if (token(w) >= tokens || panel(w) + i * AT_ONCE >= some) continue;
          const int c = col(w, n, i);
          const bf16* const p = a.residual.data + (i64)(first + token(w)) * N + c;
          if constexpr (WHOLE && COLS == 4) {
            const float2 v = load_8((const float2*)p);
            residual[i] = make_uint2(__float_as_uint(v.x), __float_as_uint(v.y));
          } else {
            #pragma unroll
            for (int e = 0; e < COLS; ++e) if (c + e < N) (&residual[i].x)[e / 2] |= (u32)load_2(p + e) << 16 * (e & 1);
          }
        }
      }
    }

    __device__ __forceinline__ void finish(const A& a, const Worker& w, const float* part, int row, int n, int some, int k_parts, int round, bool last, int p0, float scale) const {
      #pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const int p = panel(w) + i * AT_ONCE;
        if (p >= some) break;
        const float4* from = (const float4*)(part + p * PART + token(w) * 8) + half(w);
        float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
        float4* const kept = (float4*)((float*)(w.scratch + SUMS) + ((p0 + p) * TOKENS + token(w)) * 8) + half(w);
        if (ROUNDS > 1 && round > 0) v = *kept;
        #pragma unroll
        for (int s = 0; s < K_PARTS; ++s) {
          if (s >= k_parts) break;
          const float4 x = from[s * TOKENS * 2];
          v.x += x.x; v.y += x.y; v.z += x.z; v.w += x.w;
        }
        if (ROUNDS > 1 && !last) { *kept = v; continue; }
        put_row(a, v, row, col(w, n, i), scale, i);
      }
    }

    __device__ __forceinline__ void put_row(const A& a, const float4& sums, int row, int c, float scale, int i) const {
      float v[4] = {sums.x * scale, sums.y * scale, sums.z * scale, sums.w * scale};
      if constexpr (A::has_bias) {
        #pragma unroll
        for (int e = 0; e < 4; ++e) if (WHOLE || c + e / (4 / COLS) < N) v[e] += to_float(a.bias.data[c * (4 / COLS) + e]);
      }
      if constexpr (GATED) {
        v[0] = v[0] / (1.f + __expf(-v[0])) * v[1];
        v[1] = v[2] / (1.f + __expf(-v[2])) * v[3];
      }
      if constexpr (A::has_residual) {
        v[0] += low_half(residual[i].x);
        v[1] += high_half(residual[i].x);
        if constexpr (COLS == 4) {
          v[2] += low_half(residual[i].y);
          v[3] += high_half(residual[i].y);
        }
      }
      auto* const y = a.y.data + (i64)row * N + c;
      if constexpr (WHOLE) {
        put_together(y, v);
      } else {
        #pragma unroll
        for (int e = 0; e < COLS; ++e) if (c + e < N) put(y + e, v[e]);
      }
    }

    static __device__ __forceinline__ void put_together(float* y, const float (&v)[4]) {
      if constexpr (COLS == 4) *(float4*)y = make_float4(v[0], v[1], v[2], v[3]);
      else *(float2*)y = make_float2(v[0], v[1]);
    }
    static __device__ __forceinline__ void put_together(bf16* y, const float (&v)[4]) {
      if constexpr (COLS == 4) *(uint2*)y = make_uint2(pack_halves(v[0], v[1]), pack_halves(v[2], v[3]));
      else *(u32*)y = pack_halves(v[0], v[1]);
    }
  };
};

}  // namespace ev
