#include "pack.h"

#include <algorithm>
#include <cstring>

#include "parallel.h"

namespace ev {
namespace {

constexpr int64_t kRows = 32;

int64_t item_bytes(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

// words of four bytes: one float, or a pair of bfloat16
int64_t words_of(int64_t k, DType dtype) { return (k * item_bytes(dtype) + 3) / 4; }

void pack_panel(const char* src, int64_t rows, int64_t row_bytes, int64_t words, uint32_t* dst) {
  const int64_t whole = row_bytes / 4;
  for (int64_t i = 0; i < whole; i++)
    for (int64_t r = 0; r < kRows; r++) {
      uint32_t word = 0;
      if (r < rows) std::memcpy(&word, src + r * row_bytes + 4 * i, 4);
      dst[i * kRows + r] = word;
    }
  if (whole == words) return;
  // an odd k leaves half a pair
  for (int64_t r = 0; r < kRows; r++) {
    uint32_t word = 0;
    if (r < rows) std::memcpy(&word, src + r * row_bytes + 4 * whole, 2);
    dst[whole * kRows + r] = word;
  }
}

}  // namespace

int64_t packed_bytes(int64_t n, int64_t k, DType dtype) { return (n + kRows - 1) / kRows * kRows * words_of(k, dtype) * 4; }

void pack(const void* src, int64_t n, int64_t k, DType dtype, void* dst, int64_t row0, int64_t row1) {
  const int64_t row_bytes = k * item_bytes(dtype), words = words_of(k, dtype);
  row1 = std::min(row1, n);
  for (int64_t r = row0; r < row1; r += kRows)
    pack_panel(static_cast<const char*>(src) + (r - row0) * row_bytes, std::min(kRows, row1 - r), row_bytes, words,
               static_cast<uint32_t*>(dst) + r * words);
}

void pack_all(const void* src, int64_t n, int64_t k, DType dtype, void* dst, int num_threads) {
  const int64_t row_bytes = k * item_bytes(dtype);
  in_parallel((n + kRows - 1) / kRows, num_threads, [&](int64_t panel) {
    const int64_t row0 = panel * kRows;
    pack(static_cast<const char*>(src) + row0 * row_bytes, n, k, dtype, dst, row0, row0 + kRows);
  });
}

}  // namespace ev
