// Layout::narrow32: a bfloat16 weight [n, k] in 12 bits a value, without loss. Plain C++, for packing and for reading one row.
//
// The exponents of a row mostly lie within 16 of each other, so the sign, four bits of exponent above the row's base and the
// mantissa say it all. The few other values are exceptions (of normal numbers one in ten thousand), listed beside.
//
//     panels       32 rows each, the last one padded with rows of zeros:
//                    uint32 base[32]              the row's base exponent b in both halves: b << 7 | b << 23; how it is
//                                                 chosen: pack_narrow.cpp
//                    uint32 word[groups][3][32]   a group is 8 values of k, the last one padded: three words of a row
//     first        uint32 [panels]: where the panel's exceptions begin in the list
//     fixed        uint32, then up to a multiple of 8 bytes: whether no row's large values leave too few bits for the others'
//                  integers (fixed.h), 0 or 1
//     exceptions   of each panel in the order of k, and one more with k = kNarrowEnd
//
// Four pairs of values of k, first in the low half, become three words. A pair p of codes is sign 15, exponent 10 .. 7,
// mantissa 6 .. 0, and the same 16 bits higher; words 0, 1 and 2 hold the pairs 0, 1 and 2 as they stand, and in the bits
// 14 .. 11 and 30 .. 27, which these leave free, a third of pair 3 each:
//
//     word 0   (p & 0x07800780) << 4       exponents
//     word 1   (p & 0x00780078) << 8       upper mantissas
//     word 2   (p & 0x80078007) rotated left by 12: lower mantissas and signs
//
// Adding the base to a pair of codes gives a pair of bfloat16 numbers; base <= 240, so nothing carries.
#pragma once
#include <cstdint>

namespace ev {

constexpr int kNarrowRows = 32, kNarrowGroup = 8;
constexpr int64_t kNarrowGroupWords = 3 * kNarrowRows;
constexpr uint32_t kNarrowEnd = ~uint32_t{0};

struct NarrowException {
  uint32_t k;
  uint16_t row;  // of the panel
  uint16_t bits;
};

// where things stand in a packed weight
struct NarrowWeight {
  uint32_t* data;
  int64_t k, panels, panel_words;

  NarrowWeight(void* packed, int64_t n, int64_t k)
      : data(static_cast<uint32_t*>(packed)),
        k(k),
        panels((n + kNarrowRows - 1) / kNarrowRows),
        panel_words(kNarrowRows + (k + kNarrowGroup - 1) / kNarrowGroup * kNarrowGroupWords) {}
  uint32_t* bases(int64_t panel) const { return data + panel * panel_words; }
  uint32_t* words(int64_t panel) const { return bases(panel) + kNarrowRows; }
  uint32_t* first() const { return data + panels * panel_words; }
  uint32_t& fixed() const { return first()[panels]; }
  NarrowException* exceptions(int64_t panel) const {
    return reinterpret_cast<NarrowException*>(data + words_before_exceptions()) + first()[panel];
  }
  int64_t words_before_exceptions() const { return panels * panel_words + (panels + 2) / 2 * 2; }
};

inline void narrow_split(const uint32_t (&pair)[4], uint32_t (&word)[3]) {
  const uint32_t low = pair[3] & 0x80078007u;
  word[0] = pair[0] | (pair[3] & 0x07800780u) << 4;
  word[1] = pair[1] | (pair[3] & 0x00780078u) << 8;
  word[2] = pair[2] | low << 12 | low >> 20;
}

// the same for one row's words as for vectors of them (U), and then with the row's bases
template <class U>
inline void narrow_join(const U (&word)[3], U base, U (&pair)[4]) {
  for (int i = 0; i < 3; i++) pair[i] = (word[i] & 0x87ff87ffu) + base;
  pair[3] = (((word[0] >> 4) & 0x07800780u) | ((word[1] >> 8) & 0x00780078u) | ((word[2] >> 12 | word[2] << 20) & 0x80078007u)) + base;
}

}  // namespace ev
