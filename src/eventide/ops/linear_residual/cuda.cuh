// linear_residual on a GPU: device/cuda/slim.cuh.
#pragma once

namespace ev {

template <class A>
struct linear_residual_op {
  static constexpr bool RUNS = true, WHOLE_CHUNKS = true;
  static_assert(A::h_t::layout == TILED, "the half norm of a linear_residual must be read by a product");
  static_assert(A::block == 16 || A::block == 32, "linear_residual needs blocks of 16 or 32 columns");
  typedef slim_product<A, A::block / 16> Product;
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int m, int n, int count) { Product::stream(a, l, n, count); }
  __device__ __forceinline__ void prefetch(const A& a, Worker& w, int m, int n, int count) {
    if (w.tid == 0) Product::describe(a, w.block->slim(), m, n, count, [&](Slim& p) {
      p.residual = a.residual.data;
      p.norm_weight = a.norm_weight.data;
      p.h = (u8*)a.h.data;
      p.h_rows = A::h_t::rows;
      p.squares = a.squares.data;
      p.pairs = A::block == 32;
    });
  }
  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) { Product::run(a, w); }
};

}  // namespace ev
