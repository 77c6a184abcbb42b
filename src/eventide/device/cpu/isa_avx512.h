// AVX-512 F, BW, VL and DQ: vectors of sixteen floats; with BF16, dot products of pairs. See simd.h.
//
// EV_EMULATE_DOT builds the dot product from FMAs, to test its callers on a CPU without it.
#pragma once
#include <immintrin.h>

namespace ev::EV_ISA {

constexpr int L = 16;
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }

// acc + the products of the pairs of bf16 numbers that each lane of a and b holds
#if defined(EV_EMULATE_DOT)
constexpr bool has_dot = true;
inline F dot(F acc, U a, U b) {
  const U high = U{} + 0xffff0000u;
  acc = fma(reinterpret_cast<F>(a & high), reinterpret_cast<F>(b & high), acc);
  return fma(reinterpret_cast<F>(a << 16), reinterpret_cast<F>(b << 16), acc);
}
#elif defined(__AVX512BF16__)
constexpr bool has_dot = true;
inline F dot(F acc, U a, U b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#else
constexpr bool has_dot = false;
inline F dot(F acc, U, U) { return acc; }
#endif

// r[i][j] <-> r[j][i]: four rounds, each exchanging the halves of the rows i and i + half at a distance of `half` lanes
inline void transpose(U (&r)[L]) {
#pragma GCC unroll 4
  for (int half = 8; half; half /= 2) {
    U low, high;
#pragma GCC unroll 16
    for (int i = 0; i < L; i++) {
      low[i] = uint32_t(i & half ? 16 + (i ^ half) : i);
      high[i] = uint32_t(i & half ? 16 + i : i ^ half);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; i++)
      if (!(i & half)) {
        auto a = reinterpret_cast<__m512i>(r[i]), b = reinterpret_cast<__m512i>(r[i + half]);
        r[i] = reinterpret_cast<U>(_mm512_permutex2var_epi32(a, reinterpret_cast<__m512i>(low), b));
        r[i + half] = reinterpret_cast<U>(_mm512_permutex2var_epi32(a, reinterpret_cast<__m512i>(high), b));
      }
  }
}

}  // namespace ev::EV_ISA
