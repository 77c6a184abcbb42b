#include <algorithm>
#include <cstring>

#include "device/cpu/narrow_format.h"
#include "pack.h"
#include "parallel.h"

namespace ev {
namespace {

constexpr int kWindow = 16;  // exponents that a code can say
// Where products are those of integers (device/cpu/fixed.h), a few large values of a row would leave the others too few bits. So a
// window ends so many exponents above the most frequent one at most, unless a weight had more exceptions by that than one value in
// kTooMany.
constexpr int kAbove = 4;
constexpr int64_t kTooMany = 2048;

// the values of one row in a group, side by side
typedef uint16_t Group __attribute__((vector_size(2 * kNarrowGroup)));

inline int exponent(uint16_t bits) { return bits >> 7 & 0xff; }

struct Base {
  int64_t outside = INT64_MAX;  // values that the window leaves out
  uint8_t exponent = 0;
};

// The bases whose windows hold most of the row, the lowest of several: of those that end kAbove the most frequent at most, and of all.
void best_bases(const uint16_t* row, int64_t k, Base& near, Base& any) {
  // neighbours are counted apart, so that no count waits for the one before
  uint32_t counts[4][256] = {};
  int64_t i = 0;
  for (; i + 4 <= k; i += 4)
    for (int j = 0; j < 4; j++) counts[j][exponent(row[i + j])]++;
  for (; i < k; i++) counts[0][exponent(row[i])]++;
  for (int e = 0; e < 256; e++)
    for (int j = 1; j < 4; j++) counts[0][e] += counts[j][e];
  const int frequent = int(std::max_element(counts[0], counts[0] + 256) - counts[0]);
  const int last = std::max(kWindow - 1, frequent + kAbove);
  int64_t outside = k;
  for (int e = 0; e < 256; e++) {
    outside -= counts[0][e];
    if (e >= kWindow) outside += counts[0][e - kWindow];
    if (e >= kWindow - 1 && outside < any.outside) any = {outside, uint8_t(e - (kWindow - 1))};
    if (e <= last) near = any;
  }
}

void pack_panel(const uint16_t* src, int64_t rows, int64_t k, const uint8_t* bases, uint32_t* panel, NarrowException* list) {
  uint32_t* words = panel + kNarrowRows;
  NarrowException* const begin = list;
  for (int64_t r = 0; r < rows; r++) {
    const uint16_t* row = src + r * k;
    const int base = bases[r];
    panel[r] = uint32_t(base) << 7 | uint32_t(base) << 23;
    const Group filler = Group{} + uint16_t(base << 7);  // the code 0
    for (int64_t k0 = 0; k0 < k; k0 += kNarrowGroup) {
      const int64_t here = std::min<int64_t>(kNarrowGroup, k - k0);
      Group bits = filler;
      std::memcpy(&bits, row + k0, size_t(2 * here));
      const Group code = ((bits >> 7) & 0xff) - uint16_t(base), outside = Group(code >= kWindow);
      Group packed = (bits & 0x807f) | code << 7;
      uint64_t any[2];
      std::memcpy(any, &outside, sizeof any);
      if (any[0] | any[1]) {
        packed &= ~outside;
        for (int64_t i = 0; i < here; i++)
          if (outside[i]) *list++ = {uint32_t(k0 + i), uint16_t(r), bits[i]};
      }
      uint32_t pair[4], word[3];
      std::memcpy(pair, &packed, sizeof pair);
      narrow_split(pair, word);
      for (int i = 0; i < 3; i++) words[(k0 / kNarrowGroup * 3 + i) * kNarrowRows + r] = word[i];
    }
  }
  std::stable_sort(begin, list, [](const NarrowException& a, const NarrowException& b) { return a.k < b.k; });
  *list = {kNarrowEnd, 0, 0};
}

}  // namespace

std::optional<Narrow> narrow(const uint16_t* src, int64_t n, int64_t k, int num_threads) {
  const NarrowWeight at(nullptr, n, k);
  std::vector<Base> near{size_t(n)}, any{size_t(n)};
  in_parallel(n, num_threads, [&](int64_t r) { best_bases(src + r * k, k, near[size_t(r)], any[size_t(r)]); });
  auto exceptions = [](const std::vector<Base>& bases) {
    int64_t sum = 0;
    for (const Base& b : bases) sum += b.outside;
    return sum;
  };
  const int64_t all = n * k, fewest = exceptions(any);
  const bool fixed = exceptions(near) <= std::min(fewest + all / kTooMany, all / kNarrowRare);
  const std::vector<Base>& chosen = fixed ? near : any;
  Narrow found{{}, std::vector<int64_t>(size_t(at.panels) + 1), 0, fixed};
  for (int64_t r = 0; r < n; r++) {
    found.bases.push_back(chosen[size_t(r)].exponent);
    found.exceptions[size_t(r / kNarrowRows) + 1] += chosen[size_t(r)].outside;
  }
  for (int64_t p = 0; p < at.panels; p++) found.exceptions[size_t(p) + 1] += found.exceptions[size_t(p)];
  const int64_t entries = found.exceptions.back() + at.panels;
  if (found.exceptions.back() > all / kNarrowRare || entries >= int64_t{kNarrowEnd} || k >= int64_t{kNarrowEnd}) return std::nullopt;
  found.bytes = 4 * at.words_before_exceptions() + entries * int64_t{sizeof(NarrowException)};
  return found;
}

void pack_narrow(const uint16_t* src, int64_t n, int64_t k, const Narrow& narrow, void* dst, int num_threads) {
  const NarrowWeight to(dst, n, k);
  to.fixed() = narrow.fixed;
  in_parallel(to.panels, num_threads, [&](int64_t p) {
    // each panel's list has an end of its own
    to.first()[p] = uint32_t(narrow.exceptions[size_t(p)] + p);
    pack_panel(src + p * kNarrowRows * k, std::min<int64_t>(kNarrowRows, n - p * kNarrowRows), k, &narrow.bases[size_t(p * kNarrowRows)],
               to.bases(p), to.exceptions(p));
  });
}

}  // namespace ev
