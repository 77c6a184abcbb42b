// sample on a GPU: one row a task, the whole block on it.
//
// Tokens are ordered by (scaled logit descending, index ascending). A float maps to an unsigned key of the same order, so
// the k-th largest, and the point where probabilities reach top_p, are found digit by digit: 256 counters (or sums of
// fixed-point probabilities) a pass, four passes. Integer sums make the result independent of the order of additions.
#pragma once

namespace ev {

// Philox4x32-10 (Salmon et al., 2011), first word of the block
__device__ __forceinline__ u32 philox_word(u32 c0, u32 c1, u32 k0, u32 k1) {
  u32 c2 = 0, c3 = 0;
  #pragma unroll
  for (int i = 0; i < 10; ++i) {
    const u32 h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0; c1 = l1; c2 = h0 ^ c3 ^ k1; c3 = l0;
    k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
  }
  return c0;
}

template <class A>
struct sample_op : Stateless {
  static constexpr bool RUNS = false;
  static constexpr int V = A::logits_t::dim1, TOP = A::max_logprobs;
  static constexpr int pieces() {
    if constexpr (A::has_best) return A::best_t::dim1;
    return 0;
  }
  static constexpr int PIECES = pieces();

  struct Shared {
    u64 bins[256];
    u64 words[WARPS];
    double sums[WARPS];
    u64 above;
    u32 digit;
  };

  // the largest of the block's words, known to all
  static __device__ __forceinline__ u64 block_max(Worker& w, Shared* s, u64 v) {
    #pragma unroll
    for (int o = 16; o; o >>= 1) { const u64 x = __shfl_xor_sync(~0u, v, o); v = x > v ? x : v; }
    w.sync();
    if (w.lane == 0) s->words[w.warp] = v;
    w.sync();
    #pragma unroll
    for (int i = 0; i < WARPS; ++i) v = s->words[i] > v ? s->words[i] : v;
    return v;
  }

  // larger means earlier in the order: key, then the complement of the index
  static __device__ __forceinline__ u64 rank(float v, int i) { return (u64)order_key(v) << 32 | (u32)~i; }
  static __device__ __forceinline__ int rank_index(u64 r) { return (int)~(u32)r; }

  static __device__ __forceinline__ float key_value(u32 k) { return __uint_as_float(k & 0x80000000u ? k ^ 0x80000000u : ~k); }

  // The smallest rank of the shortest prefix of the order, among ranks >= floor, whose masses add up to `target`.
  template <class Mass>
  static __device__ u64 cut(Worker& w, Shared* s, const float* x, float t, u64 floor, u64 target, Mass mass) {
    u64 prefix = 0, above = 0;  // digits found so far; mass of larger ranks
    for (int shift = 56; shift >= 0; shift -= 8) {
      for (int b = w.tid; b < 256; b += CONSUMERS) s->bins[b] = 0;
      w.sync();
      for (int i = w.tid; i < V; i += CONSUMERS) {
        const float v = x[i] / t;
        const u64 r = rank(v, i);
        if (r >= floor && (shift == 56 || (r >> (shift + 8)) == prefix)) atomicAdd((unsigned long long*)&s->bins[(r >> shift) & 255], mass(v));
      }
      w.sync();
      if (w.tid == 0) {
        int b = 255;
        while (b > 0 && above + s->bins[b] < target) above += s->bins[b--];
        s->digit = b;
        s->above = above;
      }
      w.sync();
      prefix = prefix << 8 | s->digit;
      above = s->above;
      w.sync();
    }
    return prefix;
  }

  __device__ __forceinline__ void run(const A& a, Worker& w, int r) {
    Shared* s = (Shared*)w.scratch;
    const float* x = a.logits.data + (i64)r * V;
    const float t = a.temperature.data[r];
    const int position = a.row_pos.data[r] + 1, seq = a.row_seq.data[r];
    u64 best = 0;
    float2 first = make_float2(0.f, 0.f);  // this thread's first part of the sum, asked for beside the best
    const float2* parts = nullptr;
    if constexpr (A::has_best) {
      parts = (const float2*)a.sums.data + (i64)r * PIECES;
      if (w.tid < PIECES) first = parts[w.tid];
      for (int i = w.tid; i < PIECES; i += CONSUMERS) {
        const u64 k = (u64)a.best.data[(i64)r * PIECES + i] ^ 0x8000000000000000ull;
        best = k > best ? k : best;
      }
    } else {
      for (int i = w.tid; i < V; i += CONSUMERS) { const u64 k = rank(x[i], i); best = k > best ? k : best; }
    }
    best = block_max(w, s, best);
    const float top = key_value((u32)(best >> 32));
    double sum = 0;
    if constexpr (A::has_best) {
      for (int i = w.tid; i < PIECES; i += CONSUMERS) { const float2 p = i == w.tid ? first : parts[i]; sum += (double)p.y * (double)expf(p.x - top); }
    } else {
      for (int i = w.tid; i < V; i += CONSUMERS) sum += (double)expf(x[i] - top);
    }
    #pragma unroll
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    w.sync();
    if (w.lane == 0) s->sums[w.warp] = sum;
    w.sync();
    sum = 0;
    for (int i = 0; i < WARPS; ++i) sum += s->sums[i];
    const float normalizer = top + logf((float)sum);
    if (!(fabsf(normalizer) < 3.4e38f)) {  // no distribution: logits that are no numbers, or infinite
      if (w.tid == 0) {
        a.tokens.data[(i64)seq * A::tokens_t::dim1 + position] = 0;
        a.next_token.data[r] = -1;
        a.logprob.data[r] = __int_as_float(0x7fc00000);
      }
      if (w.tid < TOP) { a.top_ids.data[(i64)r * TOP + w.tid] = 0; a.top_logprobs.data[(i64)r * TOP + w.tid] = 0.f; }
      return;
    }
    const int token = t == 0.f ? rank_index(best) : draw(a, w, s, x, t, r, position, top / t);
    if (w.tid == 0) {
      a.tokens.data[(i64)seq * A::tokens_t::dim1 + position] = token;
      a.next_token.data[r] = token;
      a.logprob.data[r] = (t == 0.f ? top : x[token]) - normalizer;
    }
    const int wanted = a.num_logprobs.data[r];
    if (wanted == 0) {
      if (w.tid < TOP) { a.top_ids.data[(i64)r * TOP + w.tid] = 0; a.top_logprobs.data[(i64)r * TOP + w.tid] = 0.f; }
      return;
    }
    u64 limit = ~0ull;
    for (int n = 0; n < TOP; ++n) {
      if (n < wanted) {
        u64 k = 0;
        for (int i = w.tid; i < V; i += CONSUMERS) { const u64 c = rank(x[i], i); if (c < limit && c > k) k = c; }
        limit = block_max(w, s, k);
      }
      if (w.tid == 0) {
        a.top_ids.data[(i64)r * TOP + n] = n < wanted ? rank_index(limit) : 0;
        a.top_logprobs.data[(i64)r * TOP + n] = n < wanted ? x[rank_index(limit)] - normalizer : 0.f;
      }
    }
  }

  static __device__ __forceinline__ int draw(const A& a, Worker& w, Shared* s, const float* x, float t, int r, int position, float top) {
    u64 floor = 0;
    const int k = a.top_k.data[r];
    if (k > 0 && k < V) floor = cut(w, s, x, t, 0, (u64)k, [](float) { return 1ull; });
    const float p = a.top_p.data[r];
    if (p < 1.f) {
      auto mass = [top](float v) { return (unsigned long long)(exp((double)(v - top)) * 1099511627776.0); };  // 2^40
      u64 part = 0;
      for (int i = w.tid; i < V; i += CONSUMERS) { const float v = x[i] / t; if (rank(v, i) >= floor) part += mass(v); }
      if (w.tid == 0) s->above = 0;
      w.sync();
      atomicAdd((unsigned long long*)&s->above, part);
      w.sync();
      const u64 target = (u64)((double)p * (double)s->above);
      w.sync();
      floor = cut(w, s, x, t, floor, target > 0 ? target : 1, mass);
    }
    const u64 seed = (u64)a.seed.data[r];
    u64 best = 0;
    for (int i = w.tid; i < V; i += CONSUMERS) {
      const float v = x[i] / t;
      if (rank(v, i) < floor) continue;
      const u32 bits = philox_word((u32)i, (u32)position, (u32)seed, (u32)(seed >> 32)) >> 9;
      const float u = ((float)bits + 0.5f) * 1.1920928955078125e-07f;  // 2^-23: exact, inside (0, 1)
      const u64 c = rank(v - logf(-logf(u)), i);
      best = c > best ? c : best;
    }
    return rank_index(block_max(w, s, best));
  }
};

}  // namespace ev
