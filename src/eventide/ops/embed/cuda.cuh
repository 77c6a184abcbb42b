// embed on a GPU: one token a task, 8 columns a thread.
#pragma once

namespace ev {

template <class A>
struct embed_op : Stateless {
  static constexpr bool RUNS = false, ANNOUNCES = true;
  static constexpr int H = A::y_t::dim1;

  __device__ __forceinline__ void run(const A& a, Worker& w, int m) {
    const int id = a.tokens.data[(i64)a.seq.data[m] * A::tokens_t::dim1 + a.pos.data[m]];
    for (int k = w.tid * 8; k < H; k += CONSUMERS * 8) {
      if constexpr (H % 8 == 0) {
        const uint4 v = weight_8<A::w_t::layout, H>(a.w.data, id, k);
        *(uint4*)(a.y.data + (i64)m * H + k) = make_uint4(present(v.x), present(v.y), present(v.z), present(v.w));
      } else {
        for (int i = k; i < ev_min(k + 8, H); ++i) put(a.y.data + (i64)m * H + i, to_float(a.w.data[(i64)id * H + i]));
      }
    }
  }
};

}  // namespace ev
