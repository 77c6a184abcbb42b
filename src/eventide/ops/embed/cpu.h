// y[t] = w[tokens[seq[t], pos[t]]]; w plain, or in panels (of 12 bits a value, too) because the head shares it.
#pragma once
#include <type_traits>

#include "../../device/cpu/narrow_format.h"
#include "../../device/cpu/simd.h"

namespace ev::EV_ISA {

inline int64_t embed_scratch(const embed_args&) { return 0; }

template <class T>
inline void embed_row(const embed_args& a, int64_t id, T* y) {
  const int64_t k = a.w.shape[1];
  const T* w = a.w.as<const T>();
  if (a.w.layout == Layout::plain) {
    std::memcpy(y, w + id * k, sizeof(T) * size_t(k));
    return;
  }
  constexpr int64_t rows = 32, pack = 4 / sizeof(T);
  const T* from = w + id / rows * rows * round_up(k, pack) + id % rows * pack;
  int64_t i = 0;
  for (; i + pack <= k; i += pack, from += rows * pack) {
    __builtin_prefetch(from + 16 * rows * pack);
    std::memcpy(y + i, from, 4);
  }
  if (i < k) y[i] = *from;
}

inline void embed_row_narrow(const embed_args& a, int64_t id, uint16_t* y) {
  const int64_t k = a.w.shape[1], panel = id / kNarrowRows, row = id % kNarrowRows;
  const NarrowWeight w(a.w.data, a.w.shape[0], k);
  const uint32_t base = w.bases(panel)[row], *from = w.words(panel) + row;
  for (int64_t i = 0; i < k; i += kNarrowGroup, from += kNarrowGroupWords) {
    __builtin_prefetch(from + 8 * kNarrowGroupWords);
    const uint32_t words[3] = {from[0], from[kNarrowRows], from[2 * kNarrowRows]};
    uint32_t pairs[4];
    narrow_join(words, base, pairs);
    std::memcpy(y + i, pairs, 2 * size_t(min_of(kNarrowGroup, k - i)));
  }
  for (const NarrowException* e = w.exceptions(panel); e->k != kNarrowEnd; e++)
    if (e->row == row) y[e->k] = e->bits;
}

inline void embed_task(const embed_args& a, const embed_coords& c, Scratch) {
  const int64_t k = a.y.shape[1], end = min_of((c.m + 1) * a.tile_m, a.y.shape[0]);
  for (int64_t t = c.m * a.tile_m; t < end; t++) {
    const int64_t at = int64_t(a.seq.as<const int32_t>()[t]) * a.tokens.shape[1] + a.pos.as<const int32_t>()[t];
    const int64_t id = a.tokens.as<const int32_t>()[at];
    if (a.w.layout == Layout::narrow32) {
      embed_row_narrow(a, id, a.y.as<uint16_t>() + t * k);
      continue;
    }
    with_type(a.y.dtype, [&](auto* y) { embed_row(a, id, a.y.as<std::remove_pointer_t<decltype(y)>>() + t * k); });
  }
}

}  // namespace ev::EV_ISA
