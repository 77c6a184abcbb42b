#pragma once

namespace ev::EV_ISA {

inline int64_t pick_scratch(const pick_args&) { return 0; }

inline void pick_task(const pick_args& a, const pick_coords& c, Scratch) {
  const int64_t cols = a.x.shape[1], t = a.order.as<const int32_t>()[a.indptr.as<const int32_t>()[c.e] + c.j];
  for (int64_t i = 0; i < cols; i++)
    a.y.as<float>()[t * cols + i] = a.x.as<const float>()[t * cols + i] * static_cast<float>(c.e + 1);
}

}  // namespace ev::EV_ISA
