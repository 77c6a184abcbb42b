// y = act(norm(x) · wᵀ + bias) + residual, one panel of 32 rows of w times the tokens of one tile.
//
// The prologue gathers, normalises and lays out the tile's x once a worker: [blocks of k][tokens][kBlock] (with AVX2 each group
// of tokens [kBlock][tokens]), in float32, in bfloat16 for dot products, or in int16 for products of integers. Then x meets the panel
// block by block: the first group of tokens brings a block from memory, the others find it in the first-level cache. With dot
// products it is Dots::blocks blocks at a time, and the second-level cache. Any number of tokens gives the same bits: see matmul.h.
//
// Widening a block of bfloat16 once for all groups: with AVX-512 3 % faster on data at hand, slower when the weights come from
// memory, as they do; with AVX2 10 to 40 % faster from 5 tokens on. Weights of 12 bits (narrow32) pay for being widened
// anyway: see narrow.h.
#pragma once
#include <type_traits>

#include "../../device/cpu/matmul.h"
#include "../../device/cpu/narrow.h"
#include "../../device/cpu/norm.h"

namespace ev::EV_ISA {

// whether weights of 16 bits are widened once for all of five tokens or more
constexpr bool kWiden = L == 8;

constexpr int64_t kSoon = 4;  // tokens between what is asked for and what is written

inline bool linear_dots(const linear_args& a) { return has_dot && a.w.dtype == DType::bf16 && a.x.dtype == DType::bf16; }

// bytes of widened weights that are held at a time
inline int64_t linear_widened(const linear_args& a) {
  if (a.w.layout == Layout::narrow32 && linear_dots(a)) return 2 * kRows * kBlock * Dots::blocks;
  return a.w.layout == Layout::narrow32 || (kWiden && a.w.dtype == DType::bf16) ? 4 * kRows * kBlock : 0;
}

// where things stand in scratch
struct LinearScratch {
  int64_t* tile;  // the m whose x is held
  float* out;     // [tokens][32]
  char* block;    // widened weights
  char* x;
  int64_t blocks;
  // of Fixed, behind x, which takes half as much as in float32 (and has room for that, where the weight doesn't suit Fixed):
  float* back;                // [blocks][tokens]
  NarrowException* outliers;  // values of x that are taken out, where row is the token; the last k is kNarrowEnd
  bf16* exact;                // [tokens][k], x before it became integers, where there is a norm

  LinearScratch(const linear_args& a, char* base)
      : tile(reinterpret_cast<int64_t*>(base)),
        out(reinterpret_cast<float*>(base + 64)),
        block(reinterpret_cast<char*>(out + a.tile_m * kRows)),
        x(block + linear_widened(a)),
        blocks((a.w.shape[1] + kBlock - 1) / kBlock),
        back(reinterpret_cast<float*>(x + 2 * blocks * a.tile_m * kBlock)),
        outliers(reinterpret_cast<NarrowException*>(back + blocks * a.tile_m)),
        exact(reinterpret_cast<bf16*>(outliers + blocks * a.tile_m * kBlock + 1)) {}
};

inline int64_t linear_scratch(const linear_args& a) {
  const LinearScratch s(a, nullptr);
  if (!has_fixed || a.w.layout != Layout::narrow32 || a.x.dtype != DType::bf16)
    return s.x - static_cast<char*>(nullptr) + 4 * s.blocks * a.tile_m * kBlock;
  return reinterpret_cast<char*>(s.exact) - static_cast<char*>(nullptr) + (a.norm_weight ? 2 * a.tile_m * a.w.shape[1] : 0);
}

// how x stands in scratch; side by side means in the groups that multiply cuts
constexpr Tokens kStand = L == 8 ? Tokens::beside : Tokens::apart;

inline bool linear_fixed(const linear_args& a) {
  return has_fixed && a.w.layout == Layout::narrow32 && a.x.dtype == DType::bf16 &&
         NarrowWeight(a.w.data, a.w.shape[0], a.w.shape[1]).fixed();
}

inline bool linear_from_registers(const linear_args& a, int64_t tokens) {
  return a.w.layout == Layout::narrow32 && tokens <= kNarrowTokens;
}

// at most so many tokens of x stand side by side
inline int64_t linear_group(const linear_args& a, int64_t tokens) {
  if (kStand == Tokens::apart) return 1;
  if (linear_from_registers(a, tokens)) return kNarrowTokens;
  return linear_fixed(a) ? kTokens : group_tokens(tokens);
}

// the row of x and of the residual that row m of y is made of
inline int64_t linear_row(const linear_args& a, int64_t m) { return a.rows ? a.rows.as<const int32_t>()[m] : m; }

// x of the tokens row[0..n), n <= L, one block of k after the other, `apart` values between the blocks. For Fixed s has what else is
// kept: of the tokens from `first` on; returns where the next outlier goes.
template <class X, class Given>
inline NarrowException* linear_rows(const linear_args& a, const LinearScratch& s, const int64_t* row, int64_t first, int64_t n,
                                    int64_t apart, Given* to, NarrowException* outliers) {
  const int64_t k = a.w.shape[1];
  F scale[L];
  for (int64_t t = 0; t < n; t++) scale[t] = splat(a.norm_weight ? inverse_rms(a.x.as<const X>() + row[t] * k, k, a.eps) : 1.0f);
  with_type(a.norm_weight.dtype, [&](auto* type) {
    const auto* norm = a.norm_weight.as<const std::remove_pointer_t<decltype(type)>>();
    auto value = [&](int64_t t, int64_t i) EV_INLINE_LAMBDA {
      const X* x = a.x.as<const X>() + row[t] * k;
      const F v = load(x + i, k - i);
      return norm ? rounded(x, v * scale[t] * load(norm + i, k - i)) : v;
    };
    for (int64_t k0 = 0; k0 < k; k0 += kBlock, to += apart) {
      const int64_t values = min_of(kBlock, k - k0);
      if constexpr (std::is_same_v<Given, int16_t>) {
        auto kept = [&](int64_t t, int64_t i) EV_INLINE_LAMBDA {
          const F v = value(t, k0 + i);
          if (norm) store(s.exact + (first + t) * k + k0 + i, v, k - k0 - i);
          return v;
        };
        auto outlier = [&](int64_t t, int64_t i) { *outliers++ = {uint32_t(k0 + i), uint16_t(first + t), 0}; };
        fix_block(n, values, kept, to, s.back + k0 / kBlock * (apart / kBlock) + first, outlier);
      } else {
        // zeros for what a group of weights has more
        const int64_t end = round_up(values, kNarrowGroup);
        for (int64_t i = 0; i < end; i += L) {
          if (n == 1) {
            store(to + i, value(0, k0 + i));
          } else if constexpr (std::is_same_v<Given, float>) {
            U block[L];
            EV_UNROLL for (int t = 0; t < L; t++) block[t] = t < n ? bits(value(t, k0 + i)) : U{};
            store_columns(block, n, i + L < end, to + i * n);
          }
        }
      }
    }
  });
  return outliers;
}
template <class X, class Given>
inline void linear_prologue(const linear_args& a, const LinearScratch& s, int64_t m0, int64_t tokens) {
  const int64_t most = linear_group(a, tokens), groups = (tokens + most - 1) / most;
  NarrowException* outliers = s.outliers;
  for (int64_t g = 0, t = 0; g < groups; g++) {
    const int64_t end = (g + 1) * tokens / groups, begin = t;
    int64_t rows[L];
    for (; t < end; t++) rows[t - begin] = linear_row(a, m0 + t);
    Given* to = reinterpret_cast<Given*>(s.x) + begin * kBlock;
    outliers = linear_rows<X>(a, s, rows, begin, end - begin, tokens * kBlock, to, outliers);
  }
  if (std::is_same_v<Given, int16_t>) *outliers = {kNarrowEnd, 0, 0};
}

template <class W>
inline void linear_product(const LinearScratch& s, const char* panel, int64_t k, int64_t tokens) {
  using Given = typename W::Given;
  constexpr int64_t row_bytes = 4 * kRows, block_bytes = row_bytes * kBlock / W::step;
  const Given* x = reinterpret_cast<const Given*>(s.x);
  const int64_t xb = tokens * kBlock;
  auto product = [&](int64_t b) {
    const int64_t steps = (min_of(W::blocks * kBlock, k - b * kBlock) + W::step - 1) / W::step;
    return Product<W>{panel + b * block_bytes, row_bytes, x + b * xb, steps, s.out, kRows, nullptr, xb, block_bytes};
  };
  int64_t b = 0;
  if constexpr (kWiden && std::is_same_v<W, Pairs>)
    if (tokens > 4) {
      for (; b < s.blocks; b++) {
        const Product<W> p = product(b);
        widen_pairs(p.w, p.steps, s.block);
        const int64_t steps = min_of(kBlock, k - b * kBlock);
        multiply<F32, 1, Ahead::other, kRows, kStand>(
            tokens, {s.block, row_bytes, p.x, steps, s.out, kRows, nullptr, 0, 0, p.w + block_bytes, block_bytes});
      }
      return;
    }
  if constexpr (!W::goes_on)
    if (tokens <= 2)
      for (; b + 2 <= k / kBlock; b += 2) multiply<W, 2, Ahead::weights, kRows, kStand>(tokens, product(b));
  for (; b < s.blocks; b += W::blocks) multiply<W, 1, Ahead::weights, kRows, kStand>(tokens, product(b));
}

// What products of Fixed leave to be done: the unit of each row, and in float32 what meets exceptions of the weight, or outliers of x.
inline void linear_fixed_rest(const linear_args& a, const LinearScratch& s, int64_t m0, const NarrowWeight& w, int64_t panel,
                              int64_t tokens) {
  constexpr int V = kRows / L;
  const uint32_t* bases = w.bases(panel);
  F unit[V];
  EV_UNROLL for (int v = 0; v < V; v++) unit[v] = fixed_unit(load_bytes<U>(bases + v * L));
  for (int64_t t = 0; t < tokens; t++)
    EV_UNROLL for (int v = 0; v < V; v++) store(s.out + t * kRows + v * L, load(s.out + t * kRows + v * L) * unit[v]);
  const int64_t k = w.k;
  auto x = [&](int64_t t) { return a.norm_weight ? s.exact + t * k : a.x.as<const bf16>() + linear_row(a, m0 + t) * k; };
  const NarrowException* const exceptions = w.exceptions(panel);
  for (const NarrowException* e = exceptions; e->k != kNarrowEnd; e++)
    for (int64_t t = 0; t < tokens; t++) s.out[t * kRows + e->row] += to_float(bf16{e->bits}) * to_float(x(t)[e->k]);
  const NarrowException* e = exceptions;
  for (const NarrowException* o = s.outliers; o->k != kNarrowEnd; o++) {
    // the 32 weights of this k but for the exceptions, whose products are there already
    float column[kRows];
    EV_UNROLL for (int v = 0; v < V; v++) {
      U pair[4];
      const uint32_t* words = w.words(panel) + o->k / kNarrowGroup * kNarrowGroupWords + v * L;
      widen_group<Pairs>(reinterpret_cast<const char*>(words), load_bytes<U>(bases + v * L), pair);
      const U both = pair[o->k / 2 % 4];
      store(column + v * L, floats(o->k % 2 ? both & 0xffff0000u : both << 16));
    }
    if (e->k > o->k) e = exceptions;
    while (e->k < o->k) e++;
    for (; e->k == o->k; e++) column[e->row] = 0;
    float* out = s.out + o->row * kRows;
    const F value = splat(to_float(x(o->row)[o->k]));
    EV_UNROLL for (int v = 0; v < V; v++) store(out + v * L, fma(load(column + v * L), value, load(out + v * L)));
  }
}

// W is Pairs or Fixed, or Dots for few tokens
template <class W>
inline void linear_product_narrow(const linear_args& a, const LinearScratch& s, int64_t m0, int64_t panel, int64_t tokens) {
  using Given = typename W::Given;
  using Buffered = std::conditional_t<std::is_same_v<W, Pairs>, F32, W>;
  const int64_t k = a.w.shape[1], xb = tokens * kBlock;
  const NarrowWeight w(a.w.data, a.w.shape[0], k);
  const char* words = reinterpret_cast<const char*>(w.words(panel));
  const NarrowException* e = w.exceptions(panel);
  const Given* x = reinterpret_cast<const Given*>(s.x);
  const float* back = s.back;
  for (int64_t k0 = 0; k0 < k; k0 += kBlock, words += kNarrowBlockBytes, x += xb, back += tokens) {
    const int64_t values = min_of(kBlock, k - k0), groups = (values + kNarrowGroup - 1) / kNarrowGroup;
    if (linear_from_registers(a, tokens)) {
      multiply_narrow<W, kStand>(tokens, {words, w.bases(panel), e, k0, groups, 0, x, s.out, kRows, back});
    } else {
      widen_block<Buffered>(words, w.bases(panel), e, k0, groups, s.block);
      const int64_t steps = (values + Buffered::step - 1) / Buffered::step;
      multiply<Buffered, 1, Ahead::other, kRows, kStand>(
          tokens, {s.block, 4 * kRows, x, steps, s.out, kRows, back, 0, 0, words + kNarrowBlockBytes, kNarrowBlockBytes});
    }
    if (!W::scaled)
      while (e->k < k0 + kBlock) e++;
  }
  if (W::scaled) linear_fixed_rest(a, s, m0, w, panel, tokens);
}

// Dots for more tokens than registers hold sums of: the first group widens the weights, beside its products, for the others.
inline void linear_dots_narrow(const linear_args& a, const LinearScratch& s, int64_t panel, int64_t tokens) {
  const int64_t k = a.w.shape[1], xb = tokens * kBlock, first = tokens / ((tokens + kTokens - 1) / kTokens);
  const NarrowWeight w(a.w.data, a.w.shape[0], k);
  const char* words = reinterpret_cast<const char*>(w.words(panel));
  const NarrowException* e = w.exceptions(panel);
  const bf16* x = reinterpret_cast<const bf16*>(s.x);
  for (int64_t k0 = 0; k0 < k;) {
    const int64_t begin = k0, end = min_of(k, k0 + Dots::blocks * kBlock);
    const bf16* const rest = x + first * kBlock;
    for (char* keep = s.block; k0 < end; k0 += kBlock, words += kNarrowBlockBytes, x += xb, keep += 2 * kRows * kBlock) {
      const int64_t groups = (min_of(kBlock, k - k0) + kNarrowGroup - 1) / kNarrowGroup;
      multiply_narrow<Dots, kStand, true>(first, {words, w.bases(panel), e, k0, groups, 0, x, s.out, kRows, nullptr, keep});
      while (e->k < k0 + kBlock) e++;
    }
    const int64_t bytes = Dots::blocks * kNarrowBlockBytes;
    multiply<Dots, 1, Ahead::other, kRows, kStand>(
        tokens - first, {s.block, 4 * kRows, rest, (end - begin + 1) / 2, s.out + first * kRows, kRows, nullptr, xb, 0, words, bytes});
  }
}

// Asks for what the epilogue of row m reads and writes from column n0 of w on: rows are far apart, each in a line of its own.
template <class Y>
EV_INLINE void linear_ask(const linear_args& a, int64_t m, int64_t n0) {
  const int64_t cols = a.y.shape[1];
  __builtin_prefetch(a.y.as<Y>() + m * cols + (a.activation == linear_activation::silu_mul ? n0 / 2 : n0), 1);
  // of another type it is another line, which does no harm
  if (a.residual) __builtin_prefetch(a.residual.as<const Y>() + linear_row(a, m) * cols + n0);
}

// bias, activation and residual of one token; `sums` holds 32 rows, `n` of which exist
template <class Y>
inline void linear_epilogue(const linear_args& a, float* sums, int64_t m, int64_t n0, int64_t n) {
  if (a.bias)
    with_type(a.bias.dtype, [&](auto* b) {
      const auto* bias = a.bias.as<const std::remove_pointer_t<decltype(b)>>() + n0;
      for (int64_t i = 0; i < n; i += L) store(sums + i, load(sums + i) + load(bias + i, n - i));
    });
  const int64_t cols = a.y.shape[1];
  if (a.activation == linear_activation::silu_mul) {
    EV_UNROLL for (int i = 0; i < kRows / 2; i += L) {
      F gate, up;
      split(load(sums + 2 * i), load(sums + 2 * i + L), gate, up);
      store(sums + i, silu(gate) * up);
    }
    n0 /= 2, n /= 2;
  }
  if (a.residual)
    with_type(a.residual.dtype, [&](auto* r) {
      const auto* residual = a.residual.as<const std::remove_pointer_t<decltype(r)>>() + linear_row(a, m) * cols + n0;
      for (int64_t i = 0; i < n; i += L) store(sums + i, load(sums + i) + load(residual + i, n - i));
    });
  Y* y = a.y.as<Y>() + m * cols + n0;
  for (int64_t i = 0; i < n; i += L) store(y + i, load(sums + i), n - i);
}

inline void linear_task(const linear_args& a, const linear_coords& c, Scratch scratch) {
  LinearScratch s(a, scratch.data);
  const int64_t k = a.w.shape[1], n0 = c.n * kRows, n = min_of(kRows, a.w.shape[0] - n0);
  const int64_t m0 = c.m * a.tile_m, tokens = min_of(a.tile_m, a.y.shape[0] - m0);
  const bool bf16_weights = a.w.dtype == DType::bf16;
  const bool narrow = a.w.layout == Layout::narrow32;
  const bool dots = linear_dots(a);
  const bool fixed = linear_fixed(a);
  if (scratch.fresh || *s.tile != c.m) {
    with_type(a.x.dtype, [&](auto* x) {
      using X = std::remove_pointer_t<decltype(x)>;
      if (dots)
        linear_prologue<X, bf16>(a, s, m0, tokens);
      else if (fixed)
        linear_prologue<X, int16_t>(a, s, m0, tokens);
      else
        linear_prologue<X, float>(a, s, m0, tokens);
    });
    *s.tile = c.m;
  }
  for (int64_t i = 0; i < tokens * kRows; i += L) store(s.out + i, F{});
  const char* panel = a.w.as<const char>() + c.n * kRows * (bf16_weights ? 2 * round_up(k, 2) : 4 * k);
  if (!bf16_weights)
    linear_product<F32>(s, panel, k, tokens);
  else if (fixed)
    linear_product_narrow<Fixed>(a, s, m0, c.n, tokens);
  else if (!dots)
    narrow ? linear_product_narrow<Pairs>(a, s, m0, c.n, tokens) : linear_product<Pairs>(s, panel, k, tokens);
  else if constexpr (has_dot)
    !narrow                            ? linear_product<Dots>(s, panel, k, tokens)
    : linear_from_registers(a, tokens) ? linear_product_narrow<Dots>(a, s, m0, c.n, tokens)
                                       : linear_dots_narrow(a, s, c.n, tokens);
  with_type(a.y.dtype, [&](auto* y) {
    using Y = std::remove_pointer_t<decltype(y)>;
    for (int64_t t = 0; t < tokens; t++) {
      linear_ask<Y>(a, m0 + min_of(t + kSoon, tokens - 1), n0);
      linear_epilogue<Y>(a, s.out + t * kRows, m0 + t, n0, n);
    }
  });
}

}  // namespace ev::EV_ISA
