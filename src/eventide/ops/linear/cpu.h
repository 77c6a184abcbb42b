// y = act(norm(x) · wᵀ + bias) + residual, one panel of 32 rows of w times the tokens of one tile.
//
// The prologue gathers, normalises and lays out the tile's x once a worker: [blocks of k][tokens][kBlock], in float32, or in
// bfloat16 for dot products. Then x meets the panel block by block: the first group of tokens brings a block from memory, the
// others find it in the first-level cache. Any number of tokens gives the same bits: see matmul.h.
//
// Widening a block of bfloat16 once for all groups was tried: 3 % faster on data at hand, slower when the weights come from
// memory, as they do. Weights of 12 bits (narrow32) pay for being widened anyway: see narrow.h.
#pragma once
#include <type_traits>

#include "../../device/cpu/matmul.h"
#include "../../device/cpu/narrow.h"
#include "../../device/cpu/norm.h"

namespace ev::EV_ISA {

// where things stand in scratch
struct LinearScratch {
  int64_t* tile;  // the m whose x is held
  float* out;     // [tokens][32]
  char* block;    // a widened block of weights
  char* x;
  int64_t blocks;

  LinearScratch(const linear_args& a, char* base)
      : tile(reinterpret_cast<int64_t*>(base)),
        out(reinterpret_cast<float*>(base + 64)),
        block(reinterpret_cast<char*>(out + a.tile_m * kRows)),
        x(block + (a.w.layout == Layout::narrow32 ? 4 * kRows * kBlock : 0)),
        blocks((a.w.shape[1] + kBlock - 1) / kBlock) {}
};

inline int64_t linear_scratch(const linear_args& a) {
  LinearScratch s(a, nullptr);
  return (s.x - static_cast<char*>(nullptr)) + 4 * s.blocks * a.tile_m * kBlock;
}

template <class X, class Given>
inline void linear_prologue(const linear_args& a, int64_t m0, int64_t tokens, Given* to) {
  const int64_t k = a.w.shape[1];
  for (int64_t t = 0; t < tokens; t++) {
    const int64_t row = a.rows ? a.rows.as<const int32_t>()[m0 + t] : m0 + t;
    const X* x = a.x.as<const X>() + row * k;
    const F scale = splat(a.norm_weight ? inverse_rms(x, k, a.eps) : 1.0f);
    with_type(a.norm_weight.dtype, [&](auto* n) {
      const auto* norm = a.norm_weight.as<const std::remove_pointer_t<decltype(n)>>();
      for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
        Given* block = to + (k0 * tokens + t * kBlock);
        const int64_t end = min_of(kBlock, k - k0);
        // zeros for what a group of weights has more
        for (int64_t i = 0; i < round_up(end, kNarrowGroup); i += L) {
          F v = load(x + k0 + i, end - i);
          if (norm) v = rounded(x, v * scale * load(norm + k0 + i, end - i));
          store(block + i, v);
        }
      }
    });
  }
}

template <class W>
inline void linear_product(const LinearScratch& s, const char* panel, int64_t k, int64_t tokens) {
  using Given = typename W::Given;
  constexpr int64_t row_bytes = 4 * kRows, block_bytes = row_bytes * kBlock / W::step;
  const Given* x = reinterpret_cast<const Given*>(s.x);
  const int64_t xb = tokens * kBlock;
  auto product = [&](int64_t b) {
    const int64_t steps = (min_of(kBlock, k - b * kBlock) + W::step - 1) / W::step;
    return Product<W>{panel + b * block_bytes, row_bytes, x + b * xb, steps, s.out, kRows, block_bytes, xb};
  };
  int64_t b = 0;
  if (tokens <= 2)
    for (; b + 2 <= k / kBlock; b += 2) multiply<W, 2, Ahead::weights>(tokens, product(b));
  for (; b < s.blocks; b++) multiply<W, 1, Ahead::weights>(tokens, product(b));
}

// W is Pairs or Dots
template <class W>
inline void linear_product_narrow(const linear_args& a, const LinearScratch& s, int64_t panel, int64_t tokens) {
  using Given = typename W::Given;
  using Buffered = std::conditional_t<std::is_same_v<W, Pairs>, F32, W>;
  const int64_t k = a.w.shape[1], xb = tokens * kBlock;
  const NarrowWeight w(a.w.data, a.w.shape[0], k);
  const char* words = reinterpret_cast<const char*>(w.words(panel));
  const NarrowException* e = w.exceptions(panel);
  const Given* x = reinterpret_cast<const Given*>(s.x);
  for (int64_t k0 = 0; k0 < k; k0 += kBlock, words += kNarrowBlockBytes, x += xb) {
    const int64_t values = min_of(kBlock, k - k0), groups = (values + kNarrowGroup - 1) / kNarrowGroup;
    if (tokens <= kNarrowTokens) {
      multiply_narrow<W>(tokens, {words, w.bases(panel), e, k0, groups, 0, x, s.out, kRows});
    } else {
      widen_block<Buffered>(words, w.bases(panel), e, k0, groups, s.block);
      const int64_t steps = (values + Buffered::step - 1) / Buffered::step;
      multiply<Buffered, 1, Ahead::other>(
          tokens, {s.block, 4 * kRows, x, steps, s.out, kRows, 0, 0, words + kNarrowBlockBytes, kNarrowBlockBytes});
    }
    while (e->k < k0 + kBlock) e++;
  }
}

// bias, activation and residual of one token; `sums` holds 32 rows, `n` of which exist
template <class Y>
inline void linear_epilogue(const linear_args& a, float* sums, int64_t row, int64_t n0, int64_t n) {
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
      const auto* residual = a.residual.as<const std::remove_pointer_t<decltype(r)>>() + row * cols + n0;
      for (int64_t i = 0; i < n; i += L) store(sums + i, load(sums + i) + load(residual + i, n - i));
    });
  Y* y = a.y.as<Y>() + row * cols + n0;
  for (int64_t i = 0; i < n; i += L) store(y + i, load(sums + i), n - i);
}

inline void linear_task(const linear_args& a, const linear_coords& c, Scratch scratch) {
  LinearScratch s(a, scratch.data);
  const int64_t k = a.w.shape[1], n0 = c.n * kRows, n = min_of(kRows, a.w.shape[0] - n0);
  const int64_t m0 = c.m * a.tile_m, tokens = min_of(a.tile_m, a.y.shape[0] - m0);
  const bool bf16_weights = a.w.dtype == DType::bf16;
  const bool dots = has_dot && bf16_weights && a.x.dtype == DType::bf16;
  if (scratch.fresh || *s.tile != c.m) {
    with_type(a.x.dtype, [&](auto* x) {
      using X = std::remove_pointer_t<decltype(x)>;
      if (dots)
        linear_prologue<X>(a, m0, tokens, reinterpret_cast<bf16*>(s.x));
      else
        linear_prologue<X>(a, m0, tokens, reinterpret_cast<float*>(s.x));
    });
    *s.tile = c.m;
  }
  for (int64_t i = 0; i < tokens * kRows; i += L) store(s.out + i, F{});
  const char* panel = a.w.as<const char>() + c.n * kRows * (bf16_weights ? 2 * round_up(k, 2) : 4 * k);
  const bool narrow = a.w.layout == Layout::narrow32;
  if (!bf16_weights)
    linear_product<F32>(s, panel, k, tokens);
  else if (!dots)
    narrow ? linear_product_narrow<Pairs>(a, s, c.n, tokens) : linear_product<Pairs>(s, panel, k, tokens);
  else if constexpr (has_dot)
    narrow ? linear_product_narrow<Dots>(a, s, c.n, tokens) : linear_product<Dots>(s, panel, k, tokens);
  with_type(a.y.dtype, [&](auto* y) {
    for (int64_t t = 0; t < tokens; t++)
      linear_epilogue<std::remove_pointer_t<decltype(y)>>(a, s.out + t * kRows, m0 + t, n0, n);
  });
}

}  // namespace ev::EV_ISA
