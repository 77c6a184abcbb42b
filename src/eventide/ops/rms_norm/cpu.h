// y = x / sqrt(mean(x²) + eps) · w, row by row.
#pragma once
#include <type_traits>

#include "../../device/cpu/norm.h"

namespace ev::EV_ISA {

inline int64_t rms_norm_scratch(const rms_norm_args&) { return 0; }

template <class T, class W>
inline void rms_norm_row(const T* x, const W* w, T* y, int64_t n, float eps) {
  const F scale = splat(inverse_rms(x, n, eps));
  for (int64_t i = 0; i < n; i += L) store(y + i, load(x + i, n - i) * scale * load(w + i, n - i), n - i);
}

inline void rms_norm_task(const rms_norm_args& a, const rms_norm_coords& c, Scratch) {
  const int64_t n = a.y.shape[1], end = min_of((c.m + 1) * a.tile_m, a.y.shape[0]);
  with_type(a.x.dtype, [&](auto* x) {
    with_type(a.w.dtype, [&](auto* w) {
      using T = std::remove_pointer_t<decltype(x)>;
      for (int64_t r = c.m * a.tile_m; r < end; r++) {
        const int64_t row = a.rows ? a.rows.as<const int32_t>()[r] : r;
        rms_norm_row(a.x.as<const T>() + row * n, a.w.as<const std::remove_pointer_t<decltype(w)>>(), a.y.as<T>() + r * n,
                     n, a.eps);
      }
    });
  });
}

}  // namespace ev::EV_ISA
