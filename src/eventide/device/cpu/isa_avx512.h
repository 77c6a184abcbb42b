// AVX-512 F, BW, VL and DQ: vectors of sixteen floats; with BF16, dot products of pairs. See simd.h.
//
// EV_EMULATE_DOT builds the dot product from FMAs, to test its callers on a CPU without it.
#pragma once
// GCC 12 takes the undefined operands inside its own intrinsics for mistakes
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace ev::EV_ISA {

constexpr int L = 16;
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline void add_product(F& sum, F a, F b) { sum = fma(a, b, sum); }

inline U widen(H x) { return reinterpret_cast<U>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(x))); }
inline H narrow(U x) { return reinterpret_cast<H>(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(x))); }

#define EV_TERNARY
// (x & mask) | y in one instruction, which the compiler finds only sometimes
inline U masked_or(U x, uint32_t mask, U y) {
  return reinterpret_cast<U>(_mm512_ternarylogic_epi32(reinterpret_cast<__m512i>(x), _mm512_set1_epi32(int32_t(mask)),
                                                       reinterpret_cast<__m512i>(y), 0xea));
}
template <int n>
inline U rotate_right(U x) { return reinterpret_cast<U>(_mm512_ror_epi32(reinterpret_cast<__m512i>(x), n)); }

// the halves of the 64-bit products of each lane with m
inline void multiply_wide(U a, uint32_t m, U& high, U& low) {
  const __m512i x = reinterpret_cast<__m512i>(a), y = _mm512_set1_epi32(int32_t(m));
  const __m512i even = _mm512_mul_epu32(x, y), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
  low = reinterpret_cast<U>(_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32)));
  high = reinterpret_cast<U>(_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd));
}

#define EV_MASKED
inline __mmask16 first(int64_t n) { return __mmask16((1u << (n < 0 ? 0 : n)) - 1); }
inline F load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline H load_first(const bf16* p, int64_t n) { return reinterpret_cast<H>(_mm256_maskz_loadu_epi16(first(n), p)); }
inline void store_first(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }
inline void store_first(bf16* p, H x, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), reinterpret_cast<__m256i>(x)); }

// the elements of a and b, one after the other, at even and at odd places
inline void split(F a, F b, F& even, F& odd) {
  const __m512i places = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even = _mm512_permutex2var_ps(a, places, b);
  odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(places, _mm512_set1_epi32(1)), b);
}

// halves joined until one lane is left
inline float sum(F x) { return _mm512_reduce_add_ps(x); }
inline float largest(F x) { return _mm512_reduce_max_ps(x); }

// acc + the products of the pairs of bf16 numbers that each lane of a and b holds
#if defined(EV_EMULATE_DOT)
constexpr bool has_dot = true;
inline F dot(F acc, U a, U b) {
  const U high = U{} + 0xffff0000u;
  acc = fma(reinterpret_cast<F>(a & high), reinterpret_cast<F>(b & high), acc);
  return fma(reinterpret_cast<F>(a << 16), reinterpret_cast<F>(b << 16), acc);
}
#elif defined(__AVX512BF16__)
#define EV_TO_BF16
// to nearest, ties to even; what is less than the least normal number becomes zero, as in products
inline H to_bf16(F x) { return reinterpret_cast<H>(_mm512_cvtneps_pbh(x)); }
constexpr bool has_dot = true;
inline F dot(F acc, U a, U b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#else
constexpr bool has_dot = false;
inline F dot(F acc, U, U) { return acc; }
#endif

// lane indices of an exchange of halves between two rows a and b: [0] gives the new a, [1] the new b
struct Exchange {
  alignas(64) uint32_t lane[2][16];
  constexpr explicit Exchange(uint32_t half) : lane() {
    for (uint32_t i = 0; i < 16; i++) {
      lane[0][i] = i & half ? 16 + (i ^ half) : i;
      lane[1][i] = i & half ? 16 + i : i ^ half;
    }
  }
};

template <int half>
inline void exchange(U (&r)[L]) {
  static constexpr Exchange e(half);
  const __m512i low = _mm512_load_si512(e.lane[0]), high = _mm512_load_si512(e.lane[1]);
#pragma GCC unroll 16
  for (int i = 0; i < L; i++)
    if (!(i & half)) {
      const auto a = reinterpret_cast<__m512i>(r[i]), b = reinterpret_cast<__m512i>(r[i + half]);
      r[i] = reinterpret_cast<U>(_mm512_permutex2var_epi32(a, low, b));
      r[i + half] = reinterpret_cast<U>(_mm512_permutex2var_epi32(a, high, b));
    }
}

// r[i][j] <-> r[j][i]
inline void transpose(U (&r)[L]) { exchange<8>(r), exchange<4>(r), exchange<2>(r), exchange<1>(r); }

}  // namespace ev::EV_ISA
