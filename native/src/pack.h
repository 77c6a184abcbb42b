// Packs a plain weight [n, k] into panels of 32 rows: Layout::panel32 of device/cpu/task.h.
#pragma once
#include <cstdint>

#include "../../src/eventide/device/cpu/task.h"

namespace ev {

// bytes of a packed weight of float32 or bfloat16
int64_t packed_bytes(int64_t n, int64_t k, DType dtype);

// Packs the rows row0 .. row1 - 1, `src` being the first of them (so a weight can be packed as it is read, and by several
// threads at once); row0 is a multiple of 32, and so is row1 unless it is n. `dst` is the whole packed weight.
void pack(const void* src, int64_t n, int64_t k, DType dtype, void* dst, int64_t row0, int64_t row1);

// Packs all rows with several threads.
void pack_all(const void* src, int64_t n, int64_t k, DType dtype, void* dst, int num_threads);

// The row r of a packed weight, as plain values [k].
void unpack_row(const void* packed, int64_t k, DType dtype, int64_t r, void* dst);

}  // namespace ev
