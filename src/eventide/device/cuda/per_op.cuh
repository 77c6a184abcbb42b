// One kernel an operator: the same tiles and the same task code as the persistent kernel, in a graph with programmatic
// dependent launch. A block runs its worker's share of one grid; events are ignored, for the order of kernels is the
// dependency.
//
// A kernel lets the next one start at once, and two blocks fit on a multiprocessor: while one operator runs, the next
// one's blocks have filled their ring with weights and wait. What depends on nothing (weights, what an operator
// prefetches) is read before `wait_for_kernels`, the rest after it. Steps are in full order, so "nothing" may be what an
// earlier step wrote, as in the persistent kernel.
//
// The graph never changes: the launch's parameters and the number of the step stand in memory. The last operator's last
// block counts the step, tells the host, and ends the launch early if the host wishes it; kernels of steps that are not
// wanted leave at once.
#pragma once

namespace ev {

// with the loader's warp where operands stream, and that of wide products' inputs; no warps to take registers from
template <class C>
constexpr int OP_THREADS = C::STREAMED ? CONSUMERS + (WIDE ? 128 : 32) : CONSUMERS;
template <class C>
constexpr int OP_BLOCKS_OF = C::STREAMED ? OP_BLOCKS : 1;

struct Progress {
  u32 step, stop;  // steps done; the number of steps at which the launch ends
};

template <class C>
__device__ __forceinline__ void run_share(const C& c, Worker& w) {
  if constexpr (C::ENTERS) wait_for_kernels();  // its extents come from earlier operators
  const Share s = c.share(blockIdx.x, c.tasks());
  for (int t = s.begin; t < s.end;) {
    const Coords x = c.coords(t);
    const int count = run_length(c, x, t, s);
    typename C::op_t op;
    c.prefetch(op, w, x, count);
    if (t == s.begin) wait_for_kernels();
    w.sync();
    c.run(op, w, x, count);
    w.sync();
    t += count * s.stride;
  }
  if (s.begin >= s.end) wait_for_kernels();
}

// counts this block of the step's last operator; the last of them ends the step
__device__ __forceinline__ void end_step(const Launch& launch, int step) {
  Progress* const progress = (Progress*)launch.stop;
  __threadfence();
  if (atomicAdd(launch.barrier, 1u) + 1 != gridDim.x) return;
  __threadfence();
  *(volatile u32*)launch.barrier = 0;
  if (load_acquire_system(launch.host_stop)) *(volatile u32*)&progress->stop = step + 1;
  *(volatile u32*)&progress->step = step + 1;
  store_release_system(launch.host_progress, step + 1);
}

template <class C>
__device__ __forceinline__ void operator_main(const Launch* parameters, int segment, bool last, u8* memory, Block* block) {
  const Launch& launch = *parameters;
  const volatile Progress* const progress = (const volatile Progress*)launch.stop;
  const int step = (int)progress->step, tid = threadIdx.x;
  let_next_kernel_start();
  if (step >= (int)progress->stop) return;
  if (tid < ARGS) block->args[0][tid] = __ldg(launch.args + (i64)segment * ARGS + tid);
  if (tid == 0) {
    block->init_barriers();
    block->quit = block->late = 0;
    for (int i = 0; DIRECT && i < LOADERS; ++i) block->issued[i] = 0;
  }
  if (tid < CONSUMERS) stage_step(launch, block, step, tid);
  wait_copies();
  __syncthreads();
  const Step s = staged_step(launch, block, step);
  const C c(s, block->args[0] + 1);
  if (tid >= CONSUMERS) {
    if (tid / 32 < WARPS + LOADERS && tid % 32 < LANES) {
      Loader l(block, memory);
      while (!l.quit && next_run(c, l)) l.pump();
      l.drain();
    } else if (WIDE && !DIRECT && tid / 32 == WARPS + LOADERS && tid % 32 < 2) {
      input_main(block, memory + RING);
    }
    return;
  }
  Worker w = {launch, block, memory, memory + RING};
  w.tid = tid;
  w.warp = tid / 32;
  w.lane = tid % 32;
  w.step = step;
  w.segment = segment;
  run_share(c, w);
  if (WIDE && !DIRECT && tid == 0) no_more_input(block);
  w.report_late();
  if (last && tid == 0) end_step(launch, step);
}

}  // namespace ev
