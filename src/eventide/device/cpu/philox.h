// Philox4x32-10 (Salmon et al., 2011): counter-based random bits, the same on every backend.
#pragma once
#include "simd.h"

namespace ev::EV_ISA {

// the first word for each of n counters (first + i, position, 0, 0) under the key `seed`
inline void philox(uint32_t first, int64_t n, uint32_t position, uint64_t seed, uint32_t* out) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t c0 = first + uint32_t(i), c1 = position, c2 = 0, c3 = 0;
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
      c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c1 = uint32_t(p1);
      c2 = uint32_t(p0 >> 32) ^ c3 ^ k1, c3 = uint32_t(p0);
    }
    out[i] = c0;
  }
}

}  // namespace ev::EV_ISA
