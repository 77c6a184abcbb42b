// Packs a plain weight [n, k] into panels of 32 rows: Layout::panel32 and narrow32 of device/cpu/task.h.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "../../src/eventide/device/cpu/task.h"

namespace ev {

// bytes of a packed weight of float32 or bfloat16
int64_t packed_bytes(int64_t n, int64_t k, DType dtype);

// Packs the rows row0 .. row1 - 1, `src` being the first of them (so a weight can be packed as it is read, and by several
// threads at once); row0 is a multiple of 32, and so is row1 unless it is n. `dst` is the whole packed weight.
void pack(const void* src, int64_t n, int64_t k, DType dtype, void* dst, int64_t row0, int64_t row1);

// Packs all rows with several threads.
void pack_all(const void* src, int64_t n, int64_t k, DType dtype, void* dst, int num_threads);

// How a bfloat16 weight [n, k] is said in 12 bits a value (Layout::narrow32): the base exponent of each row, how many exceptions
// the panels before each one have, and whether it suits products of integers.
struct Narrow {
  std::vector<uint8_t> bases;      // [n]
  std::vector<int64_t> exceptions; // [panels + 1]
  int64_t bytes;
  bool fixed;
};

// Nothing if the weight has more exceptions than one value in kNarrowRare: they would cost what the others save.
constexpr int64_t kNarrowRare = 512;
std::optional<Narrow> narrow(const uint16_t* src, int64_t n, int64_t k, int num_threads);

// `dst` holds narrow.bytes, all zero.
void pack_narrow(const uint16_t* src, int64_t n, int64_t k, const Narrow& narrow, void* dst, int num_threads);

}  // namespace ev
