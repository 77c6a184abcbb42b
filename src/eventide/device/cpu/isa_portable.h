// Vectors of four floats, which every 64-bit CPU has; see simd.h.
#pragma once

namespace ev::EV_ISA {

constexpr int L = 4;
constexpr bool has_dot = false;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));
typedef uint16_t H __attribute__((vector_size(8)));

inline F fma(F a, F b, F c) { return a * b + c; }
inline void add_product(F& sum, F a, F b) { sum = fma(a, b, sum); }
inline U widen(H x) { return __builtin_convertvector(x, U); }
inline H narrow(U x) { return __builtin_convertvector(x, H); }

// the halves of the 64-bit products of each lane with m
inline void multiply_wide(U a, uint32_t m, U& high, U& low) {
  for (int i = 0; i < L; i++) high[i] = uint32_t(uint64_t(a[i]) * m >> 32);
  low = a * m;
}

// the elements of a and b, one after the other, at even and at odd places
inline void split(F a, F b, F& even, F& odd) { even = F{a[0], a[2], b[0], b[2]}, odd = F{a[1], a[3], b[1], b[3]}; }

// in a fixed order
inline float sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float largest(F x) {
  const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}
inline F dot(F acc, U, U) { return acc; }

// r[i][j] <-> r[j][i]
inline void transpose(U (&r)[L]) {
  uint32_t t[L][L];
  for (int i = 0; i < L; i++)
    for (int j = 0; j < L; j++) t[j][i] = r[i][j];
  for (int i = 0; i < L; i++) __builtin_memcpy(&r[i], t[i], sizeof(U));
}

}  // namespace ev::EV_ISA
