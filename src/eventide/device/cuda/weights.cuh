// Where a weight [n, k] stands in memory, and how its elements are read. Panels of 8 rows, in which a warp's lane (g, q) finds
// the 8 consecutive k at 8q of every 32 of row g: both of mma's fragments for 32 k.
//
// PANEL8: 16 bits a weight. A panel is a run along k of tiles of 8 rows x 32 k, 512 bytes, whose four 16-byte pieces of a row
// are swizzled by (row / 2) % 4, so that a warp reads a tile with one conflict-free 16-byte load a lane.
//
// TIGHT8: 12 bits a weight, and nothing lost. In a slab, 8 rows x at most 512 k, the exponents of a row are mostly one of the
// 16 below its largest, `top`; so sign, exponent - (top - 15), and mantissa are 1 + 4 + 7 bits. What is left is listed.
//
//     slab   blocks of 8 rows x 128 k   1536 bytes each: three 16-byte pieces a lane, 12 words for 4 tiles of 32 k
//            8 bytes                    `top` of every row; 0: a row of zeros
//            14 words                   row and k in the slab, and the weight, where 12 bits can't say it; ends with a zero
//
// Three words are 8 weights. Each holds a pair of them in place, as the low and high half of a register (sign at bit 15, code
// and mantissa at 10..0), and with the bits 14..11 left over the three make up the fourth pair: 11 operations in all, no
// shift for most. Read with 96 in the exponent's place, a weight is off by 2 ^ (top - 111), which scales the finished sums.
//
//     top = 120 (of 0.011), weight = -0.0034: sign 1, exponent 118, code 118 - 105 = 13; decoded exponent 96 + 13 = 109,
//     and 109 + (120 - 111) = 118
#pragma once

namespace ev {

enum Layout { PLAIN = 0, PANEL8 = 1, TIGHT8 = 2, TILED = 3 };  // the last one is of activations, see tiles.cuh

constexpr int SLAB = 512;   // k of a chunk
constexpr int BLOCK = 128;  // k are padded to a multiple of it; of TIGHT8, its bytes, and those behind a slab's blocks
constexpr int TIGHT_BLOCK_BYTES = 1536, TIGHT_TAIL = 64, TIGHT_LISTED = 14;

constexpr __host__ __device__ int pad_k(int k) { return (k + BLOCK - 1) / BLOCK * BLOCK; }
// bytes of a chunk: a slab of `k` columns, padded
constexpr __host__ __device__ int slab_bytes(int k, int layout) {
  return layout == TIGHT8 ? k / BLOCK * TIGHT_BLOCK_BYTES + TIGHT_TAIL : k * 16;
}
// bytes of a panel of `k` columns, padded
constexpr __host__ __device__ int panel_bytes(int k, int layout) {
  return k / SLAB * slab_bytes(SLAB, layout) + (k % SLAB ? slab_bytes(k % SLAB, layout) : 0);
}

// Eight weights of TIGHT8 in bf16's places; `base` takes the place of the exponent's high bits. `keep` is KEEP; in a loop it
// should be opaque(KEEP): an instruction takes one constant, and the compiler would load the other one every time.
constexpr u32 KEEP = 0x87ff87ffu;
__device__ __forceinline__ uint4 loosen(u32 a, u32 b, u32 c, u32 base, u32 keep = KEEP) {
  uint4 v;
  v.x = (a & keep) | base;
  v.y = (b & keep) | base;
  v.z = (c & keep) | base;
  v.w = ((a >> 4) & 0x07800780u) | base;
  v.w |= (b >> 8) & 0x00780078u;
  v.w |= (c >> 11) & 0x00070007u;
  v.w |= (c << 1) & 0x80008000u;
  return v;
}
constexpr u32 TIGHT_BASE = 0x30003000u;  // an exponent of 96
// 2 ^ (top - 111), and 0 for a row of zeros
__device__ __forceinline__ float tight_scale(u32 top) { return top ? __uint_as_float((top + 16) << 23) : 0.f; }

// The listed weights of a slab: what each adds to the sum of its row, beside what stands in its place (2 ^ -31, unscaled).
struct Listed {
  u32 word;
  __device__ __forceinline__ explicit operator bool() const { return word != 0; }
  __device__ __forceinline__ int k() const { return word & 511; }
  __device__ __forceinline__ int row() const { return (word >> 9) & 7; }
  __device__ __forceinline__ float weight() const { return __uint_as_float(word & 0xffff0000u); }
  __device__ __forceinline__ float missing(float scale) const { return weight() - scale * __uint_as_float(0x30000000u); }
};

// Elements k .. k + 7 of row n, from global memory; k a multiple of 8.
template <int LAYOUT, int K>
__device__ __forceinline__ uint4 weight_8(const void* data, int n, int k) {
  if constexpr (LAYOUT == PLAIN) return *(const uint4*)((const u8*)data + ((i64)n * K + k) * 2);
  constexpr int KP = pad_k(K);
  const u8* const panel = (const u8*)data + (i64)(n >> 3) * panel_bytes(KP, LAYOUT);
  const int g = n & 7, q = (k >> 3) & 3;
  if constexpr (LAYOUT == PANEL8) return *(const uint4*)(panel + (k >> 5) * 512 + g * 64 + ((q ^ ((g >> 1) & 3)) << 4));
  const u8* const slab = panel + k / SLAB * slab_bytes(SLAB, LAYOUT);
  const u8* const block = slab + k % SLAB / BLOCK * TIGHT_BLOCK_BYTES + (g * 4 + q) * 16;
  const u8* const tail = slab + min(KP - k / SLAB * SLAB, SLAB) / BLOCK * TIGHT_BLOCK_BYTES;
  const int first = (k >> 5) % 4 * 3;  // of the lane's words of the block
  u32 words[3];
  #pragma unroll
  for (int i = 0; i < 3; ++i) words[i] = *(const u32*)(block + (first + i >> 2) * 512 + (first + i & 3) * 4);
  const uint4 head = *(const uint4*)tail;  // tops, and the first two of the list: mostly there is no more
  const u32 top = ((g < 4 ? head.x : head.y) >> (g & 3) * 8) & 255;
  uint4 v = loosen(words[0], words[1], words[2], 0);
  const u32 add = (top - 15) << 7 & 0x7f80u, both = add << 16 | add;
  v = top ? make_uint4(v.x + both, v.y + both, v.z + both, v.w + both) : make_uint4(0, 0, 0, 0);
  u32 listed = head.z, next = head.w;
  #pragma unroll 1
  for (int i = 2; listed; ++i) {
    const Listed l = {listed};
    if (l.row() == g && l.k() / 8 == k % SLAB / 8) {
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        u32& two = (&v.x)[e];
        if (l.k() % 8 == 2 * e) two = (two & 0xffff0000u) | l.word >> 16;
        if (l.k() % 8 == 2 * e + 1) two = (two & 0xffffu) | (l.word & 0xffff0000u);
      }
    }
    listed = next;
    next = listed && i < TIGHT_LISTED ? *(const u32*)(tail + 8 + i * 4) : 0;
  }
  return v;
}

}  // namespace ev
