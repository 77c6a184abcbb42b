// rope_append on a GPU: some lanes a head vector, 16 bytes of its first half and their partners of the second half in each, so
// that a rotation needs no other lane. All that a warp's vectors read is asked for before the first of it is used. Heads whose
// halves aren't pieces of 16 bytes go by elements, a warp a vector.
#pragma once

namespace ev {

// 16 bytes as numbers
__device__ __forceinline__ void unpack_16(const uint4& p, float (&v)[8]) {
  v[0] = low_half(p.x); v[1] = high_half(p.x); v[2] = low_half(p.y); v[3] = high_half(p.y);
  v[4] = low_half(p.z); v[5] = high_half(p.z); v[6] = low_half(p.w); v[7] = high_half(p.w);
}
template <int N>
__device__ __forceinline__ void put_halves(bf16* to, const float (&v)[N]) {
  u32 two[N / 2];
  #pragma unroll
  for (int i = 0; i < N / 2; ++i) two[i] = pack_halves(v[2 * i], v[2 * i + 1]);
  if constexpr (N == 4) *(uint2*)to = make_uint2(two[0], two[1]);
  else *(uint4*)to = make_uint4(two[0], two[1], two[2], two[3]);
}
// N numbers from 16-byte aligned memory that no task writes
template <int N>
__device__ __forceinline__ void get(const float* from, float (&v)[N]) {
  #pragma unroll
  for (int i = 0; i < N / 4; ++i) {
    const float4 f = __ldg((const float4*)from + i);
    v[4 * i] = f.x; v[4 * i + 1] = f.y; v[4 * i + 2] = f.z; v[4 * i + 3] = f.w;
  }
}
template <int N>
__device__ __forceinline__ void get(const bf16* from, float (&v)[N]) {
  #pragma unroll
  for (int i = 0; i < N / 4; ++i) {
    const uint2 p = __ldg((const uint2*)from + i);
    v[4 * i] = low_half(p.x); v[4 * i + 1] = high_half(p.x); v[4 * i + 2] = low_half(p.y); v[4 * i + 3] = high_half(p.y);
  }
}

template <class A>
struct rope_append_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int D = A::head_dim, HALF = D / 2, GROUP = A::num_heads / A::num_kv_heads, PARTS = GROUP + 2;
  static constexpr int SLOTS_N = A::k_cache_t::dim1;
  static constexpr int COLUMNS = A::q_in_t::dim1, N = 8;  // elements of a piece
  static constexpr int lanes_of(int pieces) { return pieces <= 1 ? 1 : 2 * lanes_of((pieces + 1) / 2); }
  static constexpr int SPAN = lanes_of(HALF / N);             // lanes of a vector
  static constexpr bool BY_PIECES = HALF % N == 0 && SPAN <= 32;
  // vectors of these lanes whose loads are under way together: one, where that is all of a task
  static constexpr int AT_ONCE = A::tile_m * PARTS * SPAN <= CONSUMERS ? 1 : 4;

  // what a vector is: one of the group's queries, the key, or the value, which is copied as it is
  struct Vector {
    int token, part;
    __device__ __forceinline__ Vector(int first, int i) : token(first + i / PARTS), part(i % PARTS) {}
    __device__ __forceinline__ bool is_query() const { return part < GROUP; }
    __device__ __forceinline__ bool is_value() const { return part == GROUP + 1; }
    __device__ __forceinline__ int column(int h) const {
      return (is_query() ? h * GROUP + part : A::num_heads + (is_value() ? A::num_kv_heads : 0) + h) * D;
    }
    __device__ __forceinline__ bf16* target(const A& a, int h) const {
      if (is_query()) return a.q.data + (i64)token * A::q_t::dim1 + (h * GROUP + part) * D;
      return (is_value() ? a.v_cache.data : a.k_cache.data) + ((i64)h * SLOTS_N + a.slot.data[token]) * D;
    }
  };

  __device__ __forceinline__ void run(const A& a, Worker& w, int m, int h) {
    const int first = m * A::tile_m, vectors = ev_min(A::tile_m, a.q.dim0 - first) * PARTS;
    if constexpr (BY_PIECES) {
      constexpr int EACH = 32 / SPAN * AT_ONCE;  // vectors of a warp
      for (int i = w.warp * EACH; i < vectors; i += WARPS * EACH) by_pieces(a, w, first, vectors, h, i + w.lane / SPAN);
    } else {
      for (int i = w.warp; i < vectors; i += WARPS) by_elements(a, w, Vector(first, i), h);
    }
  }

  // Vector i of the task, and others behind it. Lanes without one do as another lane does, but for the stores: loads inside of
  // branches would make the compiler keep what they bring in local memory.
  static __device__ __forceinline__ void by_pieces(const A& a, const Worker& w, int first, int vectors, int h, int i) {
    const int e = ev_min(w.lane % SPAN * N, HALF - N);
    uint4 lo[AT_ONCE], hi[AT_ONCE];
    #pragma unroll
    for (int n = 0; n < AT_ONCE; ++n) {
      const Vector v(first, ev_min(i + n * (32 / SPAN), vectors - 1));
      const bf16* const x = a.q_in.data + (i64)v.token * COLUMNS + v.column(h) + e;
      lo[n] = load_weak_16(x);
      hi[n] = load_weak_16(x + HALF);
    }
    #pragma unroll
    for (int n = 0; n < AT_ONCE; ++n) {
      const int at = i + n * (32 / SPAN);
      const Vector v(first, ev_min(at, vectors - 1));
      float x[N], y[N], c[N], s[N], gx[N], gy[N], square = 0.f;
      const float* const rope = a.rope.data + (i64)a.pos.data[v.token] * D + e;
      get(rope, c);
      get(rope + HALF, s);
      if constexpr (A::has_q_norm) {
        const bf16* const g = (v.is_query() ? a.q_norm.data : a.k_norm.data) + e;
        get(g, gx);
        get(g + HALF, gy);
      }
      unpack_16(lo[n], x);
      unpack_16(hi[n], y);
      if constexpr (A::has_q_norm) {
        #pragma unroll
        for (int j = 0; j < N; ++j) square += x[j] * x[j] + y[j] * y[j];
        if (SPAN * N > HALF && w.lane % SPAN * N >= HALF) square = 0.f;
        #pragma unroll
        for (int o = SPAN / 2; o; o >>= 1) square += __shfl_xor_sync(~0u, square, o);
        const float scale = rsqrtf(square * (1.f / D) + A::eps);
        #pragma unroll
        for (int j = 0; j < N; ++j) {
          x[j] *= v.is_value() ? 1.f : scale * gx[j];
          y[j] *= v.is_value() ? 1.f : scale * gy[j];
        }
      }
      #pragma unroll
      for (int j = 0; j < N; ++j) {
        const float turned = x[j] * c[j] - y[j] * s[j];
        y[j] = v.is_value() ? y[j] : y[j] * c[j] + x[j] * s[j];
        x[j] = v.is_value() ? x[j] : turned;
      }
      if (at >= vectors || (SPAN * N > HALF && w.lane % SPAN * N >= HALF)) continue;
      bf16* const to = v.target(a, h) + e;
      put_halves(to, x);
      put_halves(to + HALF, y);
    }
  }
  static __device__ __forceinline__ float value(const A& a, int token, int column) {
    return to_float(a.q_in.data[(i64)token * COLUMNS + column]);
  }
  // lane l rotates the pairs l, l + 32, ...
  static __device__ __forceinline__ void by_elements(const A& a, const Worker& w, const Vector& v, int h) {
    constexpr int PAIRS = (HALF + 31) / 32;
    const int x = v.column(h);
    bf16* const to = v.target(a, h);
    if (v.is_value()) {
      for (int e = w.lane; e < D; e += 32) put(to + e, value(a, v.token, x + e));
      return;
    }
    float lo[PAIRS], hi[PAIRS], square = 0.f;
    #pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
      const int e = w.lane + p * 32;
      lo[p] = e < HALF ? value(a, v.token, x + e) : 0.f;
      hi[p] = e < HALF ? value(a, v.token, x + e + HALF) : 0.f;
      square += lo[p] * lo[p] + hi[p] * hi[p];
    }
    if constexpr (A::has_q_norm) {
      const float s = rsqrtf(warp_sum(square) * (1.f / D) + A::eps);
      const bf16* g = v.is_query() ? a.q_norm.data : a.k_norm.data;
      #pragma unroll
      for (int p = 0; p < PAIRS; ++p) {
        const int e = w.lane + p * 32;
        if (e < HALF) { lo[p] *= s * to_float(g[e]); hi[p] *= s * to_float(g[e + HALF]); }
      }
    }
    const float* rope = a.rope.data + (i64)a.pos.data[v.token] * D;
    #pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
      const int e = w.lane + p * 32;
      if (e < HALF) {
        const float c = rope[e], s = rope[e + HALF];
        put(to + e, lo[p] * c - hi[p] * s);
        put(to + e + HALF, hi[p] * c + lo[p] * s);
      }
    }
  }
};

}  // namespace ev
