// Causal attention of one query tile and one KV head, online softmax over blocks of 64 positions in ascending order.
//
// The rows of a tile are its queries times the group's heads. For each block: the keys are transposed into one panel of
// 64 positions, so that scores are the product of matmul.h with positions as rows; probabilities times values is the same
// product with columns of the head as rows and positions as k. With dot products for bfloat16, probabilities are rounded to it
// (and add up as they are rounded), and values stand in pairs of positions. Blocks begin at multiples of 64, masked positions
// add zero, so a row has the same bits in any tile.
#pragma once
#include <type_traits>

#include "../../device/cpu/matmul.h"

namespace ev::EV_ISA {

constexpr int kPositions = 64;  // of a block
constexpr int kColumns = 64;    // of a head, in one product with probabilities

struct AttentionScratch {
  int64_t rows, d, width;  // width: d rounded up to kColumns
  float *scores, *out, *top, *fade, *total, *keys, *values;
  bf16* chances;  // [rows][kBlock], for dot products
  char* q;
  int64_t bytes;

  AttentionScratch(const attention_args& a, char* base)
      : rows(a.tile_queries * (a.num_heads / a.num_kv_heads)), d(a.head_dim), width(round_up(d, kColumns)) {
    char* at = base;
    auto take = [&](int64_t floats) {
      char* p = at;
      at += round_up(4 * floats, 64);
      return reinterpret_cast<float*>(p);
    };
    scores = take(rows * kBlock), out = take(rows * width), top = take(rows), fade = take(rows);
    total = take(rows);
    keys = take(kPositions * d), values = take(kPositions * width);
    chances = reinterpret_cast<bf16*>(take(has_dot ? rows * kBlock / 2 : 0));
    q = reinterpret_cast<char*>(take(rows * round_up(d, kBlock)));
    bytes = at - base;
  }
};

inline int64_t attention_scratch(const attention_args& a) { return AttentionScratch(a, nullptr).bytes; }

// a row of `words` words for each of n positions -> [words][kPositions]; what lies beyond the last vector is left as it is
inline void to_panel(const uint32_t* const (&rows)[kPositions], int64_t n, int64_t words, uint32_t* to) {
  for (int r = 0; r < n; r += L) {
    int64_t i = 0;
    for (; i + L <= words; i += L) {
      U block[L];
      EV_UNROLL for (int j = 0; j < L; j++) block[j] = load_bytes<U>(rows[r + j] + i);
      transpose(block);
      EV_UNROLL for (int j = 0; j < L; j++) std::memcpy(to + (i + j) * kPositions + r, &block[j], sizeof(U));
    }
    for (; i < words; i++)
      for (int j = 0; j < L; j++) to[i * kPositions + r + j] = rows[r + j][i];
  }
}

// how a tensor of T enters a product: keys as panels, values row by row or, where probabilities are rounded for it, in pairs
template <class T>
struct Held;
template <>
struct Held<float> {
  using Keys = F32;
  using Values = F32;
  static constexpr bool rounds = false;
};
template <>
struct Held<bf16> {
  using Keys = std::conditional_t<has_dot, Dots, Pairs>;
  using Values = Halves;
  static constexpr bool rounds = has_dot;
};

// two rows of d values, the second of which may be missing -> pairs as Dots reads them, `width` of them
inline void to_pairs(const bf16* even, const bf16* odd, int64_t d, int64_t width, float* to) {
  for (int64_t i = 0; i < width; i += L) {
    const F low = load(even + i, d - i), high = odd ? load(odd + i, d - i) : F{};
    store(to + i, floats(bits(low) >> 16 | bits(high)));
  }
}

// The scores of a block become probabilities relative to each row's running top, in three passes, so that no row waits for
// the exponentials of the one before: tops; what they fade the sums so far by, many rows at once; probabilities.
// `visible(row)` positions of the block count. They stand in place of the scores, or, rounded to bfloat16, in `chances`.
template <bool round, class Visible>
inline void soften(AttentionScratch& s, int64_t rows, float scale, Visible visible) {
  constexpr int parts = kPositions / L;
  for (int64_t r = 0; r < rows; r++) {
    float* p = s.scores + r * kBlock;
    const int32_t end = int32_t(visible(r));
    F top = splat(s.top[r]);
    EV_UNROLL for (int i = 0; i < parts; i++) {
      F v = load(p + i * L) * splat(scale);
      if (end < kPositions) v = select(lanes() + i * L >= end, splat(-INFINITY), v);
      store(p + i * L, v);
      top = max(v, top);
    }
    s.fade[r] = s.top[r], s.top[r] = largest(top);
  }
  for (int64_t r = 0; r < rows; r += L) store(s.fade + r, exp(load(s.fade + r) - load(s.top + r)));
  for (int64_t r = 0; r < rows; r++) {
    float* p = s.scores + r * kBlock;
    const F top = splat(s.top[r]), fade = splat(s.fade[r]);
    F part = F{};
    EV_UNROLL for (int i = 0; i < parts; i++) {
      F e = exp(load(p + i * L) - top);
      if constexpr (round) {
        e = rounded(s.chances, e);
        store(s.chances + r * kBlock + i * L, e);
      } else {
        store(p + i * L, e);
      }
      part += e;
    }
    s.total[r] = s.total[r] * s.fade[r] + sum(part);
    if (s.fade[r] == 1) continue;
    float* out = s.out + r * s.width;
    for (int64_t i = 0; i < s.width; i += L) store(out + i, load(out + i) * fade);
  }
}

// out += probabilities times the values of n positions, of which position j's begin at from[at[j]]. direct: they are n rows of
// whole products, one behind the other.
template <class T>
inline void add_values(const AttentionScratch& s, int64_t rows, const T* from, const int64_t* at, int64_t n, bool direct) {
  for (int64_t j = 0; j < n && (Held<T>::rounds || !direct); j++) {
    if constexpr (Held<T>::rounds) {
      if (j % 2 == 0) to_pairs(from + at[j], j + 1 < n ? from + at[j + 1] : nullptr, s.d, s.width, s.values + j / 2 * s.width);
    } else {
      for (int64_t i = 0; i < s.width; i += L) store(s.values + j * s.width + i, load(from + at[j] + i, s.d - i));
    }
  }
  for (int64_t i = 0; i < s.width; i += kColumns) {
    const char* held = reinterpret_cast<const char*>(s.values + i);
    if constexpr (Held<T>::rounds) {
      multiply<Dots, 1, Ahead::nothing, kColumns>(rows, {held, 4 * s.width, s.chances, (n + 1) / 2, s.out + i, s.width});
    } else if (direct) {
      const char* rows_of = reinterpret_cast<const char*>(from + at[0] + i);
      multiply<typename Held<T>::Values, 1, Ahead::nothing, kColumns>(
          rows, {rows_of, s.d * int64_t(sizeof(T)), s.scores, n, s.out + i, s.width});
    } else {
      multiply<F32, 1, Ahead::nothing, kColumns>(rows, {held, 4 * s.width, s.scores, n, s.out + i, s.width});
    }
  }
}

template <class T>
inline void attention_tile(const attention_args& a, const attention_coords& c, char* scratch) {
  using Keys = typename Held<T>::Keys;
  using Given = typename Keys::Given;
  AttentionScratch s(a, scratch);
  const int64_t d = s.d, heads = a.num_heads, group = heads / a.num_kv_heads, page = a.page_size;
  const int32_t *tiles = a.tile_indptr.as<const int32_t>() + c.i, *pos = a.pos.as<const int32_t>();
  const int64_t t0 = tiles[0], queries = tiles[1] - t0, rows = queries * group;
  if (queries <= 0) return;
  const int64_t kv_len = pos[tiles[1] - 1] + 1, slots = a.k_cache.shape[1];
  const int32_t* table = a.block_table.as<const int32_t>() + a.tile_seq.as<const int32_t>()[c.i] * a.block_table.shape[1];
  const T *k_cache = a.k_cache.as<const T>() + c.h * slots * d, *v_cache = a.v_cache.as<const T>() + c.h * slots * d;

  Given* q = reinterpret_cast<Given*>(s.q);
  for (int64_t r = 0; r < rows; r++) {
    const T* from = a.q.as<const T>() + (t0 + r / group) * heads * d + (c.h * group + r % group) * d;
    for (int64_t i = 0; i < d; i += L) store(q + (i / kBlock * rows + r) * kBlock + i % kBlock, load(from + i, d - i));
    s.top[r] = -INFINITY, s.total[r] = 0;
  }
  std::memset(s.out, 0, size_t(4 * rows * s.width));
  const bool direct = d % kColumns == 0 && page % kPositions == 0;
  const int64_t words = d * int64_t(sizeof(T)) / 4;

  for (int64_t p0 = 0; p0 < kv_len; p0 += kPositions) {
    const int64_t n = min_of(kPositions, kv_len - p0);
    // element of the cache where each position's row begins; what lies beyond the last one is masked
    int64_t at[kPositions];
    for (int64_t j = 0, p = p0; j < n; p = p0 + j) {
      const int64_t first = table[p / page] * page + p % page, run = min_of(n - j, page - p % page);
      for (int64_t i = 0; i < run; i++) at[j++] = (first + i) * d;
    }
    for (int64_t j = n; j < kPositions; j++) at[j] = at[n - 1];

    for (int64_t r = 0; r < rows; r++)
      EV_UNROLL for (int i = 0; i < kPositions; i += L) store(s.scores + r * kBlock + i, F{});
    const uint32_t* from[kPositions];
    for (int j = 0; j < kPositions; j++) from[j] = reinterpret_cast<const uint32_t*>(k_cache + at[j]);
    to_panel(from, n, words, reinterpret_cast<uint32_t*>(s.keys));
    for (int64_t i = 0; i < d; i += kBlock) {
      const char* keys = reinterpret_cast<const char*>(s.keys) + i / Keys::step * 4 * kPositions;
      const int64_t steps = min_of(kBlock, d - i) / Keys::step;
      multiply<Keys, 1, Ahead::nothing, kPositions>(rows, {keys, 4 * kPositions, q + i * rows, steps, s.scores, kBlock});
    }
    soften<Held<T>::rounds>(s, rows, 1.0f / std::sqrt(float(d)), [&](int64_t r) { return pos[t0 + r / group] - p0 + 1; });
    add_values(s, rows, v_cache, at, n, direct);
  }
  for (int64_t r = 0; r < rows; r++) {
    T* y = a.y.as<T>() + (t0 + r / group) * heads * d + (c.h * group + r % group) * d;
    for (int64_t i = 0; i < d; i += L) store(y + i, load(s.out + r * s.width + i) / splat(s.total[r]), d - i);
  }
}

inline void attention_task(const attention_args& a, const attention_coords& c, Scratch s) {
  with_type(a.q.dtype, [&](auto* type) { attention_tile<std::remove_pointer_t<decltype(type)>>(a, c, s.data); });
}

}  // namespace ev::EV_ISA
