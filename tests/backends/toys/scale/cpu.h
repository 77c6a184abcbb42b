#pragma once

namespace ev::EV_ISA {

inline int64_t scale_scratch(const scale_args&) { return 0; }

inline void scale_task(const scale_args& a, const scale_coords& c, Scratch) {
  const int64_t cols = a.x.shape[1], end = c.m * a.tile_m + a.tile_m;
  for (int64_t r = c.m * a.tile_m; r < (end < a.x.shape[0] ? end : a.x.shape[0]); r++)
    for (int64_t i = 0; i < cols; i++) {
      float v = a.x.as<const float>()[r * cols + i];
      for (int k = 0; k < (a.twice ? 2 : 1); k++) v = a.mode == scale_mode::times ? v * a.factor : v + a.factor;
      a.y.as<float>()[r * cols + i] = v;
    }
}

}  // namespace ev::EV_ISA
