// Fixed: products of bfloat16 weights in 12 bits and bfloat16 x as those of integers, where an instruction set multiplies pairs
// of int16 faster than floats and has no dot product for bfloat16 (EV_FIXED; AVX2: 16 products an instruction instead of 8).
//
//     out[t][r] += unit[r] · sum over blocks of 1 / scale[t][block] · sum over k of weight[k][r] · value[t][k]
//
//     weight   its code (narrow_format.h) as (128 + mantissa) · 2^(exponent - 10), below 2^13. Exact where its exponent is one of
//              the row's six largest, else to the nearest integer: off by 1 / 16,384 of the largest weight at most
//     unit     of a row, a power of two
//     value    x · scale to the nearest integer. The scale is the largest power of two with which the sizes of a token's kBlock
//              values add up to 2^18 at most, so that no sum of products reaches 2^31, and each fits 16 bits
//
// Sums of a block are exact whatever their order. So a result depends on its row, its token and k alone, as everywhere. Against
// exact products y is off by 5e-5 to 1.4e-4 of its norm, where rounding it to bfloat16 costs 1.7e-3 (measured on normal numbers,
// with outliers of 100 times in x or 3,000 times in the weights). Example: values 1.5, -0.25, 0, … of a block add up to 1.75; the
// scale is 2^14, for 1.5 · 2^15 would be more than 32,767; and the integers are 24576, -4096, 0, …
//
// A value that is not finite makes its token's results NaN.
#pragma once
#include "matmul.h"

namespace ev::EV_ISA {

// the base which makes a pair of codes the bfloat16 numbers of their integers, and what one of those is worth in a row with another
constexpr uint32_t kFixedBase = 124 << 7 | 124 << 23;
inline float fixed_unit(uint32_t base) {
  const int exponent = int(base >> 7 & 0xff);
  return exponent < 240 ? std::ldexp(1.0f, exponent - 124) : NAN;  // from 240 on codes may say infinity and NaN
}

struct Fixed {
  using Given = int16_t;
  using Sum = I;
  static constexpr bool scaled = true;
  static constexpr int step = 2, lane_bytes = 4, unroll = 4;
  static EV_INLINE F join(F total, I sum, const float* back) { return fma(__builtin_convertvector(sum, F), splat(*back), total); }
  template <int T, int V, Tokens X>
  static EV_INLINE void add_pair(I (&acc)[T][V], int v, U pair, const Given* x) {
    EV_UNROLL for (int t = 0; t < T; t++) add_dot(acc[t][v], pair, splat_u(load_bytes<uint32_t>(x + 2 * t)));
  }
  template <int T, int V, Tokens X>
  static EV_INLINE void add(I (&acc)[T][V], const void* w, const Given* x) {
    U pair[V];
    EV_UNROLL for (int v = 0; v < V; v++) pair[v] = load_bytes<U>(static_cast<const uint32_t*>(w) + v * L);
    EV_UNROLL for (int t = 0; t < T; t++) {
      const U b = splat_u(load_bytes<uint32_t>(x + 2 * t));
      EV_UNROLL for (int v = 0; v < V; v++) add_dot(acc[t][v], pair[v], b);
    }
  }
};

// The scale of a block whose sizes add up to `total` and are `most` at most, a power of two; 0 if a value is not finite. Integers
// are half a unit off, so that they may add up to 2^18 + 64: times 255 · 2^5, the largest weight, still below 2^31.
inline float fixed_scale(float total, float most) {
  if (!(total < INFINITY)) return 0;
  const float scale = std::fmin(std::fmin(0x1p18f / total, 32767 / most), 0x1p126f);
  return to_float(bf16{uint16_t(bits(splat(scale))[0] >> 16 & 0x7f80)});
}

// One block of k of n <= L tokens, pairs of k of all tokens side by side: int16 to[kBlock / 2][n][2]. value(t, i) gives L values of
// token t from i on, zeros from `values` on. back[t] is 1 / scale.
template <class Value>
inline void fix_block(int64_t n, int64_t values, const Value& value, int16_t* to, float* back) {
  float x[L][kBlock];
  F scales[L];
  for (int64_t t = 0; t < n; t++) {
    F total{}, most{};
    for (int64_t i = 0; i < values; i += 2 * L)
      EV_UNROLL for (int half = 0; half < 2 * L; half += L) {
        const F v = value(t, i + half), size = max(v, -v);
        store(x[t] + i + half, v);
        total += size, most = max(most, size);
      }
    const float scale = fixed_scale(sum(total), largest(most));
    scales[t] = splat(scale), back[t] = scale > 0 ? 1 / scale : NAN;
  }
  float* rows = reinterpret_cast<float*>(to);
  for (int64_t i = 0; i < values; i += 2 * L, rows += L * n) {
    U pairs[L];
    EV_UNROLL for (int t = 0; t < L; t++)
      pairs[t] = t < n ? to_fixed(load(x[t] + i) * scales[t], load(x[t] + i + L) * scales[t]) : U{};
    if (n == 1)
      store(rows, floats(pairs[0]));
    else
      store_columns(pairs, n, i + 2 * L < values, rows);
  }
}

}  // namespace ev::EV_ISA
