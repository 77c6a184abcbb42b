// Fixed: products of bfloat16 weights in 12 bits and bfloat16 x as those of integers, where an instruction set multiplies pairs
// of int16 faster than floats and has no dot product for bfloat16 (EV_FIXED; AVX2: 16 products an instruction instead of 8).
//
//     out[t][r] = unit[r] · sum over blocks of back[t][block] · sum over k of weight[k][r] · value[t][k]
//
//     weight   its code (narrow_format.h) as (128 + mantissa) · 2^(exponent - 10), below 2^13. Exact where its exponent is one of
//              the row's six largest, else to the nearest integer: off by 1 / 8,192 of the largest weight at most
//     unit     of a row, a power of two
//     value    x · scale to the nearest integer. The scale is the largest power of two with which the sizes of a token's kBlock
//              values add up to 2^18 at most, so that no sum of products reaches 2^31, and each fits 16 bits
//     back     1 / scale, less what unit has too much of
//
// A few large values would leave too few bits for the others, which matters where weights make up for them. So what is large is
// taken out and multiplied in float32 (linear_fixed_rest in ops/linear/cpu.h): of the weights what narrow_format.h calls exceptions,
// of which there must be few enough (NarrowWeight::fixed), and of x what is more than about 16 times the square of the mean root of
// its block's sizes other than 0, again and again until there is no such value. What is left is off by about 1 / 512 of that square
// at most, of normal numbers by 1 / 4,096.
//
// Sums of a block are exact whatever their order. So a result depends on its row, its token and k alone, as everywhere. Example:
// values 1.5, -0.25, 0, … of a block add up to 1.75; the scale is 2^14, for 1.5 · 2^15 would be more than 32,767; and the integers
// are 24576, -4096, 0, …
//
// A token of which the sizes of a block add up to no finite number has NaN for results; beyond about 1e30 others may overflow.
#pragma once
#include "matmul.h"

namespace ev::EV_ISA {

// the base which makes a pair of codes the bfloat16 numbers of their integers
constexpr uint32_t kFixedBase = 124 << 7 | 124 << 23;
// What one of those is worth in a row with another base, 2^(exponent - 124), as powers of two that float32 holds: one for the row,
// and the rest, which goes into `back`. From 240 on codes may say infinity and NaN.
constexpr float kFixedRest = 0x1p-12f;
inline F fixed_unit(U base) {
  const U exponent = base >> 7 & 0xff;
  return floats(exponent < 240 ? (exponent + 15) << 23 : U{} + 0x7fc00000u);
}

struct Fixed : Plain<int16_t> {
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
  const float scale = std::fmin(std::fmin(0x1p18f / total, 32767 / most), 0x1p113f);
  return to_float(bf16{uint16_t(bits(splat(scale))[0] >> 16 & 0x7f80)});
}

// The root of a size within 6 %, and the larger the larger it is: half the exponent, and the mantissa as it stands.
constexpr uint32_t kRoot = 0x1fc00000;
constexpr float kOutlier = 4;  // a root more than so many times the mean is taken out
EV_INLINE F rough_root(F size) { return floats((bits(size) >> 1) + kRoot); }
EV_INLINE F size_of(F x) { return floats(bits(x) & 0x7fffffffu); }

// what the sizes of a token's block come to
struct BlockSizes {
  F total{}, most{}, roots{};
  I zeros{};
  EV_INLINE void add(F x) {
    const F size = size_of(x);
    total += size, most = max(most, size), roots += rough_root(size), zeros += size == F{};
  }
  // of so many values: a rough root above it is an outlier's
  float limit(int64_t values) const { return kOutlier * sum(roots) / (float(values) + sum(__builtin_convertvector(zeros, F))); }
  bool any_above(float limit) const { return sum(total) < INFINITY && rough_root(splat(largest(most)))[0] > limit; }
};

// One block of k of n <= L tokens, pairs of k of all tokens side by side: int16 to[kBlock / 2][n][2]. value(t, i) gives L values of
// token t from i on, zeros from `values` on. back[t] is kFixedRest / scale; outlier(t, i) is told what to[i] leaves out.
template <class Value, class Outlier>
inline void fix_block(int64_t n, int64_t values, const Value& value, int16_t* to, float* back, const Outlier& outlier) {
  float x[L][kBlock];
  F scales[L];
  const int64_t all = round_up(values, 2 * L);
  for (int64_t t = 0; t < n; t++) {
    BlockSizes sizes;
    for (int64_t i = 0; i < values; i += 2 * L)
      EV_UNROLL for (int half = 0; half < 2 * L; half += L) {
        const F v = value(t, i + half);
        store(x[t] + i + half, v);
        sizes.add(v);
      }
    // again until none is left: the largest hide those after them
    for (float limit; limit = sizes.limit(all), sizes.any_above(limit);) {
      sizes = {};
      for (int64_t i = 0; i < all; i += L) {
        const F v = load(x[t] + i);
        const I out = rough_root(size_of(v)) > splat(limit);
        for (int j = 0; j < L; j++)
          if (out[j]) outlier(t, i + j);
        const F left = select(out, F{}, v);
        store(x[t] + i, left);
        sizes.add(left);
      }
    }
    const float scale = fixed_scale(sum(sizes.total), largest(sizes.most));
    scales[t] = splat(scale), back[t] = scale > 0 ? kFixedRest / scale : NAN;
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
