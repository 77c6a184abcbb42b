// What products of many tokens (wide.cuh, slim.cuh) make of weights in shared memory: A fragments of 16 rows, two panels, and 128
// columns, a line, in a warp's registers.
//
// Weights of 12 bits become the bfloat16 that they were: the exponent's base is added as they are loosened, or scales their sums
// (SCALED), and a listed weight takes its place in the register, which a warp sees to before it multiplies. So results are those of
// 16 bits, to the bit, unless something scaled is too small for a float.
#pragma once

namespace ev {

// A place in a ring of barriers with their data, as it goes around.
template <int SIZE>
struct Place {
  u32 at, turn;
  __device__ __forceinline__ Place(u32 i) : at(i % SIZE), turn(i / SIZE & 1) {}
  __device__ __forceinline__ void advance(u32 by) {  // at most a turn
    at += by;
    if (at >= SIZE) { at -= SIZE; turn ^= 1; }
  }
  template <int BY>
  __device__ __forceinline__ void skip() {
    turn ^= BY / SIZE & 1;
    advance(BY % SIZE);
  }
};

typedef u32 Fragments[8][4];  // of a line: eight products of 16 columns

template <int LAYOUT, bool SCALED = false>
struct line_of_weights {
  static constexpr bool TIGHT = LAYOUT == TIGHT8;
  static constexpr int BYTES = TIGHT ? TIGHT_BLOCK_BYTES : BLOCK * 16, TAIL = TIGHT ? TIGHT_TAIL : 0;  // of a panel

  // What holds for a slab of two panels: the exponent to add to the weights of this lane's rows, and its word of their lists. Slabs
  // that are SCALED leave that to the sums: `scale` of them is 2 ^ (top - 111), and listed weights are divided by it.
  struct Slab {
    u32 add[2], listed;
    __device__ __forceinline__ float scale(int p) const { return TIGHT ? __uint_as_float(add[p]) : 1.f; }
    // `tails`: where the first panel's stands, and the second one's `pitch` bytes further
    __device__ __forceinline__ void read(const Worker& w, u32 tails, u32 pitch) {
      const u32 in = w.lane & 15;
      listed = in < TIGHT_LISTED ? load_shared(tails + (w.lane >> 4) * pitch + 8 + in * 4) : 0;
      #pragma unroll
      for (int p = 0; p < 2; ++p) {
        const u32 top = load_shared(tails + p * pitch + (w.lane >> 4) * 4) >> (w.lane >> 2 & 3) * 8 & 255;
        if constexpr (SCALED) add[p] = top ? (top + 16) << 23 : 0;
        else add[p] = top ? ((top - 15) << 7) * 0x10001u : 0;
      }
    }
  };

  // A weight, the upper half of a float's bits, over a power of two. Exact but for one below 2 ^ -111 of its row's largest, whose
  // last bits may be cut off.
  static __device__ __forceinline__ u32 divided(u32 weight, u32 scale) {
    return __float_as_uint(__uint_as_float(weight) * __uint_as_float((254u << 23) - scale)) & 0xffff0000u;
  }

  // Of the slab's line `line`, listed weights of tiles FIRST to FIRST + COUNT - 1 take their places.
  template <int FIRST, int COUNT>
  static __device__ __forceinline__ void place_listed(const Worker& w, const Slab& s, int line, Fragments& f) {
    const Listed mine = {s.listed};
    u32 there = __ballot_sync(~0u, mine && mine.k() / BLOCK == line && (COUNT == 4 || mine.k() / 32 % 4 / COUNT == FIRST / COUNT));
    #pragma unroll 1
    for (; there; there &= there - 1) {
      const int from = __ffs(there) - 1;
      const Listed l = {__shfl_sync(~0u, s.listed, from)};
      const int k = l.k(), at = (k >> 2 & 24) | (k & 6) | from >> 4;
      u32 weight = l.word & 0xffff0000u;
      if (SCALED) weight = divided(weight, from < 16 ? s.add[0] : s.add[1]);
      const u32 keep = k & 1 ? 0xffffu : 0xffff0000u, put = k & 1 ? weight : weight >> 16;
      replace<8 * FIRST, 8 * COUNT>(f, at, w.lane == l.row() * 4 + (k >> 3 & 3) ? at : -1, keep, put);
    }
  }

  // Bits of register `at`, one of COUNT from FIRST on, in the lane where `here` says so too: found by halves, the last eight one by
  // one. (Written so that the compiler can't make an array in memory of the registers.)
  template <int FIRST, int COUNT>
  static __device__ __forceinline__ void replace(Fragments& f, int at, int here, u32 keep, u32 put) {
    if constexpr (COUNT > 8) {
      if (at < FIRST + COUNT / 2) replace<FIRST, COUNT / 2>(f, at, here, keep, put);
      else replace<FIRST + COUNT / 2, COUNT / 2>(f, at, here, keep, put);
    } else {
      #pragma unroll
      for (int i = FIRST; i < FIRST + COUNT; ++i)
        asm volatile("{\n.reg .pred p;\nsetp.eq.s32 p, %1, %4;\n@p lop3.b32 %0, %0, %2, %3, 0xea;\n}"
                     : "+r"(f[i / 4][i % 4])
                     : "r"(here), "r"(keep), "r"(put), "r"(i));
    }
  }

  // tile t of a line, 32 columns: the lane's 8 weights of panel p
  static __device__ __forceinline__ void set(Fragments& f, int t, int p, const uint4& v) {
    f[2 * t][p] = v.x;
    f[2 * t][2 + p] = v.y;
    f[2 * t + 1][p] = v.z;
    f[2 * t + 1][2 + p] = v.w;
  }

  // A warp's part of a chunk: two panels' lines as they stand in memory. `load`: from shared memory, `make`: a tile's fragments.
  struct Raw {
    uint4 at[2][TIGHT ? 3 : 4];
    __device__ __forceinline__ void load(const Worker& w, u32 panels, u32 pitch) {
      #pragma unroll
      for (int p = 0; p < 2; ++p) {
        #pragma unroll
        for (int i = 0; i < (TIGHT ? 3 : 4); ++i) {
          const u32 place = TIGHT ? w.lane * 16 : (w.lane >> 2) * 64 + ((w.lane ^ (w.lane >> 3)) & 3) * 16;
          at[p][i] = load_shared_16(panels + p * pitch + i * 512 + place);
        }
      }
    }
    __device__ __forceinline__ void make(int t, const Slab& s, Fragments& f) const {
      const u32 keep = opaque(KEEP), base = SCALED ? opaque(TIGHT_BASE) : 0;
      #pragma unroll
      for (int p = 0; p < 2; ++p) {
        if constexpr (TIGHT) {
          const u32* const three = &at[p][0].x + 3 * t;
          uint4 v = loosen(three[0], three[1], three[2], base, keep);
          if (!SCALED) { v.x += s.add[p]; v.y += s.add[p]; v.z += s.add[p]; v.w += s.add[p]; }
          set(f, t, p, v);
        } else {
          set(f, t, p, at[p][t]);
        }
      }
    }
  };
};

// The other half of a half norm, for so many tokens, in shared memory: 1 / sqrt(Σ squares · per_column + eps) of each, where squares
// [blocks, pitch] are the sums of blocks of columns (ops/linear_residual). All consumers take part; a barrier must pass before it is
// read. `parts`: room for a number of every thread.
template <int TOKENS>
__device__ __forceinline__ void other_half(const Worker& w, const float* squares, int blocks, int pitch, int tokens, float per_column, float eps, float* parts) {
  constexpr int TEAMS = CONSUMERS / TOKENS, AT_ONCE = 16;
  const int t = w.tid % TOKENS, team = w.tid / TOKENS;
  const float* const p = squares + ev_min(t, tokens - 1);
  float sum = 0.f;
  #pragma unroll 1
  for (int b = team; b < blocks; b += TEAMS * AT_ONCE) {
    float v[AT_ONCE];
    #pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) v[i] = b + i * TEAMS < blocks ? load_weak_4(p + (i64)(b + i * TEAMS) * pitch) : 0.f;
    #pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) sum += v[i];
  }
  parts[team * TOKENS + t] = sum;
  w.sync();
  if (w.tid < TOKENS) {
    float all = 0.f;
    #pragma unroll
    for (int i = 0; i < TEAMS; ++i) all += parts[i * TOKENS + t];
    parts[t] = rsqrtf(all * per_column + eps);  // read by this thread alone before
  }
}

// A warpgroup's chunks of the ring that are lines of blocks of 64 rows, one after another (wide.cuh, warps.cuh).
template <int LAYOUT>
struct chunks_of_lines {
  typedef line_of_weights<LAYOUT> Weights;
  u32 ring, full;
  Place<OWN_SLOTS> next;
  bool there;  // asked for early: the answer takes a while
  __device__ __forceinline__ chunks_of_lines(const Worker& w) : next(w.chunk) {
    const int group = w.warp / 4;
    ring = opaque(shared_address(w.ring)) + group * OWN_SLOTS * SLOT;
    full = opaque(shared_address(w.block->full)) + group * OWN_SLOTS * 8;
    ask();
  }
  __device__ __forceinline__ void ask() { there = mbar_test_wait(full + next.at * 8, next.turn); }
  // The next one's part of this warp; `tails`: it has what holds for its slab. `half`: it is two lines of four panels.
  __device__ __forceinline__ void take(const Worker& w, typename Weights::Raw& raw, bool tails, typename Weights::Slab& slab, bool half = false) {
    const u32 at = ring + next.at * SLOT;
    const int panel = w.warp % 4 * 2;
    w.await_chunk(full + next.at * 8, next.turn, there);
    raw.load(w, at + panel * Weights::BYTES, Weights::BYTES);
    if (Weights::TIGHT && tails) slab.read(w, at + 8 * Weights::BYTES + (half ? panel % 4 : panel) * Weights::TAIL, Weights::TAIL);
    __syncwarp();
    if (w.lane == 0) mbar_arrive(full + (SLOTS + next.at) * 8);
    next.advance(1);
    ask();
  }
  // The fragments of the next one, line `line` of block r of a pass by lines. `slabs`: what holds for each block's slab.
  template <int BLOCKS>
  __device__ __forceinline__ void take_line(const Worker& w, int line, int r, typename Weights::Slab (&slabs)[BLOCKS], Fragments& f, bool half = false) {
    const bool tails = half || line % 4 < 2;
    typename Weights::Slab slab = slabs[0];
    #pragma unroll
    for (int i = 1; i < BLOCKS; ++i) if (r == i) slab = slabs[i];
    typename Weights::Raw raw;
    take(w, raw, tails, slab, half);
    if (Weights::TIGHT && tails) {
      #pragma unroll
      for (int i = 0; i < BLOCKS; ++i) if (r == i) slabs[i] = slab;
    }
    #pragma unroll
    for (int t = 0; t < 4; ++t) raw.make(t, slab, f);
    if constexpr (Weights::TIGHT) Weights::template place_listed<0, 4>(w, slab, line % 4, f);
  }
};

}  // namespace ev
