// sample_stats on a GPU: one piece of one row a task.
#pragma once

namespace ev {

template <class A>
struct sample_stats_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int V = A::logits_t::dim1, PER_THREAD = (A::piece + CONSUMERS - 1) / CONSUMERS;

  __device__ __forceinline__ void run(const A& a, Worker& w, int r, int piece) {
    const float* x = a.logits.data + (i64)r * V;
    const int first = piece * A::piece, end = ev_min(first + A::piece, V);
    float value[PER_THREAD], top = -3.4e38f;
    u64 best = 0;
    #pragma unroll
    for (int n = 0; n < PER_THREAD; ++n) {
      const int i = first + w.tid + n * CONSUMERS;
      value[n] = i < end ? x[i] : -3.4e38f;
      if (i < end) { const u64 k = (u64)order_key(value[n]) << 32 | (u32)~i; best = k > best ? k : best; }
      top = fmaxf(top, value[n]);
    }
    #pragma unroll
    for (int o = 16; o; o >>= 1) {
      const u64 b = __shfl_xor_sync(~0u, best, o);
      best = b > best ? b : best;
      top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    }
    float sum = 0.f;
    #pragma unroll
    for (int n = 0; n < PER_THREAD; ++n) sum += first + w.tid + n * CONSUMERS < end ? __expf(value[n] - top) : 0.f;
    sum = warp_sum(sum);
    u64* bests = (u64*)w.scratch;
    float2* sums = (float2*)(bests + WARPS);
    if (w.lane == 0) { bests[w.warp] = best; sums[w.warp] = make_float2(top, sum); }
    w.sync();
    if (w.tid == 0) {
      for (int i = 0; i < WARPS; ++i) { best = bests[i] > best ? bests[i] : best; top = fmaxf(top, sums[i].x); }
      sum = 0.f;
      for (int i = 0; i < WARPS; ++i) sum += sums[i].y * __expf(sums[i].x - top);
      const i64 at = (i64)r * A::best_t::dim1 + piece;
      a.best.data[at] = (i64)(best ^ 0x8000000000000000ull);
      a.sums.data[2 * at] = top;
      a.sums.data[2 * at + 1] = sum;
    }
  }
};

}  // namespace ev
