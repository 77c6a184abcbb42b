// Rotates a KV head's group of queries and its key, and appends key and value to the cache.
#pragma once
#include <type_traits>

#include "../../device/cpu/norm.h"

namespace ev::EV_ISA {

inline int64_t rope_append_scratch(const rope_append_args&) { return 0; }

// one head: y = rotate(norm(x)); norm may be absent
template <class T>
inline void rope_head(const T* x, const Operand& norm, float eps, const float* rope, T* y, int64_t d) {
  const int64_t half = d / 2;
  const F scale = splat(norm ? inverse_rms(x, d, eps) : 1.0f);
  with_type(norm.dtype, [&](auto* n) {
    const auto* w = norm.as<const std::remove_pointer_t<decltype(n)>>();
    for (int64_t i = 0; i < half; i += L) {
      const int64_t left = half - i;
      F a = load(x + i, left), b = load(x + half + i, left);
      if (w) a = a * scale * load(w + i, left), b = b * scale * load(w + half + i, left);
      const F cos = load(rope + i, left), sin = load(rope + half + i, left);
      store(y + i, a * cos - b * sin, left);
      store(y + half + i, b * cos + a * sin, left);
    }
  });
}

inline void rope_append_task(const rope_append_args& a, const rope_append_coords& c, Scratch) {
  const int64_t d = a.head_dim, heads = a.num_heads, group = heads / a.num_kv_heads;
  const int64_t width = (heads + 2 * a.num_kv_heads) * d, end = min_of((c.m + 1) * a.tile_m, a.q.shape[0]);
  with_type(a.q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t t = c.m * a.tile_m; t < end; t++) {
      const float* rope = a.rope.as<const float>() + a.pos.as<const int32_t>()[t] * d;
      for (int64_t g = c.h * group; g < (c.h + 1) * group; g++)
        rope_head(a.q_in.as<const T>() + t * width + g * d, a.q_norm, a.eps, rope, a.q.as<T>() + t * heads * d + g * d, d);
      const int64_t slot = (c.h * a.k_cache.shape[1] + a.slot.as<const int32_t>()[t]) * d;
      rope_head(a.k_in.as<const T>() + t * width + (heads + c.h) * d, a.k_norm, a.eps, rope, a.k_cache.as<T>() + slot, d);
      const T* v = a.v_in.as<const T>() + t * width + (heads + a.num_kv_heads + c.h) * d;
      std::memcpy(a.v_cache.as<T>() + slot, v, sizeof(T) * size_t(d));
    }
  });
}

}  // namespace ev::EV_ISA
