// generated from plan 'Qwen3ForCausalLM' for cuda-sm_90a x4; do not edit
#define EV_TRACE 0
#define EV_DELAY 0
#define EV_NO_RUN_AHEAD 0
#define EV_PHASE_BARRIER 0
namespace ev {
constexpr int NUM_SYMBOLS = 4;
constexpr int NUM_CELLS = 11;
constexpr int ARGS = 18;
constexpr int WORKERS = 4;
constexpr int SLOTS = 16;
constexpr int SLOT = 8192;
constexpr int IN_FLIGHT = 6;
constexpr int SCRATCH = 90112;
constexpr int WIDE = 0;
constexpr int DIRECT = 0;
constexpr int STAGES = 1;
constexpr int SUMS_BYTES = 33024;
constexpr int TRACE = 0;
constexpr int STAGED = 352;
constexpr int ANNOUNCED = 3072;
}  // namespace ev
// C0: embed
struct C0 {
  struct seq_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } seq;
  struct pos_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } pos;
  struct tokens_t { const int* data; static constexpr int dim0 = 2; static constexpr int dim1 = 65; static constexpr bool single = false; static constexpr int layout = PLAIN; static constexpr bool polled = false; } tokens;
  struct w_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int dim1 = 64; static constexpr int layout = PANEL8; static constexpr bool polled = false; } w;
  struct y_t { bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } y;
  static constexpr int tile_m = 1;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C0(const Step& step_, const u64* args_) : s(step_), args(args_) {
    seq.data = (const int*)((u64)s.staged + args[0]);
    seq.dim0 = s.symbol(0);
    pos.data = (const int*)((u64)s.staged + args[1]);
    pos.dim0 = s.symbol(0);
    tokens.data = (const int*)(args[2]);
    w.data = (const bf16*)(args[3]);
    y.data = (bf16*)(s.bank + args[4]);
    y.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = embed_op<C0>::RUNS;
  static constexpr bool STREAMED = false, AHEAD = false;
  static constexpr int LAST = 0;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = false, NOTIFIES_VARY = false;
  static constexpr bool WAITS = false, NOTIFIES = false;
  __device__ __forceinline__ int last_extent() const { return s.symbol(0); }
  __device__ __forceinline__ int tasks() const { return s.symbol(0); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[5] + (int)args[6] * s.symbol(0) + (int)args[7] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
  }
  typedef embed_op<C0> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0]); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0]); }
};
// C1: layers.0.qkv
struct C1 {
  struct x_t { const bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = true; } x;
  struct w_t { const bf16* data; static constexpr int dim0 = 256; static constexpr int dim1 = 64; static constexpr int layout = PANEL8; static constexpr bool polled = false; } w;
  static constexpr bool has_norm_weight = true;
  struct norm_weight_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } norm_weight;
  static constexpr bool has_rows = false;
  static constexpr bool has_squares = false;
  static constexpr bool has_bias = false;
  static constexpr bool has_residual = false;
  struct y_t { bf16* data; int dim0; static constexpr int dim1 = 256; static constexpr int layout = PLAIN; static constexpr bool polled = false; } y;
  static constexpr int activation = 0;
  static constexpr float eps = (float)1e-06;
  static constexpr int tile_m = 8;
  static constexpr int tile_n = 8;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C1(const Step& step_, const u64* args_) : s(step_), args(args_) {
    x.data = (const bf16*)(s.bank + args[0]);
    x.dim0 = s.symbol(0);
    w.data = (const bf16*)(args[1]);
    norm_weight.data = (const bf16*)(args[2]);
    y.data = (bf16*)(args[3]);
    y.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = linear_op<C1>::RUNS;
  static constexpr bool STREAMED = true, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = false, NOTIFIES_VARY = true;
  static constexpr bool WAITS = false, NOTIFIES = true;
  __device__ __forceinline__ int last_extent() const { return 32; }
  __device__ __forceinline__ int tasks() const { return 32 * ((s.symbol(0) + 7) >> 3); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 32; r /= 32;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[5] + (int)args[6] * s.symbol(0) + (int)args[7] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
    { const int c0 = x.v[0];
    { const int c1 = (x.v[1] >> 3);
    k.add((u32)args[4] + (c0 * 4 + c1), times);
    }}
  }
  typedef linear_op<C1> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void stream(Loader& l, const Coords& x, int count) const {
    linear_op<C1>::stream(*this, l, x.v[0], x.v[1], count);
  }
};
// C2: layers.0.rope
struct C2 {
  struct q_in_t { const bf16* data; int dim0; static constexpr int dim1 = 256; static constexpr int layout = PLAIN; static constexpr bool polled = false; } q_in;
  struct k_in_t { const bf16* data; int dim0; static constexpr int dim1 = 256; static constexpr int layout = PLAIN; static constexpr bool polled = false; } k_in;
  struct v_in_t { const bf16* data; int dim0; static constexpr int dim1 = 256; static constexpr int layout = PLAIN; static constexpr bool polled = false; } v_in;
  struct pos_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } pos;
  struct slot_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } slot;
  struct rope_t { const float* data; static constexpr int dim0 = 64; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } rope;
  static constexpr bool has_q_norm = true;
  struct q_norm_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } q_norm;
  static constexpr bool has_k_norm = true;
  struct k_norm_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } k_norm;
  struct k_cache_t { bf16* data; static constexpr int dim0 = 1; static constexpr int dim1 = 128; static constexpr int dim2 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } k_cache;
  struct v_cache_t { bf16* data; static constexpr int dim0 = 1; static constexpr int dim1 = 128; static constexpr int dim2 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } v_cache;
  struct q_t { bf16* data; int dim0; static constexpr int dim1 = 128; static constexpr int layout = PLAIN; static constexpr bool polled = false; } q;
  static constexpr int num_heads = 2;
  static constexpr int num_kv_heads = 1;
  static constexpr int head_dim = 64;
  static constexpr float eps = (float)1e-06;
  static constexpr int tile_m = 1;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C2(const Step& step_, const u64* args_) : s(step_), args(args_) {
    q_in.data = (const bf16*)(args[0]);
    q_in.dim0 = s.symbol(0);
    k_in.data = (const bf16*)(args[1]);
    k_in.dim0 = s.symbol(0);
    v_in.data = (const bf16*)(args[2]);
    v_in.dim0 = s.symbol(0);
    pos.data = (const int*)((u64)s.staged + args[3]);
    pos.dim0 = s.symbol(0);
    slot.data = (const int*)((u64)s.staged + args[4]);
    slot.dim0 = s.symbol(0);
    rope.data = (const float*)(args[5]);
    q_norm.data = (const bf16*)(args[6]);
    k_norm.data = (const bf16*)(args[7]);
    k_cache.data = (bf16*)(args[8]);
    v_cache.data = (bf16*)(args[9]);
    q.data = (bf16*)(args[10]);
    q.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = rope_append_op<C2>::RUNS;
  static constexpr bool STREAMED = false, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = true, NOTIFIES_VARY = true;
  static constexpr bool WAITS = true, NOTIFIES = true;
  __device__ __forceinline__ int last_extent() const { return 1; }
  __device__ __forceinline__ int tasks() const { return s.symbol(0); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 1; r /= 1;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[13] + (int)args[14] * s.symbol(0) + (int)args[15] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
    #pragma unroll 1
    for (int c0 = ev_max((x.v[0] >> 3), 0), end0 = ev_min(ev_min(((x.v[0] >> 3) + 1), ((s.symbol(0) + 7) >> 3)), ((s.symbol(0) + 7) >> 3)); c0 < end0; ++c0) {
    #pragma unroll 1
    for (int c1 = ev_max(2 * x.v[1], 0), end1 = ev_min((2 * x.v[1] + 2), 4); c1 < end1; ++c1) {
    k.add((u32)args[11] + (c0 * 4 + c1), 8);
    }}
    #pragma unroll 1
    for (int c0 = ev_max((x.v[0] >> 3), 0), end0 = ev_min(ev_min(((x.v[0] >> 3) + 1), ((s.symbol(0) + 7) >> 3)), ((s.symbol(0) + 7) >> 3)); c0 < end0; ++c0) {
    { const int c1 = (x.v[1] + 2);
    k.add((u32)args[11] + (c0 * 4 + c1), 8);
    }}
    #pragma unroll 1
    for (int c0 = ev_max((x.v[0] >> 3), 0), end0 = ev_min(ev_min(((x.v[0] >> 3) + 1), ((s.symbol(0) + 7) >> 3)), ((s.symbol(0) + 7) >> 3)); c0 < end0; ++c0) {
    { const int c1 = (x.v[1] + 3);
    k.add((u32)args[11] + (c0 * 4 + c1), 8);
    }}
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
    { const int c0 = x.v[1];
    k.add((u32)args[12] + c0, times);
    }
  }
  typedef rope_append_op<C2> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1]); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1]); }
};
// C3: layers.0.attn
struct C3 {
  struct q_t { const bf16* data; int dim0; static constexpr int dim1 = 128; static constexpr int layout = PLAIN; static constexpr bool polled = false; } q;
  struct k_cache_t { const bf16* data; static constexpr int dim0 = 1; static constexpr int dim1 = 128; static constexpr int dim2 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } k_cache;
  struct v_cache_t { const bf16* data; static constexpr int dim0 = 1; static constexpr int dim1 = 128; static constexpr int dim2 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } v_cache;
  struct pos_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } pos;
  struct tile_indptr_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } tile_indptr;
  struct tile_seq_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } tile_seq;
  struct block_table_t { const int* data; static constexpr int dim0 = 2; static constexpr int dim1 = 4; static constexpr bool single = true; static constexpr int layout = PLAIN; static constexpr bool polled = false; } block_table;
  struct y_t { bf16* data; int dim0; static constexpr int dim1 = 128; static constexpr int layout = PLAIN; static constexpr bool polled = false; } y;
  static constexpr int num_heads = 2;
  static constexpr int num_kv_heads = 1;
  static constexpr int head_dim = 64;
  static constexpr int page_size = 16;
  static constexpr int tile_queries = 1;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C3(const Step& step_, const u64* args_) : s(step_), args(args_) {
    q.data = (const bf16*)(args[0]);
    q.dim0 = s.symbol(0);
    k_cache.data = (const bf16*)(args[1]);
    v_cache.data = (const bf16*)(args[2]);
    pos.data = (const int*)((u64)s.staged + args[3]);
    pos.dim0 = s.symbol(0);
    tile_indptr.data = (const int*)((u64)s.staged + args[4]);
    tile_indptr.dim0 = (s.symbol(3) + 1);
    tile_seq.data = (const int*)((u64)s.staged + args[5]);
    tile_seq.dim0 = s.symbol(3);
    block_table.data = (const int*)((u64)s.staged + args[6]);
    y.data = (bf16*)(args[7]);
    y.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = attention_op<C3>::RUNS;
  static constexpr bool STREAMED = false, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = true, NOTIFIES_VARY = false;
  static constexpr bool WAITS = true, NOTIFIES = true;
  __device__ __forceinline__ int last_extent() const { return 1; }
  __device__ __forceinline__ int tasks() const { return s.symbol(3); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 1; r /= 1;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[10] + (int)args[11] * s.symbol(0) + (int)args[12] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
    { const int c0 = x.v[1];
    k.add((u32)args[8] + c0, s.symbol(0));
    }
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
    k.add((u32)args[9] + 0, times);
  }
  typedef attention_op<C3> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1], count); }
};
// C4: layers.0.o
struct C4 {
  struct x_t { const bf16* data; int dim0; static constexpr int dim1 = 128; static constexpr int layout = PLAIN; static constexpr bool polled = false; } x;
  struct w_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int dim1 = 128; static constexpr int layout = PANEL8; static constexpr bool polled = false; } w;
  static constexpr bool has_norm_weight = false;
  static constexpr bool has_rows = false;
  static constexpr bool has_squares = false;
  static constexpr bool has_bias = false;
  static constexpr bool has_residual = true;
  struct residual_t { const bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } residual;
  struct y_t { bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } y;
  static constexpr int activation = 0;
  static constexpr float eps = (float)0.0;
  static constexpr int tile_m = 8;
  static constexpr int tile_n = 8;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C4(const Step& step_, const u64* args_) : s(step_), args(args_) {
    x.data = (const bf16*)(args[0]);
    x.dim0 = s.symbol(0);
    w.data = (const bf16*)(args[1]);
    residual.data = (const bf16*)(s.bank + args[2]);
    residual.dim0 = s.symbol(0);
    y.data = (bf16*)(s.bank + args[3]);
    y.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = linear_op<C4>::RUNS;
  static constexpr bool STREAMED = true, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = false, NOTIFIES_VARY = false;
  static constexpr bool WAITS = true, NOTIFIES = false;
  __device__ __forceinline__ int last_extent() const { return 8; }
  __device__ __forceinline__ int tasks() const { return 8 * ((s.symbol(0) + 7) >> 3); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 8; r /= 8;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[5] + (int)args[6] * s.symbol(0) + (int)args[7] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
    k.add((u32)args[4] + 0, s.symbol(3));
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
  }
  typedef linear_op<C4> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void stream(Loader& l, const Coords& x, int count) const {
    linear_op<C4>::stream(*this, l, x.v[0], x.v[1], count);
  }
};
// C5: layers.0.gate_up
struct C5 {
  struct x_t { const bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = true; } x;
  struct w_t { const bf16* data; static constexpr int dim0 = 128; static constexpr int dim1 = 64; static constexpr int layout = PANEL8; static constexpr bool polled = false; } w;
  static constexpr bool has_norm_weight = true;
  struct norm_weight_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } norm_weight;
  static constexpr bool has_rows = false;
  static constexpr bool has_squares = false;
  static constexpr bool has_bias = false;
  static constexpr bool has_residual = false;
  struct y_t { bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = true; } y;
  static constexpr int activation = 1;
  static constexpr float eps = (float)1e-06;
  static constexpr int tile_m = 8;
  static constexpr int tile_n = 8;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C5(const Step& step_, const u64* args_) : s(step_), args(args_) {
    x.data = (const bf16*)(s.bank + args[0]);
    x.dim0 = s.symbol(0);
    w.data = (const bf16*)(args[1]);
    norm_weight.data = (const bf16*)(args[2]);
    y.data = (bf16*)(s.bank + args[3]);
    y.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = linear_op<C5>::RUNS;
  static constexpr bool STREAMED = true, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = false, NOTIFIES_VARY = false;
  static constexpr bool WAITS = false, NOTIFIES = false;
  __device__ __forceinline__ int last_extent() const { return 16; }
  __device__ __forceinline__ int tasks() const { return 16 * ((s.symbol(0) + 7) >> 3); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 16; r /= 16;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[4] + (int)args[5] * s.symbol(0) + (int)args[6] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
  }
  typedef linear_op<C5> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void stream(Loader& l, const Coords& x, int count) const {
    linear_op<C5>::stream(*this, l, x.v[0], x.v[1], count);
  }
};
// C6: layers.0.down
struct C6 {
  struct x_t { const bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = true; } x;
  struct w_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int dim1 = 64; static constexpr int layout = PANEL8; static constexpr bool polled = false; } w;
  static constexpr bool has_norm_weight = false;
  static constexpr bool has_rows = false;
  static constexpr bool has_squares = false;
  static constexpr bool has_bias = false;
  static constexpr bool has_residual = true;
  struct residual_t { const bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = true; } residual;
  struct y_t { bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } y;
  static constexpr int activation = 0;
  static constexpr float eps = (float)0.0;
  static constexpr int tile_m = 8;
  static constexpr int tile_n = 8;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C6(const Step& step_, const u64* args_) : s(step_), args(args_) {
    x.data = (const bf16*)(s.bank + args[0]);
    x.dim0 = s.symbol(0);
    w.data = (const bf16*)(args[1]);
    residual.data = (const bf16*)(s.bank + args[2]);
    residual.dim0 = s.symbol(0);
    y.data = (bf16*)(args[3]);
    y.dim0 = s.symbol(0);
  }
  static constexpr bool RUNS = linear_op<C6>::RUNS;
  static constexpr bool STREAMED = true, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = false, NOTIFIES_VARY = false;
  static constexpr bool WAITS = false, NOTIFIES = true;
  __device__ __forceinline__ int last_extent() const { return 8; }
  __device__ __forceinline__ int tasks() const { return 8 * ((s.symbol(0) + 7) >> 3); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 8; r /= 8;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[5] + (int)args[6] * s.symbol(0) + (int)args[7] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
    k.add((u32)args[4] + 0, times);
  }
  typedef linear_op<C6> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void stream(Loader& l, const Coords& x, int count) const {
    linear_op<C6>::stream(*this, l, x.v[0], x.v[1], count);
  }
};
// C7: head
struct C7 {
  struct x_t { const bf16* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } x;
  struct w_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int dim1 = 64; static constexpr int layout = PANEL8; static constexpr bool polled = false; } w;
  static constexpr bool has_norm_weight = true;
  struct norm_weight_t { const bf16* data; static constexpr int dim0 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } norm_weight;
  static constexpr bool has_rows = true;
  struct rows_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } rows;
  static constexpr bool has_squares = false;
  static constexpr bool has_bias = false;
  static constexpr bool has_residual = false;
  struct y_t { float* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } y;
  static constexpr int activation = 0;
  static constexpr float eps = (float)1e-06;
  static constexpr int tile_m = 8;
  static constexpr int tile_n = 8;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C7(const Step& step_, const u64* args_) : s(step_), args(args_) {
    x.data = (const bf16*)(args[0]);
    x.dim0 = s.symbol(0);
    w.data = (const bf16*)(args[1]);
    norm_weight.data = (const bf16*)(args[2]);
    rows.data = (const int*)((u64)s.staged + args[3]);
    rows.dim0 = s.symbol(1);
    y.data = (float*)((u64)s.outputs + args[4]);
    y.dim0 = s.symbol(1);
  }
  static constexpr bool RUNS = linear_op<C7>::RUNS;
  static constexpr bool STREAMED = true, AHEAD = false;
  static constexpr int LAST = 1;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = false, NOTIFIES_VARY = false;
  static constexpr bool WAITS = true, NOTIFIES = true;
  __device__ __forceinline__ int last_extent() const { return 8; }
  __device__ __forceinline__ int tasks() const { return 8 * ((s.symbol(1) + 7) >> 3); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[1] = r % 8; r /= 8;
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[7] + (int)args[8] * s.symbol(0) + (int)args[9] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
    k.add((u32)args[5] + 0, 8 * ((s.symbol(0) + 7) >> 3));
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
    { const int c0 = x.v[0];
    k.add((u32)args[6] + c0, times);
    }
  }
  typedef linear_op<C7> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0], x.v[1], count); }
  __device__ __forceinline__ void stream(Loader& l, const Coords& x, int count) const {
    linear_op<C7>::stream(*this, l, x.v[0], x.v[1], count);
  }
};
// C8: sample
struct C8 {
  struct logits_t { const float* data; int dim0; static constexpr int dim1 = 64; static constexpr int layout = PLAIN; static constexpr bool polled = false; } logits;
  struct row_seq_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } row_seq;
  struct row_pos_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } row_pos;
  struct temperature_t { const float* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } temperature;
  struct top_k_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } top_k;
  struct top_p_t { const float* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } top_p;
  struct seed_t { const i64* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } seed;
  struct num_logprobs_t { const int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } num_logprobs;
  static constexpr bool has_best = false;
  static constexpr bool has_sums = false;
  struct tokens_t { int* data; static constexpr int dim0 = 2; static constexpr int dim1 = 65; static constexpr bool single = false; static constexpr int layout = PLAIN; static constexpr bool polled = false; } tokens;
  struct next_token_t { int* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } next_token;
  struct logprob_t { float* data; int dim0; static constexpr int layout = PLAIN; static constexpr bool polled = false; } logprob;
  struct top_ids_t { int* data; int dim0; static constexpr int dim1 = 20; static constexpr bool single = false; static constexpr int layout = PLAIN; static constexpr bool polled = false; } top_ids;
  struct top_logprobs_t { float* data; int dim0; static constexpr int dim1 = 20; static constexpr int layout = PLAIN; static constexpr bool polled = false; } top_logprobs;
  static constexpr int max_logprobs = 20;
  const Step& s;
  const u64* args;
  __device__ __forceinline__ C8(const Step& step_, const u64* args_) : s(step_), args(args_) {
    logits.data = (const float*)((u64)s.outputs + args[0]);
    logits.dim0 = s.symbol(1);
    row_seq.data = (const int*)((u64)s.staged + args[1]);
    row_seq.dim0 = s.symbol(2);
    row_pos.data = (const int*)((u64)s.staged + args[2]);
    row_pos.dim0 = s.symbol(2);
    temperature.data = (const float*)((u64)s.staged + args[3]);
    temperature.dim0 = s.symbol(2);
    top_k.data = (const int*)((u64)s.staged + args[4]);
    top_k.dim0 = s.symbol(2);
    top_p.data = (const float*)((u64)s.staged + args[5]);
    top_p.dim0 = s.symbol(2);
    seed.data = (const i64*)((u64)s.staged + args[6]);
    seed.dim0 = s.symbol(2);
    num_logprobs.data = (const int*)((u64)s.staged + args[7]);
    num_logprobs.dim0 = s.symbol(2);
    tokens.data = (int*)(args[8]);
    next_token.data = (int*)((u64)s.outputs + args[9]);
    next_token.dim0 = s.symbol(2);
    logprob.data = (float*)((u64)s.outputs + args[10]);
    logprob.dim0 = s.symbol(2);
    top_ids.data = (int*)((u64)s.outputs + args[11]);
    top_ids.dim0 = s.symbol(2);
    top_logprobs.data = (float*)((u64)s.outputs + args[12]);
    top_logprobs.dim0 = s.symbol(2);
  }
  static constexpr bool RUNS = sample_op<C8>::RUNS;
  static constexpr bool STREAMED = false, AHEAD = false;
  static constexpr int LAST = 0;
  static constexpr bool ENTERS = false;
  static constexpr bool WAITS_VARY = true, NOTIFIES_VARY = false;
  static constexpr bool WAITS = true, NOTIFIES = false;
  __device__ __forceinline__ int last_extent() const { return s.symbol(2); }
  __device__ __forceinline__ int tasks() const { return s.symbol(2); }
  __device__ __forceinline__ Coords coords(u32 r) const {
    Coords x = {{0, 0, 0, 0}};
    x.v[0] = r;
    return x;
  }
  __device__ __forceinline__ Share share(int worker, int tasks) const {
    return block_share<WORKERS>(worker, tasks, (int)args[14] + (int)args[15] * s.symbol(0) + (int)args[16] * s.symbol(3));
  }
  __device__ __forceinline__ void waits(Waiter& k, const Coords& x) const {
    #pragma unroll 1
    for (int c0 = ev_max((x.v[0] >> 3), 0), end0 = ev_min(ev_min(((s.symbol(1) + 7) >> 3), ((x.v[0] >> 3) + 1)), ((s.symbol(1) + 7) >> 3)); c0 < end0; ++c0) {
    k.add((u32)args[13] + c0, 8);
    }
  }
  __device__ __forceinline__ void notifies(Notifier& k, const Coords& x, int times) const {
  }
  typedef sample_op<C8> op_t;
  __device__ __forceinline__ void prefetch(op_t& op, Worker& w, const Coords& x, int count) const { op.prefetch(*this, w, x.v[0]); }
  __device__ __forceinline__ void run(op_t& op, Worker& w, const Coords& x, int count) const { op.run(*this, w, x.v[0]); }
};
__device__ __forceinline__ bool dispatch_load(int cls, const u64* args, const Step& s, Loader& l) {
  switch (cls) {
    case 0: return next_run(C0(s, args), l);
    case 1: return next_run(C1(s, args), l);
    case 2: return next_run(C2(s, args), l);
    case 3: return next_run(C3(s, args), l);
    case 4: return next_run(C4(s, args), l);
    case 5: return next_run(C5(s, args), l);
    case 6: return next_run(C6(s, args), l);
    case 7: return next_run(C7(s, args), l);
    case 8: return next_run(C8(s, args), l);
  }
  return false;
}
__device__ __forceinline__ bool dispatch_consume(int cls, const u64* args, const Step& s, Worker& w) {
  switch (cls) {
    case 0: return consume(C0(s, args), w);
    case 1: return consume(C1(s, args), w);
    case 2: return consume(C2(s, args), w);
    case 3: return consume(C3(s, args), w);
    case 4: return consume(C4(s, args), w);
    case 5: return consume(C5(s, args), w);
    case 6: return consume(C6(s, args), w);
    case 7: return consume(C7(s, args), w);
    case 8: return consume(C8(s, args), w);
  }
  return false;
}
}  // namespace ev
