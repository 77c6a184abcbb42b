// The one micro-kernel: rows of weights times tokens, from registers. `linear` and `attention` are built on it.
//
//     out[t][r] (+)= sum over k of w[k][r] · x[t][k]        t < T tokens, r < V·L rows
//
// A row is a lane, and walks k in ascending order, so a result depends on its row of w, its token and k alone; it has the
// same bits for any T, V and C. Sums of a block of k join the total or, with Dots, go on from it, so that one product may have
// many blocks: to join every 64 steps takes 7 % of the time. What differs is how weights are held (W):
//
//     F32    float w[k][32]                                 1 k a step
//     Pairs  bf16 w[k / 2][32][2], widened in registers     2 k a step, the same bits as F32 on the widened weights
//     Dots   the same and bf16 x, for has_dot               2 k a step
//     Halves bf16 w[k][columns], rows of a cache            1 k a step
//     Fixed  int16 w[k / 2][32][2], and int16 x             2 k a step: see fixed.h
//
// T = 12, V = 2 fills the 32 registers of AVX-512: 24 sums, 4 of weights, 1 of x. With few tokens the sums are too few to
// hide the latency of an FMA (4 cycles), so C blocks of k are summed side by side, where blocks have sums of their own anyway.
//
// T = 6, V = 2 does so with the 16 of AVX2: 12 FMAs a step, which take 6 cycles, beside 8 loads. Where another thread shares
// the core's front end, every further instruction shows: so four steps of F32 at a time, and Tokens::beside.
#pragma once
#include <type_traits>

#include "simd.h"

namespace ev::EV_ISA {

constexpr int kRows = 32;        // rows of a panel
constexpr int kBlock = 128;      // values of k summed before they join the total, or go on from it
constexpr int kAhead = 4096;     // bytes between what is read and what is prefetched
constexpr int kTokens = L == 16 ? 12 : L == 8 ? 6 : 4;

// Tokens are cut into even groups of at most so many. Two groups of four keep only eight of AVX2's registers busy with sums.
inline int64_t group_tokens(int64_t tokens) { return L == 8 && tokens > 6 && tokens <= 9 ? 3 : kTokens; }

// How the tokens of a group of T stand in x: each with kBlock values of k in a row, or side by side for every k, which gives
// shorter instructions, and loads that never meet in one bank of the first-level cache.
enum class Tokens { apart, beside };
template <Tokens X, int T>
constexpr int64_t place(int t, int k) { return X == Tokens::apart ? t * kBlock + k : k * T + t; }

// What holds where W says nothing else: sums are floats, and join the total as they are, one block of k a product.
template <class T>
struct Plain {
  using Given = T;
  using Sum = F;
  static constexpr bool scaled = false;
  static constexpr int64_t blocks = 1;
  static constexpr bool goes_on = false;
  static EV_INLINE F join(F total, F sum, const float*) { return total + sum; }
};

struct F32 : Plain<float> {
  static constexpr int step = 1, lane_bytes = 4, unroll = L == 8 ? 4 : 1;
  template <int T, int V, Tokens X>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    if constexpr (L == 8 && T < V) {  // or there are too few registers for T = 3, V = 4
      F b[T];
      EV_UNROLL for (int t = 0; t < T; t++) b[t] = splat(x[place<X, T>(t, 0)]);
      EV_UNROLL for (int v = 0; v < V; v++) {
        F row = load(static_cast<const float*>(w) + v * L);
        EV_UNROLL for (int t = 0; t < T; t++) add_product(acc[t][v], row, b[t]);
      }
      return;
    }
    F row[V];
    EV_UNROLL for (int v = 0; v < V; v++) row[v] = load(static_cast<const float*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      F b = splat(x[place<X, T>(t, 0)]);
      EV_UNROLL for (int v = 0; v < V; v++) add_product(acc[t][v], row[v], b);
    }
  }
};

struct Pairs : Plain<float> {
  static constexpr int step = 2, lane_bytes = 4, unroll = 1;
  // L rows that are in a register already
  template <int T, int V, Tokens X>
  static EV_INLINE void add_pair(F (&acc)[T][V], int v, U pair, const Given* x) {
    EV_UNROLL for (int odd = 0; odd < 2; odd++) {
      const F row = floats(odd ? pair & 0xffff0000u : pair << 16);
      EV_UNROLL for (int t = 0; t < T; t++) {
        const F b = splat(x[place<X, T>(t, odd)]);
        if (T <= 2) acc[t][v] = fma(row, b, acc[t][v]);  // what waits for memory is the compiler's to arrange
        else add_product(acc[t][v], row, b);
      }
    }
  }
  template <int T, int V, Tokens X>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    // first the even k of all tokens, then the odd ones: half the registers
    EV_UNROLL for (int odd = 0; odd < 2; odd++) {
      F row[V];
      EV_UNROLL for (int v = 0; v < V; v++) {
        U pair = load_bytes<U>(static_cast<const uint32_t*>(w) + v * L);
        row[v] = floats(odd ? pair & 0xffff0000u : pair << 16);
      }
      EV_UNROLL for (int t = 0; t < T; t++) {
        F b = splat(x[place<X, T>(t, odd)]);
        EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = fma(row[v], b, acc[t][v]);
      }
    }
  }
};

struct Dots : Plain<bf16> {
  static constexpr int step = 2, lane_bytes = 4, unroll = 1;
  static constexpr bool goes_on = true;
  static constexpr int64_t blocks = 8;  // 64 KiB of a panel, which the second-level cache keeps beside x
  template <int T, int V, Tokens X>
  static EV_INLINE void add_pair(F (&acc)[T][V], int v, U pair, const Given* x) {
    EV_UNROLL for (int t = 0; t < T; t++) acc[t][v] = dot(acc[t][v], pair, splat_u(load_bytes<uint32_t>(x + place<X, T>(t, 0))));
  }
  template <int T, int V, Tokens X>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    U pair[V];
    EV_UNROLL for (int v = 0; v < V; v++) pair[v] = load_bytes<U>(static_cast<const uint32_t*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      U b = splat_u(load_bytes<uint32_t>(x + place<X, T>(t, 0)));
      EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = dot(acc[t][v], pair[v], b);
    }
  }
};

struct Halves : Plain<float> {
  static constexpr int step = 1, lane_bytes = 2, unroll = 1;
  template <int T, int V, Tokens X>
  static EV_INLINE void add(F (&acc)[T][V], const void* w, const Given* x) {
    F row[V];
    EV_UNROLL for (int v = 0; v < V; v++) row[v] = load(static_cast<const bf16*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      F b = splat(x[place<X, T>(t, 0)]);
      EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = fma(row[v], b, acc[t][v]);
    }
  }
};

// What is prefetched while a product runs: nothing (its weights are in a cache), its own weights kAhead bytes before their
// turn, or something else that comes after it.
enum class Ahead { nothing, weights, other };

// What one product reads and writes. Strides: `ws` bytes from a step's weights to the next step's, `os` elements from a token
// of out to the next (in x it is always kBlock, so that addresses are constants); `xb` elements of x from a block to the next,
// and, with C blocks side by side, `wb` bytes. `back`: what a token's sums are multiplied by, where W is scaled. `next` and
// `next_bytes`: what to prefetch for Ahead::other.
template <class W>
struct Product {
  const char* w;
  int64_t ws;
  const typename W::Given* x;
  int64_t steps;
  float* out;
  int64_t os;
  const float* back = nullptr;
  int64_t xb = 0, wb = 0;
  const char* next = nullptr;
  int64_t next_bytes = 0;
};

template <int n>
struct Count {
  static constexpr int value = n;
};

// what sums begin with, and what becomes of them
template <class W>
EV_INLINE typename W::Sum begin_sum(const float* out) {
  if constexpr (W::goes_on) return load(out);
  else return typename W::Sum{};
}
template <class W>
EV_INLINE void end_sum(float* out, typename W::Sum sum, const float* back) {
  // a -0 becomes 0 as where sums join: zeros after a product too small for float32 would make it one as well, and how many
  // follow depends on how weights are read
  if constexpr (W::goes_on) store(out, sum + F{});
  else store(out, W::join(load(out), sum, back));
}

// V·L rows and T tokens; the sums of the C blocks join `out` one after the other.
template <class W, int T, int V, int C, Ahead ahead, Tokens X>
inline void micro(Product<W> p) {
  static_assert(C == 1 || !W::goes_on);
  typename W::Sum acc[C][T][V];
  EV_UNROLL for (int c = 0; c < C; c++)
    EV_UNROLL for (int t = 0; t < T; t++)
      EV_UNROLL for (int v = 0; v < V; v++) acc[c][t][v] = begin_sum<W>(p.out + t * p.os + v * L);
  const int64_t stride = ahead == Ahead::other ? p.next_bytes / p.steps + 1 : 0;
  auto steps = [&](int64_t s, auto count) EV_INLINE_LAMBDA {
    EV_UNROLL for (int u = 0; u < count.value; u++) {
      // a line for every second k is soon enough, even for one group of tokens
      if (ahead == Ahead::other && (u % 2 == 0 || W::step == 2)) __builtin_prefetch(p.next + (s + u) * stride);
      EV_UNROLL for (int c = 0; c < C; c++) {
        const char* w = p.w + u * p.ws + c * p.wb;
        if (ahead == Ahead::weights)
          EV_UNROLL for (int b = 0; b < V * L * 4; b += 64) __builtin_prefetch(w + kAhead + b);
        W::template add<T, V, X>(acc[c], w, p.x + place<X, T>(0, u * W::step) + c * p.xb);
      }
    }
    p.w += count.value * p.ws, p.x += place<X, T>(0, count.value * W::step);
  };
  int64_t s = 0;
  if constexpr (W::unroll > 1) {
    for (; s + W::unroll <= p.steps; s += W::unroll) steps(s, Count<W::unroll>{});
    for (; s < p.steps; s++) steps(s, Count<1>{});
  } else {
    do {
      const int64_t end = W::blocks > 1 ? min_of(p.steps, s + kBlock / W::step) : p.steps;
      do steps(s++, Count<1>{});
      while (s < end);
      p.x += p.xb - place<X, T>(0, kBlock);
    } while (W::blocks > 1 && s < p.steps);
  }
  EV_UNROLL for (int c = 0; c < C; c++)
    EV_UNROLL for (int t = 0; t < T; t++)
      EV_UNROLL for (int v = 0; v < V; v++) end_sum<W>(p.out + t * p.os + v * L, acc[c][t][v], W::scaled ? p.back + t : nullptr);
}

// micro for a number of tokens known at run time, t <= T
template <class W, int V, int C, Ahead ahead, Tokens X, int T>
EV_INLINE void micro_for(int64_t t, const Product<W>& p) {
  if constexpr (T > 0) {
    if (t == T) return micro<W, T, V, C, ahead, X>(p);
    micro_for<W, V, C, ahead, X, T - 1>(t, p);
  }
}

template <class W, int V, int C, Ahead ahead, int R, Tokens X, int Most>
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
      if (W::scaled) part.back += t;
      part.next = next, part.next_bytes = share;
      if constexpr (L == 8 && ahead == Ahead::other && Most == kTokens)
        if (groups >= 8) {  // some lines each: asked for before its steps, not in every second of them
          for (int64_t b = 0; b < share; b += 64) __builtin_prefetch(next + b);
          micro_for<W, V, C, Ahead::nothing, X, Most>(end - t, part);
          t = end;
          continue;
        }
      micro_for<W, V, C, ahead, X, Most>(end - t, part);
      t = end;
    }
}

// r[t][j], values of L tokens at L places, to rows of n < L tokens side by side, one a place. Rows are written as whole vectors,
// of which the next row covers what is too much; the last three leave what comes after them, unless `more` rows follow.
inline void store_columns(U (&r)[L], int64_t n, bool more, float* to) {
  transpose(r);
  EV_UNROLL for (int j = 0; j < L; j++) store(to + j * n, floats(r[j]), more || j < L - 3 ? L : n);
}

// out[t][0..R) += one block of k (or C of them, or W::blocks at most) for any number of tokens, in groups (see group_tokens).
template <class W, int C, Ahead ahead, int R = kRows, Tokens X = Tokens::apart>
inline void multiply(int64_t tokens, const Product<W>& p) {
  // few tokens leave registers for more rows
  if constexpr (C == 1 && R >= 4 * L)
    if (tokens <= 2) return multiply_rows<W, 4, C, ahead, R, X, 2>(tokens, p);
  if constexpr (L == 8 && C == 1 && std::is_same_v<W, F32>)
    if (group_tokens(tokens) == 3) return multiply_rows<W, 4, C, ahead, R, X, 3>(tokens, p);
  multiply_rows<W, 2, C, ahead, R, X, kTokens>(tokens, p);
}

// `steps` steps of a panel for Pairs as F32 reads them
inline void widen_pairs(const char* from, int64_t steps, char* to) {
  for (int64_t s = 0; s < steps; s++, from += 4 * kRows, to += 8 * kRows)
    EV_UNROLL for (int v = 0; v < 4 * kRows; v += 4 * L) {
      const U pair = load_bytes<U>(from + v);
      store(reinterpret_cast<float*>(to + v), floats(pair << 16));
      store(reinterpret_cast<float*>(to + 4 * kRows + v), floats(pair & 0xffff0000u));
    }
}

}  // namespace ev::EV_ISA
