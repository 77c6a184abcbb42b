// TILED: where a matrix of activations [rows, columns] stands that wide products read (wide.cuh), so that one copy of the copy
// engine brings 64 columns of all rows in the form in which wgmma takes them.
//
//     tile     64 columns of all rows: 128 bytes a row, row by row
//     piece    16 bytes; the 8 of a row are swizzled by row % 8
//
// Weights give each lane 8 consecutive columns at 8q of every 32, in two products of 16 (weights.cuh). So that columns meet
// their own, those of 32 are in another order here: column 8q + 4j + 2h + e is element 2q + e of piece 2j + h. Columns go in
// pairs, the unit of a store.
//
//     row 5, columns 70 and 71: tile 1, and of the first 32 of it 6 and 7: q = 0, j = 1, h = 1; piece 3 stands at 3 ^ 5 = 6
#pragma once

namespace ev {

// bytes from the beginning to columns `column` and `column` + 1, an even one, of a row; `rows`: of the whole matrix
__device__ __forceinline__ i64 tiled_pair(int rows, int row, int column) {
  const int piece = (column >> 5 & 1) << 2 | (column >> 1 & 3);
  return ((i64)(column >> 6) * rows + row) * 128 + ((piece ^ (row & 7)) << 4) + (column >> 3 & 3) * 4;
}

// two elements of a bf16 matrix in whichever layout it has; `column` is even
template <class T>
__device__ __forceinline__ void put_pair(const T& y, int row, int column, u32 two) {
  if constexpr (T::layout == TILED) *(u32*)((u8*)y.data + tiled_pair(T::rows, row, column)) = two;
  else *(u32*)(y.data + (i64)row * T::dim1 + column) = two;
}

// a piece of 32 columns from `column` on: columns 8e + 2 * piece and the one after, for e = 0 .. 3
template <class T>
__device__ __forceinline__ void put_piece(const T& y, int row, int column, int piece, const uint4& v) {
  *(uint4*)((u8*)y.data + ((i64)(column >> 6) * T::rows + row) * 128 + (((column >> 5 & 1) << 2 | piece) ^ (row & 7)) * 16) = v;
}

// eight elements; `column` is a multiple of 8
template <class T>
__device__ __forceinline__ void put_eight(const T& y, int row, int column, const uint4& v) {
  if constexpr (T::layout == TILED) {
    #pragma unroll
    for (int i = 0; i < 4; ++i) put_pair(y, row, column + 2 * i, (&v.x)[i]);
  } else {
    *(uint4*)(y.data + (i64)row * T::dim1 + column) = v;
  }
}

}  // namespace ev
