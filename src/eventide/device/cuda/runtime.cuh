// The in-kernel runtime: the ring of streamed operands, waits and notifies, shares of task grids, the step barrier.
//
// One block of 384 threads a multiprocessor. Warps 0..7 run tasks (the consumers). Warp 8 is the loader: it walks the
// same shares of the same grids ahead of the consumers and copies the operands that depend on nothing (weights) into a
// ring of 8 KB slots in shared memory, in the order in which they will be used, with a limit on the bytes in flight.
// Chunk i of the worker's stream lands in slot i % SLOTS and is consumed by warp i % 8.
//
// Every wait is bounded: a wait longer than `spin_limit` nanoseconds writes what it waited for into the status record and
// raises the abort flag, on which every other wait of the grid gives up too.
#pragma once

namespace ev {

struct bf16 { unsigned short bits; };  // of our own: NVRTC finds no toolkit headers on a user's machine

constexpr int WARPS = 8;                 // consumer warps
constexpr int CONSUMERS = WARPS * 32;    // consumer threads
constexpr int THREADS = CONSUMERS + 128; // and the loader's warpgroup, of which one warp works
constexpr int CHUNK = 8192;              // bytes of a ring slot
constexpr int LINE = 32;                 // counters stand on lines of their own: 32 words, 128 bytes

struct Status {  // written by the first wait that gives up; read by the host
  u32 aborted, worker, segment, cell, have, need, step, kind;
};
enum StuckKind : u32 { STUCK_EVENT = 1, STUCK_STEP = 2, STUCK_RING = 3, STUCK_HOST = 4 };

struct Launch {
  const u64* args;         // [segments, ARGS]: the class that runs the segment, then its arguments
  const int* symbols;      // [steps, NUM_SYMBOLS]
  const u8* inputs;        // [steps, input_stride]
  u8* outputs;             // [steps, output_stride], memory of the host
  u32* counters;           // [2 banks, cells, LINE]
  u32* barrier;            // arrivals since the counters were cleared
  u32* stop;               // the step after which the launch ends early, plus one; 0: none
  Status* status;
  const u32* host_stop;    // the host asks for an early end
  u32* host_progress;      // steps completed, for the host
  u64* trace;              // [workers, TRACE, 6] when tracing: see Worker::trace
  i64 input_stride, output_stride;
  u64 spin_limit;          // nanoseconds
  u32 barrier_base;        // value of *barrier when the launch begins
  u32 first_step;          // steps run since the counters were cleared: decides the bank
  int num_segments, num_steps, first_segment, last_segment;  // per_op launches run one segment
};

// What belongs to the block, in shared memory.
struct Block {
  alignas(16) u64 loader_args[2][ARGS];
  u64 full[SLOTS], empty[SLOTS], arguments_full[2];
  u64 args[3][ARGS];       // of the consumers' segment, of the next one, and of the last, whose notifier may still read
  volatile u32 quit;       // 1: leave now (abort), 2: the launch ends after the current step
};

__device__ __forceinline__ int ev_min(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int ev_max(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ int ev_floordiv(int a, int b) { int q = a / b; return q - (a % b < 0); }
__device__ __forceinline__ int ev_mod(int a, int b) { int r = a % b; return r < 0 ? r + b : r; }

// One step as the code of a class sees it.
struct Step {
  const int* symbols;
  const u8* inputs;
  u8* outputs;
  __device__ __forceinline__ int symbol(int i) const { return __ldg(symbols + i); }
  __device__ __forceinline__ int load(i64 offset, int index) const { return __ldg((const int*)(inputs + offset) + index); }
};

__device__ __forceinline__ Step make_step(const Launch& l, int step) {
  return {l.symbols + (i64)step * NUM_SYMBOLS, l.inputs + step * l.input_stride, l.outputs + step * l.output_stride};
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

// Polls one counter until it reaches `need`. False: the launch is being aborted.
__device__ __forceinline__ bool poll(const Launch& l, Block* block, const u32* counter, u32 need, u32 kind, u32 segment, u32 cell, u32 step) {
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
  u8* ring;            // SLOTS * CHUNK bytes
  u8* scratch;         // SCRATCH bytes of shared memory for operators
  u32* bank;           // counters of this step
  u32 chunk;           // index of the worker's next chunk
  int segment, step;
  int tid, warp, lane;
#if EV_TRACE
  u32 traced;
  mutable u64 memory_wait;  // cycles that warp 0 has waited for chunks in this run

  // Two first records pin this multiprocessor's cycles to the common clock: nanoseconds at a tick, cycles at that tick.
  __device__ __forceinline__ void trace_clock() {
    if (tid == 0) {
      const u64 before = nanoseconds();
      u64 now;
      while ((now = nanoseconds()) == before) {}
      u64* p = launch.trace + ((u64)blockIdx.x * TRACE + (traced == 0 ? 0 : TRACE - 1)) * 6;
      p[0] = ~0ull; p[1] = now; p[2] = clock64();
      if (traced == 0) traced = 1;
    }
    memory_wait = 0;
  }

  // A record of one run of tasks: step and segment, first task and count, then cycles of this multiprocessor: when the
  // worker came to it, when its events were triggered, when it was done; and how long warp 0 waited for the ring.
  __device__ __forceinline__ void trace(int task, int count, u64 begin, u64 ready, u64 done) {
    if (tid == 0 && traced < TRACE - 1) {
      u64* p = launch.trace + ((u64)blockIdx.x * TRACE + traced++) * 6;
      p[0] = (u64)step << 32 | (u32)segment;
      p[1] = (u64)task << 32 | (u32)count;
      p[2] = begin; p[3] = ready; p[4] = done; p[5] = memory_wait;
    }
    memory_wait = 0;
  }
#endif
  u32 turn;            // segments entered so far: decides which part of block->args is theirs
  u64 next_argument;   // this thread's share of the next segment's arguments

  // The next segment's arguments are fetched while this one runs, and stashed before its last barrier.
  __device__ __forceinline__ void fetch_arguments(int next) {
    if (tid < ARGS) next_argument = __ldg(launch.args + (i64)next * ARGS + tid);
  }
  __device__ __forceinline__ void stash_arguments() {
    if (tid < ARGS) block->args[(turn + 1) % 3][tid] = next_argument;
  }

  __device__ __forceinline__ void sync() const { named_barrier(1, CONSUMERS); }

  // waits for chunk `chunk + j`; the warp that owns it calls this, and release() when it has read it
  __device__ __forceinline__ const u8* acquire(int j) const {
    u32 i = chunk + j;
    u64* bar = &block->full[i % SLOTS];
    u32 parity = (i / SLOTS) & 1;
#if EV_TRACE
    const u64 start = clock64();
#endif
    while (!mbar_try_wait(bar, parity))
      if (block->quit == 1) break;
#if EV_TRACE
    memory_wait += clock64() - start;
#endif
    return ring + (i % SLOTS) * CHUNK;
  }
  __device__ __forceinline__ void release(int j) const {
    __syncwarp();
    if (lane == 0) mbar_arrive(&block->empty[(chunk + j) % SLOTS]);
  }
  // the first of the worker's next chunks that belongs to this warp; the others follow every WARPS
  __device__ __forceinline__ int first_own() const { return (int)((warp - chunk) % WARPS + WARPS) % WARPS; }
};

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

// Collects notifications of the same cell and sends them as one. Only thread 0 uses it, after the consumers' barrier,
// which orders every consumer's writes before the release.
struct Notifier {
  Worker& w;
  u32 cell = 0, count = 0;
  __device__ Notifier(Worker& worker) : w(worker) {}
  __device__ __forceinline__ void add(u32 c, u32 n) {
    if (count && c != cell) flush();
    cell = c;
    count += n;
  }
  __device__ __forceinline__ void flush() {
    if (count) add_release(w.bank + (i64)cell * LINE, count);
    count = 0;
  }
};

// The loader: one thread that keeps the ring full.
struct Loader {
  const Launch& launch;
  Block* block;
  u8* ring;
  u32 chunk;
  bool quit;

  // streams `bytes` bytes as chunks of CHUNK, the last one shorter. Its state is kept in locals: members would be read
  // again after every instruction that may touch memory.
  __device__ __forceinline__ void stream(const void* src, i64 bytes) {
    Block* const b = block;
    const u8* from = (const u8*)src;
    u32 i = chunk, left = (u32)bytes;
    while (left) {
      const u32 slot = i % SLOTS, size = left < CHUNK ? left : CHUNK;
      if (i >= SLOTS && !wait(b, &b->empty[slot], ((i / SLOTS) - 1) & 1)) break;
      if (i >= IN_FLIGHT && !wait(b, &b->full[(i - IN_FLIGHT) % SLOTS], ((i - IN_FLIGHT) / SLOTS) & 1)) break;
      mbar_expect(&b->full[slot], size);
      bulk_copy(ring + slot * CHUNK, from, size, &b->full[slot]);
      from += size;
      left -= size;
      ++i;
    }
    quit = left != 0;
    chunk = i;
  }
  static __device__ __forceinline__ bool wait(const Block* b, u64* bar, u32 parity) {
    while (!mbar_try_wait(bar, parity))
      if (b->quit) return false;
    return true;
  }
  // copies still under way must land before the block may end
  __device__ __forceinline__ void drain() {
    for (u32 i = chunk > SLOTS ? chunk - SLOTS : 0; i < chunk; ++i)
      while (!mbar_try_wait(&block->full[i % SLOTS], (i / SLOTS) & 1)) {}
  }
};

// Clears this worker's share of the bank that the next step uses. All tasks of the step before have ended, so nobody
// polls it; the step barrier makes the zeros visible.
__device__ __forceinline__ void clear_bank(const Launch& l, u32 bank, int tid) {
  u32* cells = l.counters + (i64)bank * NUM_CELLS * LINE;
  for (int c = blockIdx.x * CONSUMERS + tid; c < NUM_CELLS; c += gridDim.x * CONSUMERS) cells[(i64)c * LINE] = 0;
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ void put(float* p, float v) { *p = v; }
__device__ __forceinline__ void put(bf16* p, float v) { p->bits = (unsigned short)pack_halves(v, 0.f); }
__device__ __forceinline__ float low_half(u32 v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float high_half(u32 v) { return __uint_as_float(v & 0xffff0000u); }
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

enum Layout { PLAIN = 0, PANEL8 = 1 };
// Where element (n, k) of a weight stands. PANEL8: panels of 8 rows, each a run along k of tiles of 8 rows x 32 k, 512
// bytes, whose four 16-byte pieces of a row are swizzled by (row / 2) % 4. So a warp reads a tile with one conflict-free
// 16-byte load a lane, in the order of mma's B fragments, and the tile is what wgmma calls a 64-byte swizzle.
template <int LAYOUT>
__device__ __forceinline__ i64 weight_index(int n, int k, int padded_k, int columns) {
  if (LAYOUT == PLAIN) return (i64)n * columns + k;
  return (i64)(n >> 3) * 8 * padded_k + (k >> 5) * 256 + (n & 7) * 32 + ((((k >> 3) & 3) ^ ((n >> 1) & 3)) << 3) + (k & 7);
}
__host__ __device__ constexpr int pad_k(int k) { return (k + 31) / 32 * 32; }

}  // namespace ev
