// Vectors of four floats, which every 64-bit CPU has; see simd.h.
#pragma once

namespace ev::EV_ISA {

constexpr int L = 4;
constexpr bool has_dot = false;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint32_t U __attribute__((vector_size(16)));
typedef uint16_t H __attribute__((vector_size(8)));

inline F fma(F a, F b, F c) { return a * b + c; }
inline F dot(F acc, U, U) { return acc; }

}  // namespace ev::EV_ISA
