// Philox4x32-10 (Salmon et al., 2011): counter-based random bits, the same on every backend.
#pragma once
#include "simd.h"

namespace ev::EV_ISA {

// the first word for each of the counters (c0, position, 0, 0) under the key `seed`
inline U philox(U c0, uint32_t position, uint64_t seed) {
  U c1 = splat_u(position), c2 = U{}, c3 = U{};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  EV_UNROLL for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    U high0, low0, high1, low1;
    multiply_wide(c0, 0xD2511F53u, high0, low0);
    multiply_wide(c2, 0xCD9E8D57u, high1, low1);
    c0 = high1 ^ c1 ^ splat_u(k0), c1 = low1;
    c2 = high0 ^ c3 ^ splat_u(k1), c3 = low0;
  }
  return c0;
}

}  // namespace ev::EV_ISA
