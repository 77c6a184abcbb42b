// Draws one token from a row of logits; the rules stand in the declaration, reference.py spells them out.
//
// Nothing is sorted but the tokens of one bucket. Scaled logits fall into buckets by their distance from the largest; top_k
// and top_p each end inside one bucket, all before it are kept, all after it dropped, and only this one must be put in order.
#pragma once
#include <algorithm>

#include "../../device/cpu/philox.h"

namespace ev::EV_ISA {

constexpr int kBuckets = 2048;
constexpr int kDrawn = 256;  // tokens whose random numbers are made together

struct Ranked {
  float value;
  int32_t token;
};
// the order of a stable descending sort
inline bool before(Ranked a, Ranked b) { return a.value > b.value || (a.value == b.value && a.token < b.token); }

struct SampleScratch {
  float* scaled;       // [vocab]
  int32_t* count;      // [kBuckets]
  double* mass;        // [kBuckets]
  Ranked* tied;        // [vocab], the tokens of the last bucket
  uint8_t* dropped;    // [vocab], of the last bucket's tokens those that are not kept
  int64_t bytes;

  SampleScratch(int64_t vocab, char* base) {
    char* at = base;
    auto take = [&](int64_t bytes) {
      char* p = at;
      at += round_up(bytes, 64);
      return p;
    };
    scaled = reinterpret_cast<float*>(take(4 * vocab));
    count = reinterpret_cast<int32_t*>(take(4 * kBuckets));
    mass = reinterpret_cast<double*>(take(8 * kBuckets));
    tied = reinterpret_cast<Ranked*>(take(8 * vocab));
    dropped = reinterpret_cast<uint8_t*>(take(vocab));
    bytes = at - base;
  }
};

inline int64_t sample_scratch(const sample_args& a) { return SampleScratch(a.logits.shape[1], nullptr).bytes; }

inline float highest(const float* x, int64_t n) {
  F top[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    EV_UNROLL for (int j = 0; j < 4; j++) top[j] = max(load(x + i + j * L), top[j]);
  float m = largest(max(max(top[0], top[1]), max(top[2], top[3])));
  for (; i < n; i++) m = x[i] > m ? x[i] : m;
  return m;
}

inline int64_t first_of(const float* x, int64_t n, float value) {
  for (int64_t i = 0; i < n; i++)
    if (x[i] == value) return i;
  return 0;
}

// log of the sum of e^(x - top)
inline float log_sum(const float* x, int64_t n, float top) {
  double total = 0;
  constexpr int64_t run = 64 * L;
  for (int64_t i = 0; i < n; i += run) {
    F part[4] = {};
    for (int64_t j = i, end = min_of(i + run, n); j < end; j += L)
      part[j / L % 4] += end - j >= L ? exp(load(x + j) - splat(top))
                                      : select(lanes() < int32_t(end - j), exp(load(x + j, end - j) - splat(top)), F{});
    total += sum((part[0] + part[1]) + (part[2] + part[3]));
  }
  return float(std::log(total));
}

// The set that top_k and top_p leave: buckets before `last`, and in it the tokens that are not `dropped`.
struct Kept {
  float top, width;  // buckets per unit of scaled logit
  int last;

  int bucket(float x) const {
    const float b = (top - x) * width;
    return b < kBuckets - 1 ? int(b) : kBuckets - 1;
  }
};

inline Kept keep(SampleScratch& s, int64_t vocab, int64_t top_k, float top_p, float top) {
  // beyond 64 below the top nothing has mass; the last bucket takes all of it
  Kept kept{top, kBuckets / 64.0f, kBuckets};
  std::memset(s.dropped, 0, size_t(vocab));
  const bool cut = top_k > 0 && top_k < vocab;
  if (!cut && !(top_p < 1)) return kept;
  if (cut) {
    // narrow buckets where the tokens are: they need only reach as far as the k-th
    float low = INFINITY;
    for (int64_t i = 0; i < vocab; i++) low = s.scaled[i] < low ? s.scaled[i] : low;
    if (top - low > 0 && top - low < 64) kept.width = kBuckets / (top - low);
  }
  std::memset(s.count, 0, 4 * kBuckets);
  for (int64_t i = 0; i < vocab; i++) s.count[kept.bucket(s.scaled[i])]++;

  // the tokens of bucket b that are still kept, in order
  auto ordered = [&](int b) {
    int64_t n = 0;
    for (int64_t i = 0; i < vocab; i++)
      if (kept.bucket(s.scaled[i]) == b && !s.dropped[i]) s.tied[n++] = {s.scaled[i], int32_t(i)};
    std::sort(s.tied, s.tied + n, before);
    return n;
  };
  if (cut) {
    int64_t left = top_k;
    int b = 0;
    while (left > s.count[b]) left -= s.count[b++];
    const int64_t n = ordered(b);
    for (int64_t i = left; i < n; i++) s.dropped[s.tied[i].token] = 1;
    kept.last = b;
  }
  if (top_p < 1) {
    std::memset(s.mass, 0, 8 * kBuckets);
    for (int64_t i = 0; i < vocab; i++) {
      const int b = kept.bucket(s.scaled[i]);
      if (b <= kept.last && !s.dropped[i]) s.mass[b] += std::exp(double(s.scaled[i] - top));
    }
    double whole = 0, sum = 0;
    for (int b = 0; b < kBuckets; b++) whole += s.mass[b];
    const double wanted = double(top_p) * whole;
    int b = 0;
    while (b < min_of(kept.last, kBuckets - 1) && sum + s.mass[b] < wanted) sum += s.mass[b++];
    const int64_t n = ordered(b);
    int64_t i = 0;
    while (i < n && (sum += std::exp(double(s.tied[i].value - top))) < wanted) i++;
    for (i++; i < n; i++) s.dropped[s.tied[i].token] = 1;
    kept.last = b;
  }
  return kept;
}

inline int64_t draw(SampleScratch& s, const float* logits, int64_t vocab, float temperature, int64_t top_k, float top_p,
                    int64_t seed, int64_t position) {
  for (int64_t i = 0; i < vocab; i += L) store(s.scaled + i, load(logits + i, vocab - i) / splat(temperature), vocab - i);
  const float top = highest(s.scaled, vocab);
  const Kept kept = keep(s, vocab, top_k, top_p, top);
  int64_t best = 0;
  float record = -INFINITY;
  uint32_t random[kDrawn];
  for (int64_t i0 = 0; i0 < vocab; i0 += kDrawn) {
    const int64_t n = min_of(kDrawn, vocab - i0);
    philox(uint32_t(i0), n, uint32_t(position), uint64_t(seed), random);
    for (int64_t i = 0; i < n; i++) {
      const float x = s.scaled[i0 + i];
      if (s.dropped[i0 + i] || kept.bucket(x) > kept.last) continue;
      const float u = (float(random[i] >> 9) + 0.5f) * 0x1p-23f;
      const float noisy = x - std::log(-std::log(u));
      if (noisy > record) record = noisy, best = i0 + i;
    }
  }
  return best;
}

// the n largest logits, in order
inline void best_of(const float* logits, int64_t vocab, int64_t n, Ranked* best) {
  int64_t have = 0;
  for (int64_t i = 0; i < vocab; i++) {
    const Ranked x{logits[i], int32_t(i)};
    if (have == n && !before(x, best[n - 1])) continue;
    int64_t at = have < n ? have++ : n - 1;
    for (; at > 0 && before(x, best[at - 1]); at--) best[at] = best[at - 1];
    best[at] = x;
  }
}

inline void sample_task(const sample_args& a, const sample_coords& c, Scratch scratch) {
  const int64_t vocab = a.logits.shape[1], r = c.r, width = a.max_logprobs;
  const float* logits = a.logits.as<const float>() + r * vocab;
  const int64_t position = a.row_pos.as<const int32_t>()[r] + 1;
  const float temperature = a.temperature.as<const float>()[r];
  const float top = highest(logits, vocab);
  SampleScratch s(vocab, scratch.data);
  const int64_t token = temperature == 0
                            ? first_of(logits, vocab, top)
                            : draw(s, logits, vocab, temperature, a.top_k.as<const int32_t>()[r],
                                   a.top_p.as<const float>()[r], a.seed.as<const int64_t>()[r], position);
  a.tokens.as<int32_t>()[a.row_seq.as<const int32_t>()[r] * a.tokens.shape[1] + position] = int32_t(token);
  a.next_token.as<int32_t>()[r] = int32_t(token);

  const float norm = top + log_sum(logits, vocab, top);
  a.logprob.as<float>()[r] = logits[token] - norm;
  const int64_t n = min_of(min_of(a.num_logprobs.as<const int32_t>()[r], width), vocab);
  if (n > 0) best_of(logits, vocab, n, s.tied);
  for (int64_t i = 0; i < width; i++) {
    a.top_ids.as<int32_t>()[r * width + i] = i < n ? s.tied[i].token : 0;
    a.top_logprobs.as<float>()[r * width + i] = i < n ? s.tied[i].value - norm : 0;
  }
}

}  // namespace ev::EV_ISA
