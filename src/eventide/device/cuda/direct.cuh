// Products of up to 16 tokens whose input stands as it is, row by row, and may announce itself: each warp takes its columns of all
// tokens straight into the registers that it multiplies them from. Between the worker that made them and this one there is a store
// and a load, where an event, a copy to shared memory and two barriers take four times as long.
//
// A task is a block of 48 rows of the weight. A chunk of the ring is a line, 128 columns, of a block (wide.cuh), and one warp's: it
// multiplies all 48 rows with the line's 16 tokens. Lines of a block go to the warps in turn, so that with eight of them each has one,
// the same for all blocks of a run. Then all threads add the warps' sums, in ascending order, so a result depends on k alone.
#pragma once

namespace ev {

template <class A, int K>
struct direct_product {
  typedef line_of_weights<A::w_t::layout> Weights;
  typedef typename Weights::Slab Slab;
  typedef typename Weights::Raw Raw;
  static constexpr bool TIGHT = Weights::TIGHT, GATED = A::activation == 1;
  static constexpr int TOKENS = 16, N = A::y_t::dim1, LINES = K / BLOCK, ROWS = A::tile_n, ROW = ROWS + 4;
  static constexpr int PARTS = LINES < WARPS ? LINES : WARPS, PART = TOKENS * ROW * 4;  // sums of a block, and bytes of each
  static constexpr bool STAYS = LINES == WARPS;                                         // a warp's line is the same for all blocks
  // rows of sums that are 16 modulo 32 floats, and 4 more: a warp's stores meet all banks
  static_assert(A::tile_m == TOKENS && (ROWS == DIRECT || !DIRECT) && ROWS % 32 == 16, "a direct product has 16 tokens a task");
  static_assert(K % BLOCK == 0, "a direct product needs k to be a multiple of 128");
  static_assert(!A::has_norm_weight && !A::has_rows && !A::has_squares && !A::has_residual, "a direct product stands alone");
  static_assert(ROWS / 8 * (Weights::BYTES + Weights::TAIL) <= SLOT, "a line of a direct product's block must fit in a slot of the ring");
  static_assert(2 * WARPS * PART <= SCRATCH, "the sums of two blocks must fit in the scratch memory");

  // `line`: of the weight, where this product's k begins
  static __device__ __forceinline__ void stream(const A& a, Loader& l, int n, int count, int line = 0) {
    l.stream_blocks({a.w.maps, n, count, 1, line, LINES, pad_k(A::w_t::dim1) / BLOCK, Weights::BYTES, Weights::TAIL, false});
  }

  // A line of x as B: lane (g, q) has columns 8q .. 8q + 7 of every 32, of tokens g and g + 8. Rows beyond the last are its copies.
  typedef uint4 Columns[2][4];
  static __device__ __forceinline__ const bf16* place(const A& a, const Worker& w, int first, int tokens, int line, int i) {
    return a.x.data + (i64)(first + ev_min(w.lane / 4 + i * 8, tokens - 1)) * A::x_t::dim1 + line * BLOCK + w.lane % 4 * 8;
  }
  // without an order of their own, which would take longer: what isn't there yet is asked for again with one
  static __device__ __forceinline__ void ask(const A& a, const Worker& w, int first, int tokens, int line, Columns& x) {
    #pragma unroll
    for (int i = 0; i < 2; ++i) {
      #pragma unroll
      for (int t = 0; t < 4; ++t) x[i][t] = load_weak_16(place(a, w, first, tokens, line, i) + t * 32);
    }
  }
  static __device__ __forceinline__ void settle(const A& a, const Worker& w, int first, int tokens, int line, Columns& x) {
    if constexpr (A::x_t::polled) settle_together(w, [&] {
      bool missing = false;
      #pragma unroll
      for (int i = 0; i < 8; ++i)
        if (absent(x[i / 4][i % 4])) { x[i / 4][i % 4] = load_16(place(a, w, first, tokens, line, i / 4) + i % 4 * 32); missing = true; }
      return missing;
    });
    w.settled();
  }

  // the warp's chunk `i` of its group's, counted from the kernel's beginning
  static __device__ __forceinline__ u32 await(const Worker& w, int group, u32 i, u32& empty) {
    const u32 told = shared_address((const void*)&w.block->issued[group]);
    // before it has been asked for, its barrier may speak of another warp's chunk of the lap before
    for (u64 began = 0; (int)(load_shared(told) - i) <= 0;) {
      const u64 now = nanoseconds();
      if (began == 0) began = now;
      if (now - began > w.launch.spin_limit) w.block->quit = w.block->late = 1;
      if (w.block->quit == 1) break;
    }
    const u32 slot = group * OWN_SLOTS + i % OWN_SLOTS, full = shared_address(w.block->full) + slot * 8;
    w.await_chunk(full, i / OWN_SLOTS & 1, false);
    empty = full + SLOTS * 8;
    return shared_address(w.ring) + slot * SLOT;
  }

  static __device__ __forceinline__ void multiply(float (&c)[8], const Fragments& f, const Columns& x) {
    #pragma unroll
    for (int i = 0; i < 8; ++i) {
      #pragma unroll
      for (int j = 0; j < 2; ++j) {
        const uint4& v = x[j][i / 2];
        mma_16816((float(&)[4])c[4 * j], f[i][0], f[i][1], f[i][2], f[i][3], i % 2 ? v.z : v.x, i % 2 ? v.w : v.y);
      }
    }
  }

  static __device__ __forceinline__ void run(const A& a, Worker& w, int m, int n, int count) {
    const int first = m * TOKENS, tokens = ev_min(TOKENS, a.y.dim0 - first);
    const int group = w.warp / 4, own = (LINES + 1 - group) / 2;  // chunks of a block that are this group's
    Columns x = {};
    #pragma unroll 1
    for (int b = 0; b < count; ++b) {
      const int begin = (w.warp - w.chunk) & 3;
      float c[ROWS / 16][8] = {};
      #pragma unroll 1
      for (int i = begin; i < own; i += 4) {
        const int line = 2 * i + group;
        const bool anew = !STAYS || b == 0;
        if (anew) ask(a, w, first, tokens, line, x);
        u32 empty;
        const u32 chunk = await(w, group, w.chunk + i, empty);
        if (anew) settle(a, w, first, tokens, line, x);
        #pragma unroll (TIGHT ? 1 : ROWS / 16)
        for (int r = 0; r < ROWS / 16; ++r) {
          Raw raw;
          Slab slab = {};
          Fragments f;
          raw.load(w, chunk + 2 * r * Weights::BYTES, Weights::BYTES);
          if constexpr (TIGHT) slab.read(w, chunk + PANELS * Weights::BYTES + 2 * r * Weights::TAIL, Weights::TAIL);
          #pragma unroll
          for (int t = 0; t < 4; ++t) raw.make(t, slab, f);
          if constexpr (TIGHT) Weights::template place_listed<0, 4>(w, slab, line % 4, f);
          #pragma unroll
          for (int k = 0; k < ROWS / 16; ++k) if (r == k) multiply(c[k], f, x);
        }
        __syncwarp();
        if (w.lane == 0) mbar_arrive(empty);
      }
      w.chunk += own;
      if (b > 0) {  // behind this block's product, so that the ring has room for the next one's weights
        w.sync();
        put(a, w, sums_of(w, b - 1), first, tokens, n + b - 1);
      }
      if (begin < own) lay_down(w, c, shared_address(sums_of(w, b)) + (2 * begin + group) * PART);
    }
    w.sync();
    put(a, w, sums_of(w, count - 1), first, tokens, n + count - 1);
  }
  static __device__ __forceinline__ const float* sums_of(const Worker& w, int block) { return (const float*)(w.scratch + block % 2 * (WARPS * PART)); }

  static __device__ __forceinline__ void lay_down(const Worker& w, const float (&c)[ROWS / 16][8], u32 sums) {
    const u32 to = opaque(sums + (w.lane % 4 * 2 * ROW + w.lane / 4) * 4);
    #pragma unroll
    for (int r = 0; r < ROWS / 16; ++r) {
      #pragma unroll
      for (int i = 0; i < 8; ++i) store_shared(to + ((i / 4 * 8 + (i & 1)) * ROW + r * 16 + (i >> 1 & 1) * 8) * 4, c[r][i]);
    }
  }

  // four rows of one token a thread: sums, or two columns where rows are gate and up by turns
  static __device__ __forceinline__ void put(const A& a, const Worker& w, const float* sums, int first, int tokens, int block) {
    const int token = w.tid / 16, row = w.tid % 16 * 4, n = block * ROWS + row;
    if (token >= tokens || row >= ROWS || n >= (GATED ? 2 * N : N)) return;
    float v[4] = {};
    #pragma unroll
    for (int i = 0; i < PARTS; ++i) {
      const float4 u = *(const float4*)(sums + (i * TOKENS + token) * ROW + row);
      v[0] += u.x; v[1] += u.y; v[2] += u.z; v[3] += u.w;
    }
    if constexpr (A::has_bias) {
      #pragma unroll
      for (int e = 0; e < 4; ++e) v[e] += n + e < (GATED ? 2 * N : N) ? to_float(a.bias.data[n + e]) : 0.f;
    }
    if constexpr (GATED) {
      static_assert(N % 2 == 0, "a direct product with an activation needs an even number of columns");
      *(u32*)(a.y.data + (i64)(first + token) * N + n / 2) = pack_halves(gated(v[0], v[1]), gated(v[2], v[3]));
    } else {
      auto* const y = a.y.data + (i64)(first + token) * N + n;
      if constexpr (N % 4 == 0) {
        put_four(y, v);
      } else {
        #pragma unroll
        for (int e = 0; e < 4; ++e) if (n + e < N) ev::put(y + e, v[e]);
      }
    }
  }
  static __device__ __forceinline__ void put_four(float* y, const float (&v)[4]) { *(float4*)y = make_float4(v[0], v[1], v[2], v[3]); }
  static __device__ __forceinline__ void put_four(bf16* y, const float (&v)[4]) { *(uint2*)y = make_uint2(pack_halves(v[0], v[1]), pack_halves(v[2], v[3])); }
};

}  // namespace ev
