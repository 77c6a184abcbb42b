// linear_part on a GPU: device/cuda/wide.cuh on one slab of k. The grid looks to it like a linear whose input begins at the slab
// and whose output is that slab's sums.
#pragma once

namespace ev {

template <class A>
struct linear_part_op : Stateless {
  static constexpr bool RUNS = true, WHOLE_CHUNKS = true, ANNOUNCES = true;
  static constexpr int K = A::x_t::dim1 / A::splits;
  static_assert(A::splits == 1 || K % SLAB == 0, "a slab of linear_part must be a multiple of 512 columns");

  static_assert(DIRECT > 0 || !A::x_t::polled, "only a direct product's input can announce itself");

  struct View {
    struct y_t { float* data; int dim0; static constexpr int dim1 = A::part_t::dim2, layout = PLAIN; };
    typedef typename A::x_t x_t;
    typedef typename A::w_t w_t;
    static constexpr bool has_norm_weight = false, has_rows = false, has_squares = false, has_bias = false, has_residual = false;
    static constexpr int activation = 0, tile_m = A::tile_m, tile_n = A::tile_n;
    static constexpr float eps = 0.f;
    x_t x;
    w_t w;
    y_t y;
    __device__ __forceinline__ View(const A& a, int s) : x(a.x), w(a.w) {
      const int tokens = a.part.dim1;
      if constexpr (DIRECT > 0) x.data += s * K;
      else x.data += (i64)s * K * x_t::rows;  // whole tiles
      y = {a.part.data + (i64)s * tokens * y_t::dim1, tokens};
    }
  };
  typedef typename either<(DIRECT > 0), direct_product<View, K>, wide_product<View, K>>::type Product;

  static __device__ __forceinline__ void stream(const A& a, Loader& l, int m, int s, int n, int count) {
    Product::stream(View(a, s), l, n, count, s * (K / BLOCK));
  }
  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int s, int n, int count) {
    Product::run(View(a, s), w, m, n, count);
  }
};

}  // namespace ev
