// y[i] = x[i] / max |x[i]|, float32.
#pragma once
#include "device/cpu/simd.h"

namespace ev::EV_ISA {

inline int64_t scale_rows_scratch(const scale_rows_args&) { return 0; }

inline void scale_rows_task(const scale_rows_args& a, const scale_rows_coords& c, Scratch) {
  const int64_t cols = a.x.shape[1], end = (c.m + 1) * a.tile_m < a.x.shape[0] ? (c.m + 1) * a.tile_m : a.x.shape[0];
  for (int64_t i = c.m * a.tile_m; i < end; ++i) {
    const float* x = a.x.as<const float>() + i * cols;
    float* y = a.y.as<float>() + i * cols;
    float largest = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const float magnitude = x[j] < 0 ? -x[j] : x[j];
      largest = magnitude > largest ? magnitude : largest;
    }
    for (int64_t j = 0; j < cols; ++j) y[j] = x[j] / largest;
  }
}

}  // namespace ev::EV_ISA
