// Draws one token from a row of logits; the rules stand in the declaration, reference.py spells them out.
//
// The vocabulary is never sorted as a whole. The m best tokens are found from the largest of every chunk: the m-th best token
// is no smaller than the m-th largest of these, so few tokens are left to put in order. For top_p alone, a histogram over the
// distance from the largest logit finds the bucket in which the prefix ends, and only this bucket is put in order. A token
// whose random number is too small to win, whatever the logarithms say to the last bit, is passed over without computing them.
#pragma once
#include <algorithm>

#include "../../device/cpu/philox.h"

namespace ev::EV_ISA {

constexpr int64_t kChunk = 64;
constexpr int kBuckets = 2048, kPerUnit = 32;  // buckets in all, and in one unit of scaled logit

struct Ranked {
  float value;
  int32_t token;
};
// the order of a stable descending sort
inline bool before(Ranked a, Ranked b) { return a.value > b.value || (a.value == b.value && a.token < b.token); }

struct SampleScratch {
  int64_t vocab, chunks;
  Ranked* ranked;  // [vocab]
  float* scaled;   // [vocab]
  float* tops;     // [chunks]
  float* order;    // [chunks]
  float* mass;     // [vocab]
  double* sums;    // [kBuckets]

  SampleScratch(int64_t vocab, char* base) : vocab(vocab), chunks((vocab + kChunk - 1) / kChunk) {
    ranked = reinterpret_cast<Ranked*>(base);
    scaled = reinterpret_cast<float*>(ranked + round_up(vocab, kChunk));
    tops = scaled + round_up(vocab, kChunk), order = tops + round_up(chunks, kChunk);
    mass = order + round_up(chunks, kChunk), sums = reinterpret_cast<double*>(mass + round_up(vocab, kChunk));
  }
};

inline int64_t sample_scratch(const sample_args& a) {
  const int64_t vocab = round_up(a.logits.shape[1], kChunk);
  return 16 * vocab + 8 * round_up(vocab / kChunk, kChunk) + 8 * kBuckets;
}

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
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    if (highest(x + i, 4 * L) == value) break;
  while (i < n - 1 && x[i] != value) i++;
  return i;
}

// the sum of e^(x - top)
inline double sum_exp(const float* x, int64_t n, float top) {
  double total = 0;
  constexpr int64_t parts = 4, run = 16 * parts * L;
  for (int64_t i = 0; i < n; i += run) {
    F part[parts] = {};
    int64_t j = i;
    for (; j + parts * L <= min_of(i + run, n); j += parts * L)
      EV_UNROLL for (int64_t p = 0; p < parts; p++) part[p] += exp(load(x + j + p * L) - splat(top));
    for (; j < min_of(i + run, n); j += L)
      part[0] += select(lanes() < int32_t(min_of(n - j, L)), exp(load(x + j, n - j) - splat(top)), F{});
    total += sum((part[0] + part[1]) + (part[2] + part[3]));
  }
  return total;
}

// the m best of x [s.vocab] in order, into s.ranked; returns how many there are
inline int64_t best_of(SampleScratch& s, const float* x, int64_t m) {
  for (int64_t c = 0; c < s.chunks; c++)
    s.order[c] = s.tops[c] = highest(x + c * kChunk, min_of(kChunk, s.vocab - c * kChunk));
  float least = -INFINITY;
  if (m < s.chunks) {
    std::nth_element(s.order, s.order + m - 1, s.order + s.chunks, [](float a, float b) { return a > b; });
    least = s.order[m - 1];
  }
  int64_t n = 0;
  for (int64_t c = 0; c < s.chunks; c++) {
    if (s.tops[c] < least) continue;
    for (int64_t i = c * kChunk, end = min_of(i + kChunk, s.vocab); i < end; i++)
      if (x[i] >= least) s.ranked[n++] = {x[i], int32_t(i)};
  }
  std::sort(s.ranked, s.ranked + n, before);
  return min_of(n, m);
}

// the smallest prefix of all tokens whose probability reaches top_p, into s.ranked in no order; returns how many there are
inline int64_t prefix_of(SampleScratch& s, float top_p, float top) {
  for (int64_t i = 0; i < s.vocab; i += L) store(s.mass + i, exp(load(s.scaled + i, s.vocab - i) - splat(top)));
  auto bucket = [&](int64_t i) {
    const float b = (top - s.scaled[i]) * kPerUnit;
    return b < kBuckets - 1 ? int(b) : kBuckets - 1;
  };
  std::memset(s.sums, 0, sizeof(double) * kBuckets);
  for (int64_t i = 0; i < s.vocab; i++) s.sums[bucket(i)] += s.mass[i];
  double whole = 0, reached = 0;
  for (int b = 0; b < kBuckets; b++) whole += s.sums[b];
  const double wanted = double(top_p) * whole;
  int last = 0;
  while (last < kBuckets - 1 && reached + s.sums[last] < wanted) reached += s.sums[last++];
  int64_t n = 0;
  for (int64_t i = 0; i < s.vocab; i++)
    if (bucket(i) < last) s.ranked[n++] = {s.scaled[i], int32_t(i)};
  int64_t end = n;
  for (int64_t i = 0; i < s.vocab; i++)
    if (bucket(i) == last) s.ranked[end++] = {s.scaled[i], int32_t(i)};
  std::sort(s.ranked + n, s.ranked + end, before);
  while (n < end)
    if ((reached += s.mass[s.ranked[n++].token]) >= wanted) break;
  return n;
}

// the tokens that top_k and top_p leave, into s.ranked; returns how many there are, or 0 for all
inline int64_t keep(SampleScratch& s, int64_t top_k, float top_p, float top) {
  if (top_k <= 0 || top_k >= s.vocab) return top_p < 1 ? prefix_of(s, top_p, top) : 0;
  const int64_t n = best_of(s, s.scaled, top_k);
  if (!(top_p < 1)) return n;
  auto weight = [&](int64_t i) { return std::exp(double(s.ranked[i].value - top)); };
  double whole = 0, reached = 0;
  for (int64_t i = 0; i < n; i++) whole += weight(i);
  for (int64_t i = 0; i < n; i++)
    if ((reached += weight(i)) >= double(top_p) * whole) return i + 1;
  return n;
}

// The Gumbel-max rule over tokens that come one by one.
struct Winner {
  uint32_t position;
  uint64_t seed;
  int64_t token = -1;
  float record = -INFINITY;

  // noise is never more than -log(1 - u), so a token of this value needs a u with 1 - u no larger than this to win
  F needed(F value) const { return exp(min(value - splat(record), F{})) * splat(1.0001f); }
  static constexpr float most = 16.7f;  // no noise is larger

  void offer(float value, int64_t id, uint32_t random) {
    const float u = (float(random >> 9) + 0.5f) * 0x1p-23f;
    const float noisy = value - std::log(-std::log(u));
    if (noisy > record || (noisy == record && id < token)) record = noisy, token = id;
  }
  void offer(Ranked r) {
    offer(r.value, r.token, philox(splat_u(uint32_t(r.token)), position, seed)[0]);
  }
};

inline int64_t draw(SampleScratch& s, const float* logits, float temperature, int64_t top_k, float top_p, int64_t seed,
                    int64_t position) {
  const int64_t vocab = s.vocab;
  for (int64_t i = 0; i < vocab; i += L) store(s.scaled + i, load(logits + i, vocab - i) / splat(temperature), vocab - i);
  const float top = highest(s.scaled, vocab);
  Winner w{uint32_t(position), uint64_t(seed)};
  if (const int64_t n = keep(s, top_k, top_p, top)) {
    for (int64_t i = 0; i < n; i++)
      if (s.ranked[i].value + Winner::most >= w.record) w.offer(s.ranked[i]);
    return w.token;
  }
  // the likeliest token first: its record spares most of the others
  w.offer({top, int32_t(first_of(s.scaled, vocab, top))});
  uint32_t random[kChunk];
  float need[kChunk];
  for (int64_t i0 = 0; i0 < vocab; i0 += kChunk) {
    const int64_t n = min_of(kChunk, vocab - i0);
    const float* x = s.scaled + i0;
    if (highest(x, n) + Winner::most < w.record) continue;
    for (int64_t i = 0; i < kChunk; i += L) {
      const U bits = philox(reinterpret_cast<U>(lanes()) + uint32_t(i0 + i), w.position, w.seed);
      std::memcpy(random + i, &bits, sizeof bits);
      store(need + i, w.needed(load(x + i, n - i)));
    }
    for (int64_t i = 0; i < n; i++)
      if (1.0f - float(random[i] >> 9) * 0x1p-23f <= need[i] + 0x1p-23f) w.offer(x[i], i0 + i, random[i]);
  }
  return w.token;
}

inline void sample_task(const sample_args& a, const sample_coords& c, Scratch scratch) {
  const int64_t vocab = a.logits.shape[1], r = c.r, width = a.max_logprobs;
  const float* logits = a.logits.as<const float>() + r * vocab;
  const int64_t position = a.row_pos.as<const int32_t>()[r] + 1;
  const float temperature = a.temperature.as<const float>()[r];
  const float top = highest(logits, vocab);
  const float norm = top + float(std::log(sum_exp(logits, vocab, top)));
  int32_t& written = a.tokens.as<int32_t>()[a.row_seq.as<const int32_t>()[r] * a.tokens.shape[1] + position];
  if (!std::isfinite(norm)) {  // no distribution
    written = 0, a.next_token.as<int32_t>()[r] = -1, a.logprob.as<float>()[r] = NAN;
    std::fill_n(a.top_ids.as<int32_t>() + r * width, width, 0);
    std::fill_n(a.top_logprobs.as<float>() + r * width, width, 0.0f);
    return;
  }
  SampleScratch s(vocab, scratch.data);
  const int64_t token = temperature == 0
                            ? first_of(logits, vocab, top)
                            : draw(s, logits, temperature, a.top_k.as<const int32_t>()[r],
                                   a.top_p.as<const float>()[r], a.seed.as<const int64_t>()[r], position);
  written = int32_t(token);
  a.next_token.as<int32_t>()[r] = int32_t(token);

  a.logprob.as<float>()[r] = logits[token] - norm;
  const int64_t wanted = min_of(min_of(a.num_logprobs.as<const int32_t>()[r], width), vocab);
  const int64_t n = wanted > 0 ? best_of(s, logits, wanted) : 0;
  for (int64_t i = 0; i < width; i++) {
    a.top_ids.as<int32_t>()[r * width + i] = i < n ? s.ranked[i].token : 0;
    a.top_logprobs.as<float>()[r * width + i] = i < n ? s.ranked[i].value - norm : 0;
  }
}

}  // namespace ev::EV_ISA
