// sample on a GPU: one row a task, the whole block on it.
//
// Tokens are ordered by (scaled logit descending, index ascending): by their ranks, an order-preserving key of the float before
// the complement of the index. The vocabulary is never sorted: of most rows few tokens matter, these are gathered in shared
// memory, and put in order there if their order matters.
//
//   - a draw from all tokens: Gumbel noise is below 16.64, so whoever is further behind the best token can't win;
//   - top_k: the k-th largest of the pieces' largest logits (`sample_stats` has them) is no larger than the k-th largest logit;
//   - top_p alone, or a large top_k: probabilities (and numbers of tokens) are added up in 256 buckets of distance from the
//     best, and only the bucket in which the prefix ends is put in order. If even this is too full, by 256 buckets of ranks, again.
//
// Probabilities are added as integers, in units of 2^-40 of the best one, so that the order of additions doesn't matter.
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
  static constexpr int PIECE = 1152, PIECES = (V + PIECE - 1) / PIECE;  // as in sample_stats
  static constexpr int pieces_given() {
    if constexpr (A::has_best) return A::best_t::dim1;
    return PIECES;
  }
  static_assert(pieces_given() == PIECES, "sample and sample_stats must cut rows into the same pieces");

  struct Shared {
    u64 bins[256];
    u64 words[WARPS];
    double sums[WARPS];
    u64 above, cut;
    u32 counts[256];
    u32 bin;
    int count;
    float least;
    float tops[PIECES];  // the largest logit of each piece
  };
  static constexpr int ROOM = (SCRATCH - (int)(sizeof(Shared) + 8)) / 8;
  static constexpr int floor_power(int n) { return n < 2 ? n : 2 * floor_power(n / 2); }
  static constexpr int MOST = floor_power(ROOM);  // tokens of the list
  static_assert(MOST >= 512, "sample needs scratch memory for its statistics and 512 tokens");
  static __device__ __forceinline__ u64* list(Shared* s) { return (u64*)(((u64)(s + 1) + 7) & ~7ull); }

  // larger means earlier in the order
  static __device__ __forceinline__ u64 rank(float v, int i) { return (u64)order_key(v) << 32 | (u32)~i; }
  static __device__ __forceinline__ int rank_index(u64 r) { return (int)~(u32)r; }
  static __device__ __forceinline__ float rank_value(u64 r) {
    const u32 k = (u32)(r >> 32);
    return __uint_as_float(k & 0x80000000u ? k ^ 0x80000000u : ~k);
  }

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
  static __device__ __forceinline__ u64 block_sum(Worker& w, Shared* s, u64 v) {
    #pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    w.sync();
    if (w.lane == 0) s->words[w.warp] = v;
    w.sync();
    v = 0;
    #pragma unroll
    for (int i = 0; i < WARPS; ++i) v += s->words[i];
    return v;
  }

  // ---- walks over a row

  // four logits from number i on; beyond the row some of its last ones again
  static __device__ __forceinline__ void load_four(const float* x, int i, float* v) {
    if constexpr (V % 4 == 0) {
      const uint4 four = load_weak_16(x + ev_min(i, V - 4));
      v[0] = __uint_as_float(four.x); v[1] = __uint_as_float(four.y); v[2] = __uint_as_float(four.z); v[3] = __uint_as_float(four.w);
    } else {
      #pragma unroll
      for (int e = 0; e < 4; ++e) v[e] = x[ev_min(i + e, V - 1)];
    }
  }
  // f(four logits, index of the first) for those from `first` on, `apart` between them, below `end`, with three on their way. (A loop
  // whose turns weren't one after another would be as many times as long, and this code runs once a step.)
  template <class F>
  static __device__ __forceinline__ void by_fours(const float* x, int first, int apart, int end, const F& f) {
    float v[4][4];
    #pragma unroll
    for (int n = 0; n < 3; ++n) load_four(x, first + n * apart, v[n]);
    #pragma unroll 1
    for (int i = first; i < end; i += apart) {
      load_four(x, i + 3 * apart, v[3]);
      f(v[0], i);
      #pragma unroll
      for (int n = 0; n < 12; ++n) v[n / 4][n % 4] = v[n / 4 + 1][n % 4];
    }
  }
  // f(logit, index) for all, by no particular thread
  template <class F>
  static __device__ __forceinline__ void each(const Worker& w, const float* x, const F& f) {
    by_fours(x, w.tid * 4, 4 * CONSUMERS, V, [&](const float (&v)[4], int i) {
      #pragma unroll
      for (int e = 0; e < 4; ++e) if (i + e < V) f(v[e], i + e);
    });
  }
  // f(four logits, index of the first) for all of a piece, by the lanes of a warp in step
  template <class F>
  static __device__ __forceinline__ void each_of_piece(const Worker& w, const float* x, int piece, const F& f) {
    by_fours(x, piece * PIECE + w.lane * 4, 128, (piece + 1) * PIECE, f);
  }

  // Which tokens: ranks from `lo` to `hi`, and, if it isn't negative, in this bucket of distance.
  struct Span {
    u64 lo, hi;
    float top;
    int bucket;
    __device__ __forceinline__ int bucket_of(float v) const { return (int)fminf((top - v) * 16.f, 255.f); }
    __device__ __forceinline__ bool holds(float v, u64 r) const { return r >= lo && r <= hi && (bucket < 0 || bucket_of(v) == bucket); }
  };

  // The ranks of the logits divided by t that the span holds, into the list, in no order: how many they are. More than MOST:
  // they aren't all there.
  static __device__ __forceinline__ int gather(Worker& w, Shared* s, const float* x, float t, const Span& span) {
    if (w.tid == 0) s->count = 0;
    w.sync();
    #pragma unroll 1
    for (int piece = w.warp; piece < PIECES; piece += WARPS) {
      if (rank(s->tops[piece] / t, 0) < span.lo) continue;
      each_of_piece(w, x, piece, [&](const float (&v)[4], int i) {
        float by[4];
        u32 held = 0;
        #pragma unroll
        for (int e = 0; e < 4; ++e) {
          by[e] = v[e] / t;
          if (i + e < V && span.holds(by[e], rank(by[e], i + e))) held |= 1u << e;
        }
        if (!__any_sync(~0u, held)) return;
        const int mine = __popc(held);
        int end = mine;
        #pragma unroll
        for (int o = 1; o < 32; o <<= 1) { const int n = __shfl_up_sync(~0u, end, o); end += w.lane >= o ? n : 0; }
        int base = 0;
        if (w.lane == 31) base = atomicAdd(&s->count, end);
        base = __shfl_sync(~0u, base, 31) + end - mine;
        if (mine == 0 || base + mine > MOST) return;
        #pragma unroll
        for (int e = 0; e < 4; ++e) if (held >> e & 1) list(s)[base++] = rank(by[e], i + e);
      });
    }
    w.sync();
    const int n = s->count;
    w.sync();
    return n;
  }

  // puts the list's n ranks in descending order (bitonic, Batcher, 1968)
  static __device__ __forceinline__ void sort(Worker& w, Shared* s, int n) {
    u64* const all = list(s);
    int size = 2;
    while (size < n) size <<= 1;
    for (int i = n + w.tid; i < size; i += CONSUMERS) all[i] = 0;
    w.sync();
    for (int run = 2; run <= size; run <<= 1) {
      for (int apart = run >> 1; apart; apart >>= 1) {
        for (int i = w.tid; i < size / 2; i += CONSUMERS) {
          const int at = 2 * i - (i & (apart - 1));
          const u64 a = all[at], b = all[at + apart];
          if ((a < b) == ((at & run) == 0)) { all[at] = b; all[at + apart] = a; }
        }
        w.sync();
      }
    }
  }

  // Of 256 bins in their order, the first at which the sum reaches `target`, and what is in the bins before it and in `above`.
  static __device__ __forceinline__ u32 reach(Worker& w, Shared* s, u64 target, u64& above) {
    w.sync();
    if (w.warp == 0) {
      u64 mine = 0, end;
      for (int i = 0; i < 8; ++i) mine += s->bins[w.lane * 8 + i];
      end = mine;
      #pragma unroll
      for (int o = 1; o < 32; o <<= 1) { const u64 n = __shfl_up_sync(~0u, end, o); end += w.lane >= o ? n : 0; }
      u64 before = above + end - mine;
      const u32 reached = __ballot_sync(~0u, above + end >= target);
      if (w.lane == (reached ? __ffs(reached) - 1 : 31)) {
        u32 b = w.lane * 8;
        while (b % 8 < 7 && before + s->bins[b] < target) before += s->bins[b++];
        s->bin = b;
        s->above = before;
      }
    }
    w.sync();
    above = s->above;
    return s->bin;
  }

  // what a cut adds up: tokens, or their probabilities in units of 2^-40 of the best one's
  static __device__ __forceinline__ u64 mass(bool tokens, float v, float top) {
    return tokens ? 1 : (u64)(expf(v - top) * 1099511627776.f);
  }

  // In the sorted list of n, the length of the shortest prefix whose masses and `above` add up to `target`.
  static __device__ __forceinline__ int prefix(Worker& w, Shared* s, int n, u64 above, u64 target, bool tokens, float top) {
    const int each = (n + CONSUMERS - 1) / CONSUMERS;
    u64 sum = 0;
    for (int i = w.tid * each; i < ev_min((w.tid + 1) * each, n); ++i) sum += mass(tokens, rank_value(list(s)[i]), top);
    w.sync();
    s->bins[w.tid] = sum;
    int i = ev_min((int)reach(w, s, target, above) * each, n - 1);
    if (w.tid == 0) {
      while (i < n - 1 && (above += mass(tokens, rank_value(list(s)[i]), top)) < target) ++i;
      s->count = i + 1;
    }
    w.sync();
    const int found = s->count;
    w.sync();
    return found;
  }

  // The bounds of MOST tokens or less among which the prefix of those from `floor` on ends whose masses add up to `target`, and
  // what comes before them.
  static __device__ __forceinline__ Span narrow(Worker& w, Shared* s, const float* x, float t, float top, u64 floor, u64 target, bool tokens, u64& above) {
    static_assert(CONSUMERS == 256, "a thread a bin");
    // by distance first: buckets of ranks would put nearly all tokens into few of them
    Span span = {floor, ~(u64)0, top, -1};
    above = 0;
    for (int shift = 64;;) {
      w.sync();
      s->bins[w.tid] = 0;
      s->counts[w.tid] = 0;
      w.sync();
      each(w, x, [&](float v, int i) {
        v /= t;
        const u64 r = rank(v, i);
        if (!span.holds(v, r)) return;
        const int at = shift == 64 ? span.bucket_of(v) : (int)((span.hi - r) >> shift);
        atomicAdd((unsigned long long*)&s->bins[at], (unsigned long long)mass(tokens, v, top));
        atomicAdd(&s->counts[at], 1u);
      });
      const u32 b = reach(w, s, target, above);
      if (shift == 64) {
        span.bucket = b;
      } else {
        span.hi -= (u64)b << shift;
        const u64 end = span.hi - (((u64)1 << shift) - 1);
        span.lo = end > span.lo && end <= span.hi ? end : span.lo;
      }
      if (s->counts[b] <= MOST) return span;
      shift = ev_max(0, 56 - __clzll((long long)(span.hi - span.lo)));
    }
  }

  // The k-th largest of the pieces' largest logits: no more than the k-th largest of all.
  static __device__ __forceinline__ float least_of(Worker& w, Shared* s, int k) {
    w.sync();
    for (int i = w.tid; i < PIECES; i += CONSUMERS) {
      int larger = 0;
      for (int j = 0; j < PIECES; ++j) larger += s->tops[j] > s->tops[i] || (s->tops[j] == s->tops[i] && j < i);
      if (larger == k - 1) s->least = s->tops[i];
    }
    w.sync();
    return s->least;
  }

  // The tokens that top_k (0: all) and top_p leave of those whose scaled logit is `able` or more, into the list: how many they are.
  // More than MOST: they aren't in the list, but those from rank `floor` on. They are in order if it was cut by k and `ordered`
  // asks for it.
  static __device__ __forceinline__ int select(Worker& w, Shared* s, const float* x, float t, float top, int k, float p, float able, bool ordered, u64& floor) {
    bool quick = k > 0 && (k <= PIECES || V <= MOST), listed = false, tokens = k > 0, more = k > 0 || p < 1.f;
    floor = 0;
    for (int n = 0;;) {
      u64 target = (u64)k, above = 0;
      if (more && !tokens) {
        u64 all = 0;
        if (listed) for (int i = w.tid; i < n; i += CONSUMERS) all += mass(false, rank_value(list(s)[i]), top);
        else each(w, x, [&](float v, int i) { v /= t; if (rank(v, i) >= floor) all += mass(false, v, top); });
        target = (u64)((double)p * (double)block_sum(w, s, all));
        target = target > 0 ? target : 1;
      }
      if (!listed) {
        const u64 least = (u64)order_key(able) << 32;
        Span span = {floor > least ? floor : least, ~(u64)0, top, -1};
        if (more && quick) span.lo = k <= PIECES ? (u64)order_key(least_of(w, s, k) / t) << 32 : 0;
        else if (more) span = narrow(w, s, x, t, top, floor, target, tokens, above);
        n = gather(w, s, x, t, span);
        if (more && quick && n > MOST) { quick = false; continue; }
        if (more || ordered) sort(w, s, n);
      }
      if (!more) return n;
      const int kept = prefix(w, s, n, above, target, tokens, top);
      floor = list(s)[kept - 1];
      listed = listed || quick;
      if (listed) n = kept;
      more = tokens && p < 1.f;
      tokens = quick = false;
      if (!more && listed) return n;
    }
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
      each(w, x, [&](float v, int i) { const u64 k = rank(v, i); best = k > best ? k : best; });
    }
    best = block_max(w, s, best);
    const float top = rank_value(best);
    double sum = 0;
    if constexpr (A::has_best) {
      for (int i = w.tid; i < PIECES; i += CONSUMERS) { const float2 p = i == w.tid ? first : parts[i]; sum += (double)p.y * (double)expf(p.x - top); }
    } else {
      each(w, x, [&](float v, int) { sum += (double)expf(v - top); });
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
    const int wanted = ev_min(a.num_logprobs.data[r], V);
    if (t != 0.f || wanted > 0) set_tops(a, w, s, x, r);
    // first the draw, then the best ones
    #pragma unroll 1
    for (int turn = 0; turn < 2; ++turn) {
      const bool drawing = turn == 0;
      if (drawing ? t == 0.f : wanted == 0) {
        if (drawing) note(a, w, r, seq, position, rank_index(best), top - normalizer);
        else if (w.tid < TOP) { a.top_ids.data[(i64)r * TOP + w.tid] = 0; a.top_logprobs.data[(i64)r * TOP + w.tid] = 0.f; }
        continue;
      }
      const float by = drawing ? t : 1.f;
      const Random random = {(u32)position, (u64)a.seed.data[r]};
      const float largest = top / by, beaten = largest + random.noise(rank_index(best));
      int k = drawing ? a.top_k.data[r] : wanted;
      if (drawing && (k < 0 || k >= V)) k = 0;
      u64 floor;
      // a draw's noise is below 16.64, and what is further behind can't win
      const float able = drawing ? beaten - 16.64f - fabsf(largest) * 1e-6f : __uint_as_float(0xff800000u);
      const int n = select(w, s, x, by, largest, k, drawing ? a.top_p.data[r] : 1.f, able, !drawing, floor);
      if (!drawing) {
        if (w.tid < TOP) {
          const bool there = w.tid < wanted;
          const u64 one = there ? list(s)[w.tid] : 0;
          a.top_ids.data[(i64)r * TOP + w.tid] = there ? rank_index(one) : 0;
          a.top_logprobs.data[(i64)r * TOP + w.tid] = there ? rank_value(one) - normalizer : 0.f;
        }
        continue;
      }
      const int token = n > MOST ? draw_from_row(w, s, x, t, floor, random, beaten) : draw_from_list(w, s, n, random);
      note(a, w, r, seq, position, token, x[token] - normalizer);
    }
  }

  static __device__ __forceinline__ void note(const A& a, const Worker& w, int r, int seq, int position, int token, float logprob) {
    if (w.tid != 0) return;
    a.tokens.data[(i64)seq * A::tokens_t::dim1 + position] = token;
    a.next_token.data[r] = token;
    a.logprob.data[r] = logprob;
  }

  static __device__ __forceinline__ void set_tops(const A& a, Worker& w, Shared* s, const float* x, int r) {
    if constexpr (A::has_best) {
      for (int i = w.tid; i < PIECES; i += CONSUMERS) s->tops[i] = a.sums.data[2 * ((i64)r * PIECES + i)];
    } else {
      #pragma unroll 1
      for (int piece = w.warp; piece < PIECES; piece += WARPS) {
        float top = __uint_as_float(0xff800000u);
        each_of_piece(w, x, piece, [&](const float (&v)[4], int) { top = fmaxf(top, fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]))); });  // beyond the row stands its last part again
        #pragma unroll
        for (int o = 16; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
        if (w.lane == 0) s->tops[piece] = top;
      }
    }
    w.sync();
  }

  // the draw's random numbers: a token's depends on nothing but seed, position and token
  struct Random {
    u32 position;
    u64 seed;
    __device__ __forceinline__ u32 bits(int token) const { return philox_word((u32)token, position, (u32)seed, (u32)(seed >> 32)) >> 9; }
    static __device__ __forceinline__ float noise_of(u32 bits) {
      const float u = ((float)bits + 0.5f) * 1.1920928955078125e-07f;  // 2^-23: exact, inside (0, 1)
      return -logf(-logf(u));
    }
    __device__ __forceinline__ float noise(int token) const { return noise_of(bits(token)); }
  };

  static __device__ __forceinline__ int draw_from_list(Worker& w, Shared* s, int n, const Random& random) {
    u64 best = 0;
    #pragma unroll 1
    for (int i = w.tid; i < n; i += CONSUMERS) {
      const u64 one = list(s)[i];
      const u64 c = rank(rank_value(one) + random.noise(rank_index(one)), rank_index(one));
      best = c > best ? c : best;
    }
    return rank_index(block_max(w, s, best));
  }

  // from all tokens of rank `floor` or more; one of them has the noisy logit `least`
  static __device__ __forceinline__ int draw_from_row(Worker& w, Shared* s, const float* x, float t, u64 floor, const Random& random, float least) {
    u64 best = 0;
    each(w, x, [&](float v, int i) {
      v /= t;
      if (rank(v, i) < floor) return;
      const u32 bits = random.bits(i);
      // the noise of u is at most -log(1 - u): by the power of two alone it is clear for most that they can't win
      if (v + (float)(__clz((1 << 23) - bits) - 7) * 0.693148f < least) return;
      const u64 c = rank(v + Random::noise_of(bits), i);
      best = c > best ? c : best;
      least = fmaxf(least, rank_value(c));
    });
    return rank_index(block_max(w, s, best));
  }
};

}  // namespace ev
