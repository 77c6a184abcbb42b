// Products with weights of 12 bits (Layout::narrow32): the bits of matmul.h's on the same weight in 16, or those of fixed.h.
//
// Few tokens wait for memory, so they widen the weights in registers, on their way from memory to the FMA (narrow_micro). Many
// tokens have a block of k widened once, into a buffer in the first-level cache, for the kernels of matmul.h (widen_block); with
// Dots their first group does it beside its products, which leave half of the pipes free, for a buffer in the second-level cache.
// Exceptions are put in place of what their codes say as a group of weights is widened: one branch a group, rarely taken. Fixed
// takes their codes, 0, as they are; who calls adds their products.
#pragma once
#include "fixed.h"
#include "matmul.h"
#include "narrow_format.h"

namespace ev::EV_ISA {

constexpr int64_t kNarrowGroupBytes = 4 * kNarrowGroupWords, kNarrowBlockBytes = kBlock / kNarrowGroup * kNarrowGroupBytes;
constexpr int kNarrowAhead = 8192;  // bytes between what is read and what is prefetched
constexpr int kNarrowTokens = L == 16 ? 12 : L == 8 ? 4 : 2;

template <class W>
EV_INLINE void widen_group(const char* words, U base, U (&pair)[4]) {
  U word[3];
  EV_UNROLL for (int i = 0; i < 3; i++) word[i] = load_bytes<U>(words + i * 4 * kRows);
#ifdef EV_TERNARY
  EV_UNROLL for (int i = 0; i < 3; i++) pair[i] = (word[i] & 0x87ff87ffu) + base;
  U last = (word[0] >> 4) & 0x07800780u;
  last = masked_or(word[1] >> 8, 0x00780078u, last);
  pair[3] = masked_or(rotate_right<12>(word[2]), 0x80078007u, last) + base;
#else
  narrow_join(word, base, pair);
#endif
  if (W::scaled)
    EV_UNROLL for (int i = 0; i < 4; i++) pair[i] = to_fixed(pair[i]);
}

// What a panel's product with one block of k reads: its words and bases from the first of V·L rows on, and its exceptions from
// the block's first on.
template <class Given>
struct NarrowProduct {
  const char* words;
  const uint32_t* bases;
  const NarrowException* exceptions;
  int64_t k0, groups;
  int row0;
  const Given* x;
  float* out;
  int64_t os;
  const float* back = nullptr;
  char* keep = nullptr;  // where the widened weights are left for other tokens, as in panel32
};

template <class W, int T, int V, Tokens X, bool keeps>
inline void narrow_micro(NarrowProduct<typename W::Given> p) {
  typename W::Sum acc[T][V];
  U base[V];
  EV_UNROLL for (int t = 0; t < T; t++)
    EV_UNROLL for (int v = 0; v < V; v++) acc[t][v] = begin_sum<W>(p.out + t * p.os + v * L);
  EV_UNROLL for (int v = 0; v < V; v++) base[v] = W::scaled ? splat_u(kFixedBase) : load_bytes<U>(p.bases + v * L);
  for (int64_t end = p.k0 + kNarrowGroup; p.groups > 0; p.groups--, end += kNarrowGroup) {
    EV_UNROLL for (int i = 0; i < 3; i++)
      EV_UNROLL for (int b = 0; b < V * L * 4; b += 64) __builtin_prefetch(p.words + kNarrowAhead + i * 4 * kRows + b);
    const bool exceptional = !W::scaled && p.exceptions->k < end;
    EV_UNROLL for (int v = 0; v < V; v++) {
      U pair[4];
      widen_group<W>(p.words + v * L * 4, base[v], pair);
      if (__builtin_expect(exceptional, 0)) {
        uint16_t values[4][L][2];
        std::memcpy(values, pair, sizeof pair);
        for (const NarrowException* e = p.exceptions; e->k < end; e++)
          if (const unsigned lane = unsigned(e->row - p.row0 - v * L); lane < L) values[e->k / 2 % 4][lane][e->k % 2] = e->bits;
        std::memcpy(pair, values, sizeof pair);
      }
      if (keeps)
        EV_UNROLL for (int i = 0; i < 4; i++) std::memcpy(p.keep + 4 * (i * kRows + v * L), &pair[i], sizeof(U));
      // or the compiler keeps all of x in registers from one v to the next, and sums in memory
      asm("" : "+r"(p.x));
      EV_UNROLL for (int i = 0; i < 4; i++) W::template add_pair<T, V, X>(acc, v, pair[i], p.x + place<X, T>(0, 2 * i));
    }
    if (__builtin_expect(exceptional, 0))
      while (p.exceptions->k < end) p.exceptions++;
    p.words += kNarrowGroupBytes, p.x += place<X, T>(0, kNarrowGroup);
    if (keeps) p.keep += 2 * kRows * kNarrowGroup;
  }
  EV_UNROLL for (int t = 0; t < T; t++)
    EV_UNROLL for (int v = 0; v < V; v++) end_sum<W>(p.out + t * p.os + v * L, acc[t][v], W::scaled ? p.back + t : nullptr);
}

template <class W, int V, Tokens X, bool keeps, int T>
EV_INLINE void narrow_micro_for(int64_t t, const NarrowProduct<typename W::Given>& p) {
  if constexpr (T > 0) {
    if (t == T) return narrow_micro<W, T, V, X, keeps>(p);
    narrow_micro_for<W, V, X, keeps, T - 1>(t, p);
  }
}

template <class W, int V, Tokens X, bool keeps, int Most>
inline void multiply_narrow_rows(int64_t tokens, const NarrowProduct<typename W::Given>& p) {
  for (int r = 0; r < kRows; r += V * L) {
    NarrowProduct<typename W::Given> part = p;
    part.words += 4 * r, part.bases += r, part.row0 += r, part.out += r;
    if (keeps) part.keep += 4 * r;
    narrow_micro_for<W, V, X, keeps, Most>(tokens, part);
  }
}

// out[t][0..32) += one block of k for at most kNarrowTokens tokens, from registers
template <class W, Tokens X, bool keeps = false>
inline void multiply_narrow(int64_t tokens, const NarrowProduct<typename W::Given>& p) {
  if constexpr (kRows >= 4 * L)
    if (tokens <= 2) return multiply_narrow_rows<W, 4, X, keeps, 2>(tokens, p);
  multiply_narrow_rows<W, 2, X, keeps, kNarrowTokens>(tokens, p);
}

// One block of k as the kernel W reads it: Fixed as in fixed.h, F32 as float32. `from` stands at the block's words.
template <class W>
inline void widen_block(const char* from, const uint32_t* bases, const NarrowException* e, int64_t k0, int64_t groups, char* to) {
  constexpr bool wide = W::step == 1;
  U base[kRows / L];
  EV_UNROLL for (int v = 0; v < kRows / L; v++) base[v] = W::scaled ? splat_u(kFixedBase) : load_bytes<U>(bases + v * L);
  uint32_t* words = reinterpret_cast<uint32_t*>(to);
  for (int64_t g = 0; g < groups; g++, from += kNarrowGroupBytes)
    EV_UNROLL for (int v = 0; v < kRows / L; v++) {
      U pair[4];
      widen_group<W>(from + v * L * 4, base[v], pair);
      EV_UNROLL for (int i = 0; i < 4; i++) {
        const int64_t at = g * 4 + i;
        if (wide) {
          store(reinterpret_cast<float*>(words + 2 * at * kRows + v * L), floats(pair[i] << 16));
          store(reinterpret_cast<float*>(words + (2 * at + 1) * kRows + v * L), floats(pair[i] & 0xffff0000u));
        } else {
          std::memcpy(words + at * kRows + v * L, &pair[i], sizeof(U));
        }
      }
    }
  for (const int64_t end = k0 + groups * kNarrowGroup; !W::scaled && e->k < end; e++) {
    const int64_t k = e->k - k0;
    if (wide)
      words[k * kRows + e->row] = uint32_t(e->bits) << 16;
    else
      reinterpret_cast<uint16_t*>(to)[(k / 2 * kRows + e->row) * 2 + k % 2] = e->bits;
  }
}

}  // namespace ev::EV_ISA
