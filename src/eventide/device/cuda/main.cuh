// The persistent kernel: what each role does with the generated classes of task grids.
//
// A generated class C holds one grid's operands and answers: tasks(), coords(t), share(...), enters(), waits(), notifies(),
// run(), and stream() if it has operands that stream. `consume` and `load` are all there is to a static schedule.
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

__device__ __forceinline__ void test_delay(const Worker& w, int task) {
  if (w.launch.delay == 0) return;
  u32 h = (blockIdx.x * 2654435761u) ^ (task * 40503u) ^ (w.segment * 97u) ^ (w.step * 31337u);
  h ^= h >> 15; h *= 2246822519u; h ^= h >> 13;
  if ((h & 7) == 0) __nanosleep(h % (u32)w.launch.delay);
}

// Consecutive tasks of this worker that one call of the operator handles.
template <class C>
__device__ __forceinline__ int run_length(const C& c, const Coords& x, int t, const Share& s) {
  if (!C::RUNS || s.stride != 1) return 1;
  return ev_min(s.end - t, c.last_extent() - x.v[C::LAST]);
}

template <class C>
__device__ __forceinline__ void load(const C& c, Loader& l) {
  if constexpr (C::STREAMED) {
    const Share s = c.share(blockIdx.x, gridDim.x, c.tasks());
    for (int t = s.begin; t < s.end && !l.quit;) {
      const Coords x = c.coords(t);
      const int count = run_length(c, x, t, s);
      c.stream(l, x, count);
      t += count * s.stride;
    }
  }
}

// False: the launch is being aborted.
template <class C>
__device__ __forceinline__ bool consume(const C& c, Worker& w) {
  if constexpr (C::ENTERS) {
    if (w.warp == 0) { Waiter k(w); c.enters(k); k.flush(); }
    w.sync();
    if (w.block->quit == 1) return false;
  }
  const Share s = c.share(blockIdx.x, gridDim.x, c.tasks());
  for (int t = s.begin; t < s.end;) {
    const Coords x = c.coords(t);
    const int count = run_length(c, x, t, s);
    if (w.warp == 0) {
      test_delay(w, t);
      Waiter k(w);
      for (int i = 0; i < (C::WAITS_VARY ? count : 1); ++i) c.waits(k, x.plus(C::LAST, i));
      k.flush();
    }
    w.sync();
    if (w.block->quit == 1) return false;
    c.run(w, x, count);
    w.sync();
    if (w.tid == 0) {
      Notifier n(w);
      if (C::NOTIFIES_VARY) for (int i = 0; i < count; ++i) c.notifies(n, x.plus(C::LAST, i), 1);
      else c.notifies(n, x, count);
      n.flush();
    }
    t += count * s.stride;
  }
  return true;
}

// generated: a switch over the classes
__device__ void dispatch_load(int cls, const u64* args, const Step& s, Loader& l);
__device__ bool dispatch_consume(int cls, const u64* args, const Step& s, Worker& w);

__device__ __forceinline__ void loader_main(const Launch& launch, Block* block, u8* ring) {
  Loader l = {launch, block, ring, 0, false};
  for (int step = 0; step < launch.num_steps && !l.quit; ++step) {
    const Step s = make_step(launch, step);
    for (int i = launch.first_segment; i < launch.last_segment && !l.quit; ++i) {
      const SegmentRecord r = launch.segments[i];
      dispatch_load(r.cls, launch.args + r.args, s, l);
    }
  }
  l.drain();
}

__device__ __forceinline__ void consumer_main(const Launch& launch, Block* block, u8* ring, u8* scratch) {
  Worker w = {launch, block, ring, scratch, nullptr, 0, 0, 0, (int)threadIdx.x, (int)threadIdx.x / 32, (int)threadIdx.x % 32};
  for (int step = 0; step < launch.num_steps; ++step) {
    const Step s = make_step(launch, step);
    w.step = step;
    if (step > 0) {  // every worker must have ended the step before
      if (w.tid == 0) {
        poll(launch, block, launch.barrier, launch.barrier_base + step * gridDim.x, STUCK_STEP, 0, 0, step);
        const u32 stop = *(volatile u32*)launch.stop;
        if (block->quit == 0 && stop != 0 && step >= (int)stop) block->quit = 2;
        if (blockIdx.x == 0) store_release_system(launch.host_progress, step);
      }
      w.sync();
      if (block->quit) return;
    }
    const u32 bank = (launch.first_step + step) & 1;
    w.bank = launch.counters + (i64)bank * NUM_CELLS * LINE;
    clear_bank(launch, bank ^ 1, w.tid);
    for (int i = launch.first_segment; i < launch.last_segment; ++i) {
      const SegmentRecord r = launch.segments[i];
      w.segment = i;
      if (!dispatch_consume(r.cls, launch.args + r.args, s, w)) return;
    }
    w.sync();
    if (w.tid == 0) {
      // one worker reads the host's wish, so that all of them take the same decision
      if (blockIdx.x == 0 && load_acquire_system(launch.host_stop)) *(volatile u32*)launch.stop = step + 1;
      add_release(launch.barrier, 1);
    }
  }
  if (w.tid == 0 && blockIdx.x == 0) {
    if (poll(launch, block, launch.barrier, launch.barrier_base + launch.num_steps * gridDim.x, STUCK_STEP, 0, 0, launch.num_steps))
      store_release_system(launch.host_progress, launch.num_steps);
  }
}

}  // namespace ev

extern "C" __global__ void __launch_bounds__(ev::CONSUMERS + 32, 1) eventide_kernel(const __grid_constant__ ev::Launch launch) {
  using namespace ev;
  extern __shared__ __align__(1024) u8 memory[];
  __shared__ Block block;
  if (threadIdx.x == 0) {
    for (int i = 0; i < SLOTS; ++i) {
      mbar_init(&block.full[i], 1);
      mbar_init(&block.empty[i], 1);
    }
    block.quit = 0;
    mbar_init_fence();
  }
  __syncthreads();
  u8* ring = memory;
  u8* scratch = memory + SLOTS * CHUNK;
  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x == CONSUMERS) loader_main(launch, &block, ring);
  } else {
    consumer_main(launch, &block, ring, scratch);
  }
}
