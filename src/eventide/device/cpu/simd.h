// One vector type `F` of `L` floats, and what kernels do with it: the same code on every instruction set.
//
// Kernels are written on GCC/Clang vector types; isa_*.h gives the width and the few instructions that the compiler does
// not find by itself. The file that includes this one is compiled once for each set, with `EV_ISA` naming it:
//
//     EV_ISA       flags                                                              L
//     portable     none                                                               4
//     avx2         -mavx2 -mfma                                                       8
//     avx512       -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma                   16
//     avx512bf16   the same and -mavx512bf16                                          16, bf16 dot products
//
// Every function here works lane by lane, or in an order that depends on L alone, so results do not depend on the caller.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "task.h"

#ifndef EV_ISA
#define EV_ISA portable
#endif

namespace ev {

struct bf16 {
  uint16_t bits;
};

}  // namespace ev

#if defined(__AVX512F__)
#include "isa_avx512.h"
#elif defined(__AVX2__)
#include "isa_avx2.h"
#else
#include "isa_portable.h"
#endif

#define EV_INLINE inline __attribute__((always_inline))
#define EV_INLINE_LAMBDA __attribute__((always_inline))
#define EV_UNROLL _Pragma("GCC unroll 32")

namespace ev::EV_ISA {

EV_INLINE F splat(float x) { return x - F{}; }
EV_INLINE U splat_u(uint32_t x) { return x - U{}; }
#ifdef EV_FIXED
constexpr bool has_fixed = true;
#else
constexpr bool has_fixed = false;
inline void add_dot(I&, U, U) {}
inline U to_fixed(F, F) { return U{}; }
inline U to_fixed(U pairs) { return pairs; }
#endif

EV_INLINE U bits(F x) { return reinterpret_cast<U>(x); }
EV_INLINE F floats(U x) { return reinterpret_cast<F>(x); }
EV_INLINE I lanes() {
  I n;
  for (int i = 0; i < L; i++) n[i] = i;
  return n;
}
EV_INLINE F select(I mask, F a, F b) { return mask ? a : b; }
EV_INLINE F max(F a, F b) { return select(a > b, a, b); }
EV_INLINE F min(F a, F b) { return select(a < b, a, b); }

template <class V, class T>
EV_INLINE V load_bytes(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

EV_INLINE float to_float(float x) { return x; }
EV_INLINE float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

EV_INLINE F load(const float* p) { return load_bytes<F>(p); }
EV_INLINE F load(const bf16* p) { return floats(widen(load_bytes<H>(p)) << 16); }

#ifndef EV_TO_BF16
// to nearest, ties to even; NaN stays NaN
EV_INLINE H to_bf16(F x) {
  U u = bits(x);
  U rounded = u + 0x7fff + ((u >> 16) & 1);
  U nan = (u >> 16) | 0x40;
  return narrow(x == x ? rounded >> 16 : nan);
}
#endif
EV_INLINE void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
EV_INLINE void store(bf16* p, F x) {
  H h = to_bf16(x);
  std::memcpy(p, &h, sizeof h);
}
// what is left after a value went through an array of T
EV_INLINE F rounded(const float*, F x) { return x; }
EV_INLINE F rounded(const bf16*, F x) { return floats(widen(to_bf16(x)) << 16); }

#ifndef EV_MASKED
EV_INLINE F load_first(const float* p, int64_t n) {
  float part[L] = {};
  std::memcpy(part, p, 4 * size_t(n > 0 ? n : 0));
  return load(part);
}
EV_INLINE H load_first(const bf16* p, int64_t n) {
  bf16 part[L] = {};
  std::memcpy(part, p, 2 * size_t(n > 0 ? n : 0));
  return load_bytes<H>(part);
}
template <class T, class V>
EV_INLINE void store_first(T* p, V x, int64_t n) {
  std::memcpy(p, &x, sizeof(T) * size_t(n > 0 ? n : 0));
}
#endif
// the first n lanes; the others are zero. n may be more than L, or less than zero
EV_INLINE F load(const float* p, int64_t n) { return n >= L ? load(p) : load_first(p, n); }
EV_INLINE F load(const bf16* p, int64_t n) { return n >= L ? load(p) : floats(widen(load_first(p, n)) << 16); }
EV_INLINE void store(float* p, F x, int64_t n) { n >= L ? store(p, x) : store_first(p, x, n); }
EV_INLINE void store(bf16* p, F x, int64_t n) { n >= L ? store(p, x) : store_first(p, to_bf16(x), n); }

// e^x within 2 units in the last place for x in [-87.3, 88.3], 0 below, infinity above. Range reduction by ln 2 in two parts,
// then a polynomial on [-ln 2 / 2, ln 2 / 2], whose coefficients are those of Cephes' expf (Moshier, 1989).
EV_INLINE F exp(F x) {
  F n = x * splat(1.44269504f);
  // adding and taking away 1.5 · 2^23 rounds to the nearest integer
  F magic = splat(12582912.0f);
  n = (n + magic) - magic;
  F r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  F p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  F scale = floats((reinterpret_cast<U>(__builtin_convertvector(n, I)) + 127) << 23);
  F y = p * scale;
  y = select(x < splat(-87.3f), F{}, y);
  return select(x > splat(88.3f), splat(INFINITY), y);
}

EV_INLINE F silu(F x) { return x / (splat(1.0f) + exp(-x)); }

// calls fn with a null pointer of the element type that d names; a tensor of activations, weights or a cache has one of two
template <class Fn>
EV_INLINE void with_type(DType d, Fn fn) {
  if (d == DType::bf16)
    fn(static_cast<bf16*>(nullptr));
  else
    fn(static_cast<float*>(nullptr));
}

EV_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
EV_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace ev::EV_ISA
