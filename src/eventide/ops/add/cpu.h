// y = a + b.
#pragma once
#include <type_traits>

#include "../../device/cpu/simd.h"

namespace ev::EV_ISA {

inline int64_t add_scratch(const add_args&) { return 0; }

inline void add_task(const add_args& a, const add_coords& c, Scratch) {
  const int64_t cols = a.y.shape[1];
  const int64_t begin = c.m * a.tile_m * cols, end = min_of((c.m + 1) * a.tile_m, a.y.shape[0]) * cols;
  with_type(a.y.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (int64_t i = begin; i < end; i += L)
      store(a.y.as<T>() + i, load(a.a.as<const T>() + i, end - i) + load(a.b.as<const T>() + i, end - i), end - i);
  });
}

}  // namespace ev::EV_ISA
