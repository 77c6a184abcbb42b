// The one micro-kernel: rows of weights times tokens, from registers. `linear` and `attention` are built on it.
//
//     out[t][r] (+)= sum over k of w[k][r] · x[t][k]        t < T tokens, r < V·L rows
//
// A row is a lane, and walks k in ascending order, so a result depends on its row of w, its token and k alone; it has the
// same bits for any T, V and C. What differs is how weights are held (W):
//
//     F32    float w[k][32]                                 1 k a step
//     Pairs  bf16 w[k / 2][32][2], widened in registers     2 k a step, the same bits as F32 on the widened weights
//     Dots   the same and bf16 x, for has_dot               2 k a step
//     Halves bf16 w[k][columns], rows of a cache            1 k a step
//
// T = 12, V = 2 fills the 32 registers of AVX-512: 24 sums, 4 of weights, 1 of x. With few tokens the sums are too few to
// hide the latency of an FMA (4 cycles), so C blocks of k are summed side by side; blocks have sums of their own anyway.
#pragma once
#include "simd.h"

namespace ev::EV_ISA {

constexpr int kRows = 32;        // rows of a panel
constexpr int kBlock = 128;      // values of k summed before they join the total; tokens of x are as far apart
constexpr int kAhead = 4096;     // bytes between what is read and what is prefetched
constexpr int kTokens = L == 16 ? 12 : L == 8 ? 6 : 4;

struct F32 {
  using Given = float;
  static constexpr int step = 1, lane_bytes = 4;
  template <int T, int V>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    F row[V];
    EV_UNROLL for (int v = 0; v < V; v++) row[v] = load(static_cast<const float*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      F b = splat(x[t * kBlock]);
      EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = fma(row[v], b, acc[t][v]);
    }
  }
};

struct Pairs {
  using Given = float;
  static constexpr int step = 2, lane_bytes = 4;
  // L rows that are in a register already
  template <int T, int V>
  static EV_INLINE void add_pair(F (&acc)[T][V], int v, U pair, const Given* x) {
    EV_UNROLL for (int odd = 0; odd < 2; odd++) {
      const F row = floats(odd ? pair & 0xffff0000u : pair << 16);
      EV_UNROLL for (int t = 0; t < T; t++) acc[t][v] = fma(row, splat(x[t * kBlock + odd]), acc[t][v]);
    }
  }
  template <int T, int V>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    // first the even k of all tokens, then the odd ones: half the registers
    EV_UNROLL for (int odd = 0; odd < 2; odd++) {
      F row[V];
      EV_UNROLL for (int v = 0; v < V; v++) {
        U pair = load_bytes<U>(static_cast<const uint32_t*>(w) + v * L);
        row[v] = floats(odd ? pair & 0xffff0000u : pair << 16);
      }
      EV_UNROLL for (int t = 0; t < T; t++) {
        F b = splat(x[t * kBlock + odd]);
        EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = fma(row[v], b, acc[t][v]);
      }
    }
  }
};

struct Dots {
  using Given = bf16;
  static constexpr int step = 2, lane_bytes = 4;
  template <int T, int V>
  static EV_INLINE void add_pair(F (&acc)[T][V], int v, U pair, const Given* x) {
    EV_UNROLL for (int t = 0; t < T; t++) acc[t][v] = dot(acc[t][v], pair, splat_u(load_bytes<uint32_t>(x + t * kBlock)));
  }
  template <int T, int V>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    U pair[V];
    EV_UNROLL for (int v = 0; v < V; v++) pair[v] = load_bytes<U>(static_cast<const uint32_t*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      U b = splat_u(load_bytes<uint32_t>(x + t * kBlock));
      EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = dot(acc[t][v], pair[v], b);
    }
  }
};

struct Halves {
  using Given = float;
  static constexpr int step = 1, lane_bytes = 2;
  template <int T, int V>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    F row[V];
    EV_UNROLL for (int v = 0; v < V; v++) row[v] = load(static_cast<const bf16*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      F b = splat(x[t * kBlock]);
      EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = fma(row[v], b, acc[t][v]);
    }
  }
};

// What is prefetched while a product runs: nothing (its weights are in a cache), its own weights kAhead bytes before their
// turn, or something else that comes after it.
enum class Ahead { nothing, weights, other };

// What one product reads and writes. Strides: `ws` bytes from a step's weights to the next step's, `os` elements from a token
// of out to the next (in x it is always kBlock, so that addresses are constants); with C blocks side by side, `wb` bytes and
// `xb` elements from a block to the next. `next` and `next_bytes`: what to prefetch for Ahead::other.
template <class W>
struct Product {
  const char* w;
  int64_t ws;
  const typename W::Given* x;
  int64_t steps;
  float* out;
  int64_t os;
  int64_t wb = 0, xb = 0;
  const char* next = nullptr;
  int64_t next_bytes = 0;
};

// V·L rows and T tokens; the sums of the C blocks join `out` one after the other.
template <class W, int T, int V, int C, Ahead ahead>
inline void micro(Product<W> p) {
  F acc[C][T][V];
  EV_UNROLL for (int c = 0; c < C; c++)
    EV_UNROLL for (int t = 0; t < T; t++)
      EV_UNROLL for (int v = 0; v < V; v++) acc[c][t][v] = F{};
  const int64_t stride = ahead == Ahead::other ? p.next_bytes / p.steps + 1 : 0;
  for (int64_t s = 0; s < p.steps; s++) {
    if (ahead == Ahead::other) __builtin_prefetch(p.next + s * stride);
    EV_UNROLL for (int c = 0; c < C; c++) {
      if (ahead == Ahead::weights)
        EV_UNROLL for (int b = 0; b < V * L * 4; b += 64) __builtin_prefetch(p.w + c * p.wb + kAhead + b);
      W::template add<T, V>(acc[c], p.w + c * p.wb, p.x + c * p.xb);
    }
    p.w += p.ws, p.x += W::step;
  }
  EV_UNROLL for (int c = 0; c < C; c++)
    EV_UNROLL for (int t = 0; t < T; t++)
      EV_UNROLL for (int v = 0; v < V; v++) {
        float* o = p.out + t * p.os + v * L;
        store(o, load(o) + acc[c][t][v]);
      }
}

// micro for a number of tokens known at run time, t <= T
template <class W, int V, int C, Ahead ahead, int T>
EV_INLINE void micro_for(int64_t t, const Product<W>& p) {
  if constexpr (T > 0) {
    if (t == T) return micro<W, T, V, C, ahead>(p);
    micro_for<W, V, C, ahead, T - 1>(t, p);
  }
}

template <class W, int V, int C, Ahead ahead, int R, int Most>
inline void multiply_rows(int64_t tokens, const Product<W>& p) {
  const int64_t groups = (tokens + Most - 1) / Most;
  // every part brings its share
  const int64_t share = p.next_bytes / (groups * (R / (V * L)));
  const char* next = p.next;
  for (int r = 0; r < R; r += V * L)
    for (int64_t g = 0, t = 0; g < groups; g++, next += share) {
      const int64_t end = (g + 1) * tokens / groups;
      Product<W> part = p;
      part.w += W::lane_bytes * r, part.x += t * kBlock, part.out += t * p.os + r;
      part.next = next, part.next_bytes = share;
      micro_for<W, V, C, ahead, Most>(end - t, part);
      t = end;
    }
}

// out[t][0..R) += one block of k (or C of them) for any number of tokens, in even groups.
template <class W, int C, Ahead ahead, int R = kRows>
inline void multiply(int64_t tokens, const Product<W>& p) {
  // few tokens leave registers for more rows
  if constexpr (C == 1 && R >= 4 * L)
    if (tokens <= 2) return multiply_rows<W, 4, C, ahead, R, 2>(tokens, p);
  multiply_rows<W, 2, C, ahead, R, kTokens>(tokens, p);
}

}  // namespace ev::EV_ISA
