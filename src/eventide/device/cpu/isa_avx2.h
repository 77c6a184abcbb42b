// AVX2 with FMA: vectors of eight floats; see simd.h.
#pragma once
#include <immintrin.h>

namespace ev::EV_ISA {

constexpr int L = 8;
constexpr bool has_dot = false;
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
typedef uint32_t U __attribute__((vector_size(32)));
typedef uint16_t H __attribute__((vector_size(16)));

inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F dot(F acc, U, U) { return acc; }

// r[i][j] <-> r[j][i]
inline void transpose(U (&r)[L]) {
  uint32_t t[L][L];
  for (int i = 0; i < L; i++)
    for (int j = 0; j < L; j++) t[j][i] = r[i][j];
  for (int i = 0; i < L; i++) __builtin_memcpy(&r[i], t[i], sizeof(U));
}

}  // namespace ev::EV_ISA
