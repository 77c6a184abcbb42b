// What the two roles do with one task grid: the loader streams its operands, the consumers run its tasks.
//
// A generated class C holds one grid's operands and answers: tasks(), coords(t), share(...), enters(), waits(), notifies(),
// run(), stream() if it has operands that stream, and ahead() if it wants others in L2 by the time that its
// tasks begin. `consume` and `next_run` are all there is to a static schedule.
#pragma once

namespace ev {

struct Coords {
  int v[4];
  __device__ __forceinline__ Coords plus(int last, int i) const {
    Coords c = *this;
    c.v[last] += i;
    return c;
  }
};

#if EV_DELAY
__device__ __forceinline__ void test_delay(const Worker& w, int task) {
  u32 h = (blockIdx.x * 2654435761u) ^ (task * 40503u) ^ (w.segment * 97u) ^ (w.step * 31337u);
  h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
  if ((h & 7) == 0) __nanosleep(h % (u32)EV_DELAY);
}
#endif

// Consecutive tasks of this worker that one call of the operator handles.
template <class C>
__device__ __forceinline__ int run_length(const C& c, const Coords& x, int t, const Share& s) {
  if (!C::RUNS || s.stride != 1) return 1;
  return ev_min(s.end - t, c.last_extent() - x.v[C::LAST]);
}

// Has the operands of the share's next run of tasks asked for; false: there is none.
template <class C>
__device__ __forceinline__ bool next_run(const C& c, Loader& l) {
  if constexpr (C::AHEAD) {
    const Share s = c.share(blockIdx.x, c.tasks());
    for (int t = s.begin; t < s.end; t += s.stride) c.ahead(l, c.coords(t));
  }
  if constexpr (C::STREAMED) {
    const Share s = c.share(blockIdx.x, c.tasks());
    const int t = l.task < 0 ? s.begin : l.task;
    if (t >= s.end) return false;
    const Coords x = c.coords(t);
    const int count = C::op_t::WHOLE_CHUNKS ? run_length(c, x, t, s) : 1;
    c.stream(l, x, count);
    l.task = t + count * s.stride;
    return true;
  }
  return false;
}

// False: the launch is being aborted.
template <class C>
__device__ __forceinline__ bool consume(const C& c, Worker& w) {
  if constexpr (C::ENTERS) {
    if (w.warp == 0) {
      for (int first = 0, count = 1; first < count; first += 32) {
        Waiter k(w.lane, first);
        c.enters(k);
        k.wait(w);
        count = k.count;
      }
    }
    w.sync();
    if (w.block->quit == 1) return false;
  }
  const Share s = c.share(blockIdx.x, c.tasks());
  if (s.begin >= s.end) {
    w.stash_arguments();
#if EV_PHASE_BARRIER
    w.wait_for_phase();
#endif
    w.sync();
  }
  for (int t = s.begin; t < s.end;) {
    const Coords x = c.coords(t);
    const int count = run_length(c, x, t, s);
#if EV_TRACE
    const u64 begin = clock64();
#endif
    typename C::op_t op;
    c.prefetch(op, w, x, count);
#if EV_DELAY
    if (w.warp == 0) test_delay(w, t);
#endif
#if EV_PHASE_BARRIER
    w.wait_for_phase();
    w.sync();
    if (w.block->quit == 1) return false;
#endif
    if (C::WAITS && !EV_PHASE_BARRIER && w.warp == 0) {
      for (int first = 0, cells = 1; first < cells; first += 32) {
        Waiter k(w.lane, first);
        #pragma unroll 1
        for (int i = 0; i < (C::WAITS_VARY ? count : 1); ++i) c.waits(k, x.plus(C::LAST, i));
        k.wait(w);
        cells = k.count;
      }
    }
    if constexpr (C::WAITS && !EV_PHASE_BARRIER) {
      w.sync();
      if (w.block->quit == 1) return false;
    }
#if EV_NO_RUN_AHEAD
    if (C::STREAMED && w.tid == 0) ++w.block->begun;
#endif
#if EV_TRACE
    w.data_at = clock64();
#endif
    c.run(op, w, x, count);
    if (t + count * s.stride >= s.end) w.stash_arguments();
    w.sync();
#if EV_TRACE
    w.trace(t, count, begin, w.data_at, clock64());
#endif
    t += count * s.stride;
    // not by the warp that polls: a release takes a while
    if (C::NOTIFIES && !EV_PHASE_BARRIER && w.warp == WARPS - 1 && (C::NOTIFIES_VARY || w.lane == 31)) {
      Notifier n(w);
      if constexpr (C::NOTIFIES_VARY) {
        #pragma unroll 1
        for (int i = w.lane; i < count; i += 32) c.notifies(n, x.plus(C::LAST, i), 1);
      } else {
        c.notifies(n, x, count);
      }
      n.flush();
#if EV_TRACE
      if (w.lane == 31) w.trace_published();
#endif
    }
  }
#if EV_PHASE_BARRIER
  w.leave_phase();
#endif
  return true;
}

}  // namespace ev
