// The in-kernel runtime: the ring of streamed operands, waits and notifies, shares of task grids, the step barrier. (One file,
// though long: loaders and consumers are read together, for each waits for what the other says.)
//
// One block of 384 threads a multiprocessor. Warps 0..7 run tasks (the consumers). Warp 8 is the loader: it walks the
// same shares of the same grids ahead of the consumers and copies the operands that depend on nothing (weights) into a
// ring of slots in shared memory, in the order in which they will be used, with a limit on the bytes in flight.
// Chunk i of the worker's stream lands in slot i % SLOTS and is consumed by warp i % 8. Wide products (wide.cuh) have a loader and
// half of the slots for each warpgroup, whose four warps consume a chunk together, or by turns (direct.cuh).
//
// Every wait for somebody is bounded: a wait longer than `spin_limit` nanoseconds writes what it waited for into the status record
// and raises the abort flag, on which every other wait of the grid gives up too.
#pragma once

namespace ev {

// one of two types, of which the other need not be one that compiles
template <bool FIRST, class A, class B>
struct either { typedef A type; };
template <class A, class B>
struct either<false, A, B> { typedef B type; };

struct bf16 { unsigned short bits; };  // of our own: NVRTC finds no toolkit headers on a user's machine

constexpr int WARPS = 8;                 // consumer warps
constexpr int CONSUMERS = WARPS * 32;    // consumer threads
constexpr int THREADS = CONSUMERS + 128; // and the loader's warpgroup, of which LANES threads work
constexpr int LANES = WIDE ? 1 : 2;      // threads of a warp that loads weights, of which there are
constexpr int LOADERS = WIDE ? 2 : 1, OWN_SLOTS = SLOTS / LOADERS;  // and the slots of each
constexpr int READERS = WIDE && !DIRECT ? 4 : 1;                    // warps that read a chunk of the ring
constexpr int PANELS = DIRECT ? DIRECT / 8 : 8;                     // of a block of wide products; DIRECT: rows of direct ones
constexpr bool ONCE = WIDE <= 64;        // whether a step reads its weights once: longer ones have several tiles of tokens
constexpr bool BY_LINES = WIDE <= 64;    // how the warpgroups share wide products, see wide.cuh
constexpr int STAGES_A_LINE = WIDE <= 128 ? 1 : 2, STAGE_BYTES = WIDE * 256 / STAGES_A_LINE;  // of a wide product's input
constexpr int SUMS_ROW = 68;  // floats of a token's row of sums, behind the stages in SUMS_BYTES; then a number for each thread
constexpr u32 LANES_MASK = (1u << LANES) - 1;
constexpr int RING_ALIGN = WIDE ? 1024 : 128;
constexpr int RING = (SLOTS * SLOT + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;  // bytes of the ring
// A chunk that has landed must not stand in for an older one of the same slot that hasn't: either both belong to one warp,
// or the limit in flight says that the older one has landed by the time that the warp has had the one before.
static_assert(WIDE || (IN_FLIGHT >= LANES && SLOTS >= 2 * LANES), "the lanes of the loader must not wait for each other");
static_assert(WIDE || SLOTS % WARPS == 0 || IN_FLIGHT + WARPS <= SLOTS, "the ring needs slots for a chunk of every warp beyond those in flight");
constexpr int LINE = 32;                 // counters stand on lines of their own: 32 words, 128 bytes

struct Status {  // written by the first wait that gives up; read by the host
  u32 aborted, worker, segment, cell, have, need, step, kind;
};
enum StuckKind : u32 { STUCK_EVENT = 1, STUCK_STEP = 2, STUCK_RING = 3, STUCK_HOST = 4, STUCK_DATA = 5 };

struct Launch {
  const u64* args;         // [segments, ARGS]: the class that runs the segment, then its arguments
  const int* symbols;      // [steps, NUM_SYMBOLS]
  const u8* inputs;        // [steps, input_stride]
  const u8* tables;        // [steps, table_stride]: large inputs; stride 0 where all steps have the same
  u8* outputs;             // [steps, output_stride], memory of the host
  u32* counters;           // [2 banks, cells, LINE], 512 bytes of flags, [2 banks, ANNOUNCED bytes]
  u32* barrier;            // arrivals since the counters were cleared
  u32* stop;               // the step after which the launch ends early, plus one; 0: none
  Status* status;
  const u32* host_stop;    // the host asks for an early end
  u32* host_progress;      // steps completed, for the host
  u64* trace;              // [workers, TRACE, 8] when tracing: see Worker::trace
  i64 input_stride, table_stride, output_stride;
  u64 spin_limit;          // nanoseconds
  u32 barrier_base;        // value of *barrier when the launch begins
  u32 first_step;          // steps run since the counters were cleared: decides the bank
  int num_segments, num_steps, first_segment, last_segment;  // per_op launches run one segment
};

// What a run of a wide product's tasks reads of its input (wide.cuh, tiles.cuh): lines of 128 columns, two tiles `pitch` bytes
// apart; `passes` times `lines` of them. No passes: there will be no more runs.
struct Input {
  const u8* from;
  u32 pitch;
  int lines, passes;
};

// A run of a slim product's tasks as its code sees it (slim.cuh). What isn't there is a null pointer. A product with `h` ends in half
// a norm and `squares`, as `linear_residual` does; one with `halved` has an input that is half normalised.
struct Slim {
  const u8* x;
  void* y;
  const bf16 *bias, *residual, *norm_weight;
  u8* h;
  float* squares;
  const float* halved;
  u32 pitch;        // bytes between tiles of x
  int lines;        // of x, 128 columns each
  int columns;      // of y
  int y_rows;       // of y where it is tiled, else 0
  int h_rows;
  int tokens;       // of the whole step
  int first, block; // the task's first token, and the run's first block
  int blocks;       // of the run
  int halves;       // blocks of `halved`
  float eps, per_column;  // of the norm: one over the columns
  bool gated, wide; // whether y is of gate and up rows by turns; whether it is float32
  bool pairs;       // whether the squares of two blocks are added together
};

// What belongs to the block, in shared memory.
struct Block {
  // by one thread, before the others go on
  __device__ __forceinline__ void init_barriers() {
    for (int i = 0; i < SLOTS; ++i) {
      mbar_init(&full[i], 1);
      mbar_init(&empty[i], READERS);
    }
    for (int i = 0; WIDE && i < STAGES; ++i) {
      mbar_init(&x_full[i], 2 / STAGES_A_LINE);
      mbar_init(&x_empty[i], WARPS);
    }
    if (WIDE) mbar_init(&x_asked, 1);
    for (int i = 0; i < LOADERS; ++i)
      for (int k = 0; k < 2; ++k) mbar_init(&arguments_full[i][k], 1);
    mbar_init_fence();
  }
  alignas(16) u64 loader_args[LOADERS][2][ARGS];
  u64 full[SLOTS], empty[SLOTS], arguments_full[LOADERS][2];
  u64 x_full[STAGES], x_empty[STAGES], x_asked;  // of the stages of a wide product's input, and of a run's `input`
  Input input;
  alignas(8) u8 slim_bytes[WIDE ? sizeof(Slim) : 8];
  __device__ __forceinline__ Slim& slim() { return *(Slim*)slim_bytes; }  // what the slim product at hand is
#if EV_TRACE
  u64 waited[2];           // of a function for all products: how long its first warp waited for weights, and when it had the last
#endif
  alignas(16) u8 staged[STAGED];  // the step's small inputs, and its symbols: the code that comes first in a task needs them
  int symbols[NUM_SYMBOLS], loader_symbols[LOADERS][NUM_SYMBOLS];
  u64 args[3][ARGS];       // of the consumers' segment, of the next one, and of the last, whose notifier may still read
  volatile u32 quit;       // 1: leave now (abort), 2: the launch ends after the current step
  volatile u32 late;       // whether the ring, or a stage, was waited for too long
#if EV_NO_RUN_AHEAD
  volatile u32 begun;      // runs of streamed tasks whose events were triggered
#endif
  volatile u32 issued[LOADERS];  // chunks that each loader has asked for, where products are direct
};

__device__ __forceinline__ int ev_min(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int ev_max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int ev_floordiv(int a, int b) { int q = a / b; return q - (a % b < 0); }
__device__ __forceinline__ int ev_mod(int a, int b) { int r = a % b; return r < 0 ? r + b : r; }

// One step as the code of a class sees it. Inputs at offsets below STAGED are read from `staged`.
struct Step {
  const int* symbols;
  const u8* staged;
  const u8* inputs;
  const u8* tables;
  u8* outputs;
  u64 bank;  // bytes from the even steps' bank of announced tensors to this step's
  __device__ __forceinline__ int symbol(int i) const { return symbols[i]; }
  __device__ __forceinline__ int load(i64 offset, int index) const {
    return ((const int*)((offset < STAGED ? staged : inputs) + offset))[index];
  }
  __device__ __forceinline__ int load_table(i64 offset, int index) const { return __ldg((const int*)(tables + offset) + index); }
};

__device__ __forceinline__ Step make_step(const Launch& l, int step) {
  const u8* const inputs = l.inputs + step * l.input_stride;
  const u64 bank = (u64)((l.first_step + step) & 1) * ANNOUNCED;
  return {l.symbols + (i64)step * NUM_SYMBOLS, inputs, inputs, l.tables + step * l.table_stride, l.outputs + step * l.output_stride, bank};
}

// The step as the consumers see it: symbols and small inputs in shared memory, where `stage_step` has begun to copy them.
// The copies of all threads must have landed, and a barrier passed, before anybody reads them.
__device__ __forceinline__ Step staged_step(const Launch& l, const Block* block, int step) {
  Step s = make_step(l, step);
  s.symbols = block->symbols;
  s.staged = block->staged;
  return s;
}
__device__ __forceinline__ void stage_step(const Launch& l, Block* block, int step, int tid) {
  const u8* const inputs = l.inputs + step * l.input_stride;
  for (int i = tid * 16; i < STAGED; i += CONSUMERS * 16) copy_16(block->staged + i, inputs + i);
  if (tid < NUM_SYMBOLS) block->symbols[tid] = __ldg(l.symbols + (i64)step * NUM_SYMBOLS + tid);
}

// The tasks of one worker: begin, begin + stride, ... below end.
struct Share {
  int begin, end, stride;
};
template <int WORKERS_N>
__device__ __forceinline__ Share block_share(int worker, int tasks, int rotate) {
  const int w = ev_mod(worker - rotate, WORKERS_N), base = tasks / WORKERS_N, extra = tasks % WORKERS_N;
  const int begin = w * base + ev_min(w, extra);
  return {begin, begin + base + (w < extra), 1};
}
template <int WORKERS_N>
__device__ __forceinline__ Share even_share(int worker, int tasks, int rotate) {
  const int w = ev_mod(worker - rotate, WORKERS_N);
  return {(int)((i64)w * tasks / WORKERS_N), (int)((i64)(w + 1) * tasks / WORKERS_N), 1};
}
template <int WORKERS_N>
__device__ __forceinline__ Share cyclic_share(int worker, int tasks, int rotate) {
  return {ev_mod(worker - rotate, WORKERS_N), tasks, WORKERS_N};
}

__device__ __forceinline__ void report(const Launch& l, Block* block, u32 kind, u32 segment, u32 cell, u32 have, u32 need, u32 step) {
  if (atomicCAS(&l.status->aborted, 0u, 1u) == 0u) {
    Status s = {1u, blockIdx.x, segment, cell, have, need, step, kind};
    s.aborted = 1u;
    *l.status = s;
    __threadfence_system();
  }
  block->quit = 1;
}

__device__ __forceinline__ u8* announced_bank(const Launch& l, u32 bank) {
  return (u8*)l.counters + 2ll * NUM_CELLS * LINE * 4 + 512 + (i64)bank * ANNOUNCED;
}

// Polls one counter until it reaches `need`. False: the launch is being aborted. (A function of its own, so that every grid's code is
// shorter.)
__device__ __noinline__ bool poll(const Launch& l, Block* block, const u32* counter, u32 need, u32 kind, u32 segment, u32 cell, u32 step) {
  u64 start = 0;
  for (u32 turns = 1;; ++turns) {
    const u32 have = load_acquire(counter);
    if ((int)(have - need) >= 0) return true;
    if ((turns & 255) == 0) {
      if (block->quit == 1 || load_acquire(&l.status->aborted)) { block->quit = 1; return false; }
      if (start == 0) start = nanoseconds();
      if (nanoseconds() - start > l.spin_limit) { report(l, block, kind, segment, cell, have, need, step); return false; }
    }
  }
}

// A consumer's view of its worker.
struct Worker {
  const Launch& launch;
  Block* block;
  u8* ring;            // RING bytes
  u8* scratch;         // SCRATCH bytes of shared memory for operators
  u32* bank;           // counters of this step
  u32 chunk;           // index of the worker's next chunk
  u32 stage;           // and of its next stage of a wide product's input
  int segment, step;
  int tid, warp, lane;
#if EV_TRACE
  u32 traced;                // records so far, and whether the last run has one
  bool recorded;
  mutable u64 memory_wait;   // cycles that warp 0 has waited for chunks in this run
  mutable u64 weights_at;    // when the last of them had arrived; 0: there are none
  mutable u64 data_at;       // when the events had been triggered, or the announced operands had arrived

  // Two first records pin this multiprocessor's cycles to the common clock: nanoseconds at a tick, cycles at that tick.
  __device__ __forceinline__ void trace_clock() {
    if (tid == 0) {
      const u64 before = nanoseconds();
      u64 now;
      while ((now = nanoseconds()) == before) {}
      u64* p = launch.trace + ((u64)blockIdx.x * TRACE + (traced == 0 ? 0 : TRACE - 1)) * 8;
      p[0] = ~0ull; p[1] = now; p[2] = clock64();
    }
    if (traced == 0) traced = 1;
    memory_wait = weights_at = 0;
  }

  // All workers learn within one poll that a step has begun: what their clocks said then sets them right (profile/gpu.py).
  __device__ __forceinline__ void trace_meeting() {
    if (traced >= TRACE - 1) return;
    if (tid == 0) {
      u64* p = launch.trace + ((u64)blockIdx.x * TRACE + traced) * 8;
      p[0] = ~0ull; p[1] = step; p[2] = clock64();
    }
    ++traced;
  }

  // A record of one run of tasks: step and segment, first task and count, then cycles of this multiprocessor: when the
  // worker came to it, when its events were triggered, when it was done; how long warp 0 waited for the ring, when the
  // notifications had been sent, and when the last chunk was there.
  __device__ __forceinline__ void trace(int task, int count, u64 begin, u64 ready, u64 done) {
    recorded = traced < TRACE - 1;
    if (tid == 0 && recorded) {
      u64* p = launch.trace + ((u64)blockIdx.x * TRACE + traced) * 8;
      p[0] = (u64)step << 32 | (u32)segment;
      p[1] = (u64)task << 32 | (u32)count;
      p[2] = begin; p[3] = ready; p[4] = done; p[5] = memory_wait; p[7] = weights_at;
    }
    traced += recorded;
    memory_wait = weights_at = 0;
  }
  __device__ __forceinline__ void trace_published() const {
    if (recorded) launch.trace[((u64)blockIdx.x * TRACE + traced - 1) * 8 + 6] = clock64();
  }
#endif
  // operators call it when their announced operands are there
  __device__ __forceinline__ void settled() const {
#if EV_TRACE
    data_at = clock64();
#endif
  }
  u32 turn;            // segments entered so far: decides which part of block->args is theirs
  u64 next_argument;   // this thread's share of the next segment's arguments

  // The next segment's arguments are fetched while this one runs, and stashed before its last barrier.
  __device__ __forceinline__ void fetch_arguments(int next) {
    if (tid < ARGS) next_argument = __ldg(launch.args + (i64)next * ARGS + tid);
  }
  __device__ __forceinline__ void stash_arguments() {
    if (tid < ARGS) block->args[(turn + 1) % 3][tid] = next_argument;
  }

  // The compiler must not know from one segment to the next that these are the same: it would compute every class's
  // addresses once, before the loop over segments, and have no registers left for the classes themselves.
  __device__ __forceinline__ void place() {
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
    warp = tid / 32;
    lane = tid % 32;
  }

  __device__ __forceinline__ void sync() const { named_barrier(1, CONSUMERS); }

#if EV_PHASE_BARRIER
  // in place of events: no worker runs a task of a segment before all have ended the one before
  u32 phase;
  __device__ __forceinline__ void wait_for_phase() {
    if (tid == 0) poll(launch, block, launch.barrier + 3 * LINE, phase * WORKERS, STUCK_STEP, 0, 0, step);
  }
  __device__ __forceinline__ void leave_phase() {
    sync();
    if (tid == CONSUMERS - 1) add_release(launch.barrier + 3 * LINE, 1);
    ++phase;
  }
#endif

  // whether the ring has been waited for too long; `began` is 0 at first
  __device__ __forceinline__ bool late(u64& began, u32 chunk) const {
    if (began == 0) began = nanoseconds();
    if (nanoseconds() - began < launch.spin_limit) return false;
    report(launch, block, STUCK_RING, segment, chunk, 0, 1, step);
    return true;
  }
  // The same for a wide product's chunk, or a stage of its input. Short, because it stands in inner loops: who leaves them reports.
  __device__ __forceinline__ void await(u32 bar, u32 parity) const {
    for (u64 began = 0; !mbar_try_wait(bar, parity);) {
      const u64 now = nanoseconds();
      if (began == 0) began = now;
      if (now - began > launch.spin_limit) block->quit = block->late = 1;
      if (block->quit == 1) break;
    }
  }
  // a wide product's chunk; `there`: it is known to have landed
  __device__ __forceinline__ void await_chunk(u32 bar, u32 parity, bool there) const {
#if EV_TRACE
    const u64 start = clock64();
#endif
    if (!there) await(bar, parity);
#if EV_TRACE
    weights_at = clock64();
    memory_wait += weights_at - start;
#endif
  }
  __device__ __forceinline__ void report_late() const {
    if (WIDE && tid == 0 && block->late) report(launch, block, STUCK_RING, segment, 0, 0, 1, step);
  }
  // waits for chunk `chunk + j`; the warp that owns it calls this, and release() when it has read it
  __device__ __forceinline__ const u8* acquire(int j) const {
    const u32 i = chunk + j;
#if EV_TRACE
    const u64 start = clock64();
#endif
    u64* const bar = &block->full[i % SLOTS];
    const u32 parity = (i / SLOTS) & 1;
    for (u64 began = 0; !mbar_try_wait(bar, parity);)
      if (block->quit == 1 || late(began, i)) break;
#if EV_TRACE
    weights_at = clock64();
    memory_wait += weights_at - start;
#endif
    return ring + (i % SLOTS) * SLOT;
  }
  __device__ __forceinline__ void release(int j) const {
    __syncwarp();
    if (lane == 0) mbar_arrive(&block->empty[(chunk + j) % SLOTS]);
  }
  // the first of the worker's next chunks that belongs to this warp; the others follow every WARPS
  __device__ __forceinline__ int first_own() const { return (int)((warp - chunk) % WARPS + WARPS) % WARPS; }
};

// A loop that waits asks this on every turn: whether to give up.
struct Patience {
  u32 turns = 0;
  u64 start = 0;
  __device__ __forceinline__ bool over(const Worker& w) {
    if (++turns & 255) return false;
    if (w.block->quit == 1 || load_acquire(&w.launch.status->aborted)) { w.block->quit = 1; return true; }
    if (start == 0) start = nanoseconds();
    if (nanoseconds() - start <= w.launch.spin_limit) return false;
    report(w.launch, w.block, STUCK_DATA, w.segment, 0, 0, 0, w.step);
    return true;
  }
};

// Announced tensors (see backends/cuda/announce.py): elements are all ones until they have been written.
__device__ __forceinline__ bool absent(u32 two) { return (two & 0xffffu) == 0xffffu || two >= 0xffff0000u; }
// the same two elements where they were copied and not computed: the one NaN that means something else becomes another
__device__ __forceinline__ u32 present(u32 two) {
  if ((two & 0xffffu) == 0xffffu) two ^= 0x8000u;
  return two >= 0xffff0000u ? two ^ 0x80000000u : two;
}
__device__ __forceinline__ bool absent(const uint4& v) { return absent(v.x) | absent(v.y) | absent(v.z) | absent(v.w); }

// eight elements, loaded already as `v`, once they are all there
__device__ __forceinline__ uint4 settle_16(const Worker& w, const void* p, uint4 v) {
  for (Patience patience; absent(v) && !patience.over(w);) v = load_16(p);
  return v;
}
__device__ __forceinline__ bf16 settle(const Worker& w, const bf16* p) {
  bf16 v = {load_2(p)};
  for (Patience patience; v.bits == 0xffffu && !patience.over(w);) v.bits = load_2(p);
  return v;
}

__device__ __forceinline__ bool absent(float v) { return __float_as_uint(v) == ~0u; }
__device__ __forceinline__ bool absent(const float2& v) { return absent(v.x) | absent(v.y); }

// `again` asks anew for everything that was absent, and says whether anything was. Pieces that were asked for at the same time
// are mostly absent together: asking for them one after another would take a round trip for each.
template <class Again>
__device__ __forceinline__ void settle_together(const Worker& w, const Again& again) {
  for (Patience patience; again() && !patience.over(w);) {}
}

// Cells that a run of tasks waits for, one for each lane of warp 0: those from number `first` on. A pass over the plan's
// edges adds them all; runs with more than 32 take several passes.
struct Waiter {
  int lane, first, count;
  u32 need, cell;
  __device__ __forceinline__ Waiter(int l, int f) : lane(l), first(f), count(0), need(0), cell(0) {}
  __device__ __forceinline__ void add(u32 c, u32 n) {
    if (count - first == lane) { need = n; cell = c; }
    ++count;
  }
  __device__ __forceinline__ void wait(Worker& w) const {
    if (first + lane < count) poll(w.launch, w.block, w.bank + (i64)cell * LINE, need, STUCK_EVENT, w.segment, cell, w.step);
    __syncwarp();
  }
};

// Collects notifications of the same cell and sends them as one. Threads of one warp use it, after the consumers' barrier; its
// fence orders every consumer's writes before all of its additions.
struct Notifier {
  Worker& w;
  u32 cell = 0, count = 0;
  __device__ __forceinline__ Notifier(Worker& worker) : w(worker) { fence_release(); }
  __device__ __forceinline__ void add(u32 c, u32 n) {
    if (count && c != cell) flush();
    cell = c;
    count += n;
  }
  __device__ __forceinline__ void flush() {
    if (count) add_relaxed(w.bank + (i64)cell * LINE, count);
    count = 0;
  }
};

// The operands of a run of tasks of a wide product (wide.cuh): blocks of 8 panels, of each of which `lines` lines, 128 columns. A
// line is one box of the weight, taken as rows of 8-byte words, one a panel; so are the tails of a slab, if there are any.
struct Blocks {
  const u8* maps;                // two CUtensorMaps: of boxes that are lines, and of boxes that are tails
  int first, blocks, together;   // `together`: blocks that are passed at once
  int line, lines, all;          // the first line, how many, and how many the weight has
  u32 bytes, tail;               // of a panel's line, and its tail
  bool half;                     // blocks are of 4 panels, and a chunk is two lines of one: 16 tokens at most
};

// The same of a slim one (slim.cuh): blocks of two panels, of each of which all lines of a slab are a chunk. The first panel of
// the first block begins at `from`, and each has `panel` bytes, `slab` those of a slab and `last` of the last one.
struct Slabs {
  const u8* from;
  int blocks, together, slabs;
  u32 panel, slab, last;
};

// The loader: LANES threads of a warp that keep the ring full, each with every LANES-th chunk. For narrow products one is too slow:
// asking whether a slot is free and issuing a copy takes it as long as the memory takes to deliver 6 KB. They go in step, so
// the questions are asked once for all; their state is the same, but for `lane`. `pump` is one short loop for all classes.
// A chunk of a wide product is a box of eight panels' parts, one instruction: a copy each takes the copy engine 110 cycles and
// more, however short it is. What a thread asks of a barrier it hears 100 to 200 cycles later, so each warpgroup has a loader.
struct Loader {
  const u8* from;  // the operands of a run of tasks: `bytes` bytes, which the operator has asked for by `stream`
  u32 bytes, chunk;
  Blocks wide;     // or what `stream_blocks` says
  Slabs slim;      // or `stream_slabs`, unless it has none
  int task;        // the first task of the next run; -1: the share's first
  u32 slot, lap;   // of the next chunk; laps are counted modulo 2
  u32 own;         // which of the loaders this is
  u32 lane, issued;
  u32 ring, bars, flag, told;  // shared memory: slots, full and empty barriers, Block::quit and Block::issued
  bool quit;
#if EV_NO_RUN_AHEAD
  u32 runs;
  Block* block;
#endif

  __device__ __forceinline__ Loader(Block* b, u8* memory) : from(nullptr), bytes(0), chunk(0), task(-1), slot(0), lap(0), own(WIDE ? threadIdx.x / 32 - WARPS : 0), lane(threadIdx.x % 32), quit(false), slim{} {
    ring = opaque(shared_address(memory)) + own * OWN_SLOTS * SLOT;
    bars = opaque(shared_address(b->full)) + own * OWN_SLOTS * 8;
    flag = opaque(shared_address((const void*)&b->quit));
    told = opaque(shared_address((const void*)&b->issued[own]));
    issued = 0;
#if EV_NO_RUN_AHEAD
    runs = 0;
    block = b;
#endif
  }

  // `each`: bytes of a chunk, at most SLOT
  template <int TOKENS = WIDE>
  __device__ __forceinline__ void stream(const void* src, i64 size, int each) {
    static_assert(TOKENS == 0, "beside wide linears no operator can stream chunks of its own");
    from = (const u8*)src;
    bytes = (u32)size;
    chunk = each;
  }

  __device__ __forceinline__ void stream_blocks(const Blocks& b) { wide = b; slim.slabs = 0; }
  __device__ __forceinline__ void stream_slabs(const Slabs& s) { slim = s; }

  // copies what was asked for
  __device__ __forceinline__ void pump() {
    if constexpr (WIDE) {
      if (slim.slabs) pump_slabs();
      else pump_blocks();
    } else {
      pump_chunks();
    }
  }

  // Blocks are passed `together` at a time: 128 columns of each, then the next 128. What holds for all of a slab comes with the
  // first of its lines that a warpgroup has.
  __device__ __forceinline__ void pump_blocks() {
    for (int first = 0; first < wide.blocks; first += wide.together) {
      const int end = ev_min(first + wide.together, wide.blocks);
      const int each = WIDE == 16 && wide.half ? 2 : 1;
      for (int line = BY_LINES ? own * each : 0; line < wide.lines; line += BY_LINES ? LOADERS * each : 1) {
        for (int b = first + (BY_LINES ? 0 : own); b < end; b += BY_LINES ? 1 : LOADERS) {
          if (WIDE == 16 && wide.half) bring_half(wide.first + b, wide.line + line);
          else bring(wide.first + b, wide.line + line, wide.tail > 0 && (DIRECT || line % 4 < (BY_LINES ? LOADERS : 1)));
          if (quit) return;
          if (DIRECT) store_shared(told, ++issued);
          if (++slot == OWN_SLOTS) { slot = 0; lap ^= 1; }
        }
      }
    }
  }
  // Blocks are passed together here as well: a slab of each, then the next slab that is this loader's.
  __device__ __forceinline__ void pump_slabs() {
    for (int first = 0; first < slim.blocks; first += slim.together) {
      const int end = ev_min(first + slim.together, slim.blocks);
      for (int slab = own; slab < slim.slabs; slab += LOADERS) {
        const u32 size = slab == slim.slabs - 1 ? slim.last : slim.slab;
        for (int b = first; b < end; ++b) {
          if (!await_slot()) return;
          const u8* const src = slim.from + (i64)b * (2 * slim.panel) + slab * slim.slab;
          const u32 full = bars + slot * 8, to = ring + slot * SLOT;
          mbar_expect(full, 2 * size);
          bulk_stream<ONCE>(to, src, size, full);
          bulk_stream<ONCE>(to + size, src + slim.panel, size, full);
          if (++slot == OWN_SLOTS) { slot = 0; lap ^= 1; }
        }
      }
    }
  }
  __device__ __forceinline__ bool await_slot() {
    do quit = load_shared(flag) != 0;  // first: after an abort slots are free before they have been filled
    while (!quit && !mbar_try_wait(bars + (SLOTS + slot) * 8, lap ^ 1));
    return !quit;
  }
  __device__ __forceinline__ void bring(int block, int line, bool tails) {
    if (!await_slot()) return;
    const u32 full = bars + slot * 8, to = ring + slot * SLOT;
    const int slab = line / 4, before = slab * wide.tail;  // bytes of tails
    mbar_expect(full, PANELS * (wide.bytes + (tails ? wide.tail : 0)));
    bulk_stream_box<ONCE>(to, wide.maps, (line * wide.bytes + before) / 8, block * PANELS, full);
    if (tails) bulk_stream_box<ONCE>(to + PANELS * wide.bytes, wide.maps + 128, (ev_min(slab * 4 + 4, wide.all) * wide.bytes + before) / 8, block * PANELS, full);
  }

  // two lines of four panels, and the tails of their slab
  __device__ __forceinline__ void bring_half(int block, int line) {
    if (!await_slot()) return;
    const u32 full = bars + slot * 8, to = ring + slot * SLOT;
    const int slab = line / 4, before = slab * wide.tail;
    mbar_expect(full, 8 * wide.bytes + 4 * wide.tail);
    bulk_stream_box<ONCE>(to, wide.maps, (line * wide.bytes + before) / 8, block * 4, full);
    bulk_stream_box<ONCE>(to + 4 * wide.bytes, wide.maps, ((line + 1) * wide.bytes + before) / 8, block * 4, full);
    if (wide.tail > 0) bulk_stream_box<ONCE>(to + 8 * wide.bytes, wide.maps + 128, (ev_min(slab * 4 + 4, wide.all) * wide.bytes + before) / 8, block * 4, full);
  }

  // chunks of `chunk` bytes, the last one shorter
  __device__ __forceinline__ void pump_chunks() {
    const u8* src = from + lane * chunk;
    for (int left = (int)bytes; left > 0; left -= LANES * chunk, src += LANES * chunk) {
      const int mine = left - lane * (int)chunk;
      u32 at = slot + lane, turn = lap;
      if (at >= SLOTS) { at -= SLOTS; turn ^= 1; }
      while (!__all_sync(LANES_MASK, mine <= 0 || is_free(at, turn)))
        if (__any_sync(LANES_MASK, load_shared(flag) != 0)) { quit = true; return; }
      if (mine > 0) {
        const u32 size = mine < (int)chunk ? mine : chunk, full = bars + at * 8;
        mbar_expect(full, size);
        bulk_stream<ONCE>(ring + at * SLOT, src, size, full);
      }
      slot += __popc(__ballot_sync(LANES_MASK, mine > 0));
      if (slot >= SLOTS) { slot -= SLOTS; lap ^= 1; }
    }
  }
  // A slot's last chunk has been read, and the chunk IN_FLIGHT before its next one has landed. On the first lap both parities
  // are those of the phase before the first, which counts as complete.
  __device__ __forceinline__ bool is_free(u32 at, u32 turn) const {
    const u32 full = bars + at * 8;
    const bool early = at >= IN_FLIGHT;
    const bool read = mbar_test_wait(full + SLOTS * 8, turn ^ 1);
    const bool landed = mbar_test_wait(early ? full - IN_FLIGHT * 8 : full + (SLOTS - IN_FLIGHT) * 8, early ? turn : turn ^ 1);
    return read & landed;
  }
#if EV_NO_RUN_AHEAD
  __device__ __forceinline__ void wait_for_events() {
    while ((int)(block->begun - runs) <= 0 && block->quit == 0) {}
    ++runs;
  }
#endif
  // copies still under way must land before the block may end
  __device__ __forceinline__ void drain() const {
    for (u32 s = 0; s < OWN_SLOTS; ++s)
      while (!mbar_try_wait(bars + s * 8, s < slot ? lap : lap ^ 1)) {}
  }
};

// thread 0: has the stages of a run brought; the run before has read all of its own
__device__ __forceinline__ void ask_for_input(Block* block, const Input& input) {
  block->input = input;
  mbar_arrive(&block->x_asked);
}
__device__ __forceinline__ void no_more_input(Block* block) { ask_for_input(block, {nullptr, 0, 0, 0}); }

// Two lanes that bring the inputs of wide products when a run has asked for them: each one tile of every line or, where a line is
// one piece of memory, every second line.
__device__ __forceinline__ void input_main(Block* block, u8* scratch) {
  constexpr u32 TILE_BYTES = WIDE * 128;
  const u32 lane = threadIdx.x % 32;
  u32 asked = 0;  // stages
  auto await = [&](u64* bar, u32 parity) {
    while (!mbar_try_wait(bar, parity)) if (block->quit == 1) return false;
    return true;
  };
  for (u32 run = 0; await(&block->x_asked, run & 1); ++run) {
    const Input in = block->input;
    if (in.passes == 0) break;
    fence_async_proxy();
    const bool whole = STAGES_A_LINE == 1 && STAGES % 2 == 0 && in.pitch == TILE_BYTES && in.lines > 1;  // each lane has some
    const u32 bytes = whole ? 2 * TILE_BYTES : TILE_BYTES;
    for (int p = 0; p < in.passes; ++p) {
      for (int line = 0; line < in.lines; ++line, asked += STAGES_A_LINE) {
        if (whole && asked % 2 != lane) continue;
        const u32 i = asked + (STAGES_A_LINE - 1) * lane, at = i % STAGES;
        if (i >= STAGES && !await(&block->x_empty[at], (i / STAGES - 1) & 1)) break;
        u8* const to = scratch + at * STAGE_BYTES + (STAGES_A_LINE == 1 && !whole ? lane * TILE_BYTES : 0);
        if (whole) mbar_arrive(&block->x_full[at]);  // in place of the other lane
        mbar_expect(&block->x_full[at], bytes);
        bulk_copy(to, in.from + (i64)(line * 2 + (whole ? 0 : lane)) * in.pitch, bytes, &block->x_full[at]);
      }
    }
  }
  // Copies still under way must land before the block may end. Of a launch that is aborted some were never asked for: the others
  // have landed by the time that this gives up.
  const u64 began = nanoseconds();
  for (u32 i = asked > STAGES ? asked - STAGES : 0; i < asked; ++i) {
    if (STAGES_A_LINE == 2 && i % 2 != lane) continue;
    while (!mbar_try_wait(&block->x_full[i % STAGES], (i / STAGES) & 1))
      if (block->quit == 1 && nanoseconds() - began > 10'000'000) break;
  }
}

// Clears this worker's share of the bank that the next step uses. All tasks of the step before have ended, so nobody
// polls it; the step barrier makes the zeros visible.
__device__ __forceinline__ void clear_bank(const Launch& l, u32 bank, int tid) {
  u32* cells = l.counters + (i64)bank * NUM_CELLS * LINE;
  for (int c = blockIdx.x * CONSUMERS + tid; c < NUM_CELLS; c += gridDim.x * CONSUMERS) cells[(i64)c * LINE] = 0;
}

// Fills this worker's share of a part of the bank of announced tensors that the next step uses, likewise. (All of it at a time is 10 µs
// where batches are large.)
__device__ __forceinline__ void clear_announced(const Launch& l, u32 bank, int tid, int part, int parts) {
  uint4* const words = (uint4*)announced_bank(l, bank);
  const int each = (ANNOUNCED / 16 + parts - 1) / parts, end = ev_min((part + 1) * each, ANNOUNCED / 16);
  for (int i = part * each + blockIdx.x * CONSUMERS + tid; i < end; i += gridDim.x * CONSUMERS) words[i] = make_uint4(~0u, ~0u, ~0u, ~0u);
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ void put(float* p, float v) { *p = v; }
__device__ __forceinline__ void put(bf16* p, float v) { p->bits = (unsigned short)pack_halves(v, 0.f); }
__device__ __forceinline__ float low_half(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float high_half(u32 v) { return __uint_as_float(v & 0xffff0000u); }
// SiLU(gate) · up. (`/` would be 20 instructions more, and as many behind a jump.)
__device__ __forceinline__ float gated(float gate, float up) { return __fdividef(gate, 1.f + __expf(-gate)) * up; }
__device__ __forceinline__ float warp_sum(float v) {
  #pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}

// unsigned keys in the order of the floats
__device__ __forceinline__ u32 order_key(float v) {
  const u32 b = __float_as_uint(v);
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}

// base of operators that fetch nothing ahead
struct Stateless {
  template <class... T>
  __device__ __forceinline__ void prefetch(const T&...) {}
};

}  // namespace ev
