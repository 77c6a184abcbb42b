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
// sum += a · b; with the intrinsic GCC 12 moves sums from register to register in long loops, and keeps some in memory
inline void add_product(F& sum, F a, F b) { asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b)); }
inline U widen(H x) { return reinterpret_cast<U>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x))); }
inline H narrow(U x) {
  const __m256i v = reinterpret_cast<__m256i>(x);
  return reinterpret_cast<H>(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

// the halves of the 64-bit products of each lane with m
inline void multiply_wide(U a, uint32_t m, U& high, U& low) {
  const __m256i x = reinterpret_cast<__m256i>(a), y = _mm256_set1_epi32(int32_t(m));
  const __m256i even = _mm256_mul_epu32(x, y), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
  low = reinterpret_cast<U>(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa));
  high = reinterpret_cast<U>(_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa));
}

// the elements of a and b, one after the other, at even and at odd places
inline void split(F a, F b, F& even, F& odd) {
  auto in_order = [](F x) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8)); };
  even = in_order(_mm256_shuffle_ps(a, b, 0x88)), odd = in_order(_mm256_shuffle_ps(a, b, 0xdd));
}

// halves joined until one lane is left
inline float sum(F x) {
  __m128 v = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
inline float largest(F x) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
inline F dot(F acc, U, U) { return acc; }

// sum += the products of the pairs of int16 that each lane of a and b holds
#define EV_FIXED
inline void add_dot(I& sum, U a, U b) {
  U products;
  asm("vpmaddwd %2, %1, %0" : "=x"(products) : "x"(a), "x"(b));
  asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
}
// the values of a, then those of b, to the nearest int16
inline U to_fixed(F a, F b) {
  return reinterpret_cast<U>(_mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)), 0xd8));
}
// the pairs of bf16 numbers that lanes hold, to the nearest int16
inline U to_fixed(U pairs) {
  const __m256i even = _mm256_cvtps_epi32(reinterpret_cast<__m256>(pairs << 16));
  const __m256i odd = _mm256_cvtps_epi32(reinterpret_cast<__m256>(pairs & 0xffff0000u));
  return reinterpret_cast<U>(_mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa));
}

// r[i][j] <-> r[j][i]: pairs of rows, pairs of pairs, then halves
inline void transpose(U (&r)[L]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    const auto x = reinterpret_cast<__m256>(r[i]), y = reinterpret_cast<__m256>(r[i + 1]);
    a[i] = _mm256_unpacklo_ps(x, y), a[i + 1] = _mm256_unpackhi_ps(x, y);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44), b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44), b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = reinterpret_cast<U>(_mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
    r[i + 4] = reinterpret_cast<U>(_mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
  }
}

}  // namespace ev::EV_ISA
