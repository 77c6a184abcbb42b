// y[:, i] = silu(x[:, 2i]) · x[:, 2i + 1].
#pragma once
#include <type_traits>

#include "../../device/cpu/simd.h"

namespace ev::EV_ISA {

inline int64_t silu_mul_scratch(const silu_mul_args&) { return 0; }

inline void silu_mul_task(const silu_mul_args& a, const silu_mul_coords& c, Scratch) {
  const int64_t n = a.y.shape[1], end = min_of((c.m + 1) * a.tile_m, a.y.shape[0]);
  with_type(a.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t r = c.m * a.tile_m; r < end; r++) {
      const T* x = a.x.as<const T>() + r * 2 * n;
      for (int64_t i = 0; i < n; i += L) {
        float gate[L] = {}, up[L] = {};
        for (int64_t j = 0; j < min_of(L, n - i); j++)
          gate[j] = to_float(x[2 * (i + j)]), up[j] = to_float(x[2 * (i + j) + 1]);
        store(a.y.as<T>() + r * n + i, silu(load(gate)) * load(up), n - i);
      }
    }
  });
}

}  // namespace ev::EV_ISA
