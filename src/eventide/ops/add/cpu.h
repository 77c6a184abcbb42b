// y = a + b, rows of a as they are asked for.
#pragma once
#include <type_traits>

#include "../../device/cpu/simd.h"

namespace ev::EV_ISA {

inline int64_t add_scratch(const add_args&) { return 0; }

inline void add_task(const add_args& a, const add_coords& c, Scratch) {
  const int64_t cols = a.y.shape[1];
  const int64_t end = min_of((c.m + 1) * a.tile_m, a.y.shape[0]);
  with_type(a.y.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t m = c.m * a.tile_m; m < end; m++) {
      const T *x = a.a.as<const T>() + (a.rows ? a.rows.as<const int32_t>()[m] : m) * cols, *y = a.b.as<const T>() + m * cols;
      for (int64_t i = 0; i < cols; i += L) store(a.y.as<T>() + m * cols + i, load(x + i, cols - i) + load(y + i, cols - i), cols - i);
    }
  });
}

}  // namespace ev::EV_ISA
