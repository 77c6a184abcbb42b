// The persistent kernel: what its two roles do. The dispatch over the generated classes stands before this file in the
// generated source and is inlined, so that a worker's state stays in registers.
#pragma once

namespace ev {

// A few lanes of a warp, of one for each warpgroup where products are wide. The warp's other threads have left: lanes that wait
// for them would be scheduled between their polls. The copy engine brings the next segment's arguments while this one streams.
__device__ __forceinline__ void loader_main(const Launch& launch, Block* block, u8* ring) {
  Loader l(block, ring);
  const int segments = launch.last_segment - launch.first_segment, total = launch.num_steps * segments;
  u64(*const args)[ARGS] = block->loader_args[l.own];
  const u32 full = shared_address(block->arguments_full[l.own]), into = shared_address(args);
  int* const symbols = block->loader_symbols[l.own];
  auto fetch = [&](int i) {
    const u32 at = i & 1;
    if (l.lane != 0) return;
    mbar_expect(full + at * 8, ARGS * 8);
    bulk_copy(into + at * ARGS * 8, launch.args + (i64)(launch.first_segment + i % segments) * ARGS, ARGS * 8, full + at * 8);
  };
  auto fetched = [&](int i) { while (!mbar_try_wait(full + (i & 1) * 8, (i >> 1) & 1)) {} };
  fetch(0);
  Step s = make_step(launch, 0);
  for (int i = 0; i < total && !l.quit; ++i) {
    fetched(i);
    __syncwarp(LANES_MASK);  // all have done with the segment before
    if (i + 1 < total) fetch(i + 1);
    if (i % segments == 0) {  // symbols are read once a step: every run of tasks needs them before its first copy
      s = make_step(launch, i / segments);
      for (int k = 0; k < NUM_SYMBOLS; ++k) symbols[k] = __ldg(s.symbols + k);
      s.symbols = symbols;
    }
    l.task = -1;
    while (!l.quit && dispatch_load((int)args[i & 1][0], args[i & 1] + 1, s, l)) {
#if EV_NO_RUN_AHEAD
      l.wait_for_events();
#endif
      l.pump();
    }
    if (l.quit && i + 1 < total) fetched(i + 1);
  }
  l.drain();
}

// The worker that talks with the host, which takes it microseconds: not the first, who has a step's first tasks.
#define REPORTS (blockIdx.x == gridDim.x - 1)

__device__ __forceinline__ void consumer_main(const Launch& launch, Block* block, u8* ring, u8* scratch) {
  Worker w = {launch, block, ring, scratch};
#if EV_PHASE_BARRIER
  w.phase = 0;
#endif
  w.place();
  w.turn = 2;
#if EV_TRACE
  w.traced = 0;
  w.trace_clock();
#endif
  w.fetch_arguments(launch.first_segment);
  w.stash_arguments();
  stage_step(launch, block, 0, w.tid);
  wait_copies();
  w.sync();
  w.turn = 0;
  for (int step = 0; step < launch.num_steps; ++step) {
    const Step s = staged_step(launch, block, step);
    w.step = step;
    if (step > 0) {  // every worker must have ended the step before
      if (w.tid == 0) {
        poll(launch, block, launch.barrier, launch.barrier_base + step * gridDim.x, STUCK_STEP, 0, 0, step);
#if EV_TRACE
        w.trace_meeting();
#endif
        const u32 stop = *(volatile u32*)launch.stop;
        if (block->quit == 0 && stop != 0 && step >= (int)stop) block->quit = 2;
        if (REPORTS) store_release_system(launch.host_progress, step);
      }
#if EV_TRACE
      if (w.tid != 0) w.trace_meeting();
#endif
      wait_copies();
      w.sync();
      if (block->quit) return;
    }
    const u32 bank = (launch.first_step + step) & 1;
    w.bank = launch.counters + (i64)bank * NUM_CELLS * LINE;
    // late in the step most workers wait
    const int clearing = ev_max(launch.last_segment - 2, launch.first_segment);
    for (int i = launch.first_segment; i < launch.last_segment; ++i) {
      const u64* args = block->args[w.turn % 3];
      w.segment = i;
      w.place();
      w.fetch_arguments(i + 1 < launch.last_segment ? i + 1 : launch.first_segment);
      if (i == clearing) clear_bank(launch, bank ^ 1, w.tid);
      if (WIDE) clear_announced(launch, bank ^ 1, w.tid, i - launch.first_segment, launch.last_segment - launch.first_segment);
      else if (i == clearing) clear_announced(launch, bank ^ 1, w.tid, 0, 1);
      if (!dispatch_consume((int)args[0], args + 1, s, w)) {
        w.report_late();
        return;
      }
      ++w.turn;
    }
    w.sync();
    if (WIDE && block->late) {  // what this worker has made is wrong: its step doesn't end
      w.report_late();
      return;
    }
    if (step + 1 < launch.num_steps) stage_step(launch, block, step + 1, w.tid);
    if (w.tid == 0) {
      // one worker reads the host's wish, so that all of them take the same decision
      if (REPORTS && load_acquire_system(launch.host_stop)) *(volatile u32*)launch.stop = step + 1;
      add_release(launch.barrier, 1);
    }
  }
#if EV_TRACE
  w.trace_clock();
#endif
  if (w.tid == 0 && REPORTS) {
    if (poll(launch, block, launch.barrier, launch.barrier_base + launch.num_steps * gridDim.x, STUCK_STEP, 0, 0, launch.num_steps))
      store_release_system(launch.host_progress, launch.num_steps);
  }
}

}  // namespace ev

extern "C" __global__ void __launch_bounds__(ev::THREADS, 1) eventide_kernel(const __grid_constant__ ev::Launch launch) {
  using namespace ev;
  extern __shared__ __align__(1024) u8 memory[];
  __shared__ Block block;
  if (threadIdx.x == 0) {
    block.init_barriers();
    block.quit = block.late = 0;
    for (int i = 0; DIRECT && i < LOADERS; ++i) block.issued[i] = 0;
#if EV_NO_RUN_AHEAD
    block.begun = 0;
#endif
  }
  __syncthreads();
  u8* ring = memory;
  u8* scratch = memory + RING;
  if (threadIdx.x >= CONSUMERS) {
    give_registers<WIDE ? 40 : 56>();
    if (threadIdx.x / 32 < WARPS + LOADERS && threadIdx.x % 32 < LANES) loader_main(launch, &block, ring);
    else if (WIDE && !DIRECT && threadIdx.x / 32 == WARPS + LOADERS && threadIdx.x % 32 < 2) input_main(&block, scratch);
  } else {
    take_registers<WIDE ? 232 : 224>();  // 168 each on average
    consumer_main(launch, &block, ring, scratch);
    if (WIDE && !DIRECT && threadIdx.x == 0) no_more_input(&block);
  }
}
