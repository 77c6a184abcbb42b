// Root mean square of one row, in an order that depends on its length alone.
#pragma once
#include "simd.h"

namespace ev::EV_ISA {

// 1 / sqrt(mean(x²) + eps)
template <class T>
inline float inverse_rms(const T* x, int64_t n, float eps) {
  F part[4] = {};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    EV_UNROLL for (int j = 0; j < 4; j++) {
      F v = load(x + i + j * L);
      part[j] = fma(v, v, part[j]);
    }
  for (; i < n; i += L) {
    F v = load(x + i, n - i);
    part[0] = fma(v, v, part[0]);
  }
  return 1.0f / std::sqrt(sum((part[0] + part[1]) + (part[2] + part[3])) / float(n) + eps);
}

}  // namespace ev::EV_ISA
