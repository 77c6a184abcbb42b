// Repacks rows of a plain bf16 weight of `k` columns (a multiple of 8 for TIGHT8) into panels, see weights.cuh: row r of `src`
// is row first + r * step of the weight. Columns beyond k are zeros, or stand before zeros of the input.
#pragma once

using namespace ev;
typedef unsigned short u16;

extern "C" __global__ void pack_panel8(const u16* src, u16* dst, int first, int step, int rows, int k) {
  const int padded_k = pad_k(k);
  const i64 pieces = (i64)rows * (padded_k / 8);
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < pieces; i += (i64)gridDim.x * blockDim.x) {
    const int r = (int)(i / (padded_k / 8)), c = (int)(i % (padded_k / 8)) * 8, n = first + r * step;
    u16 v[8];
    #pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = c + e < k ? src[(i64)r * k + c + e] : (u16)0;
    const i64 at = (i64)(n >> 3) * 8 * padded_k + (c >> 5) * 256 + (n & 7) * 32 + ((((c >> 3) & 3) ^ ((n >> 1) & 3)) << 3);
    *(uint4*)(dst + at) = *(const uint4*)v;
  }
}

// One warp packs a row's part of a slab, 16 columns a lane. `dst` must be zeros where a panel's first row is packed. Weights
// that neither 12 bits nor the list hold are counted in `lost`.
extern "C" __global__ void pack_tight8(const u16* src, u8* dst, int first, int step, int rows, int k, u32* lost) {
  const int kp = pad_k(k), slabs = (kp + SLAB - 1) / SLAB, lane = threadIdx.x % 32;
  const i64 warps = (i64)gridDim.x * blockDim.x / 32;
  for (i64 i = (blockIdx.x * (i64)blockDim.x + threadIdx.x) / 32; i < (i64)rows * slabs; i += warps) {
    const int r = (int)(i / slabs), slab = (int)(i % slabs), n = first + r * step, g = n & 7;
    u32 v[16];
    int top = 0;
    bool empty = true;
    #pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int c = slab * SLAB + lane * 16 + h * 8;
      const uint4 piece = c < k ? *(const uint4*)(src + (i64)r * k + c) : make_uint4(0, 0, 0, 0);
      #pragma unroll
      for (int e = 0; e < 8; ++e) {
        const u32 w = (&piece.x)[e / 2] >> e % 2 * 16 & 0xffff;
        v[h * 8 + e] = w;
        top = max(top, (int)(w >> 7 & 255));
        empty &= (w & 0x7fff) == 0;
      }
    }
    for (int o = 16; o; o >>= 1) top = max(top, __shfl_xor_sync(~0u, top, o));
    empty = __all_sync(~0u, empty);
    const int blocks = min(kp - slab * SLAB, SLAB) / BLOCK;
    u8* const at = dst + (i64)(n >> 3) * panel_bytes(kp, TIGHT8) + (i64)slab * slab_bytes(SLAB, TIGHT8);
    u32* const list = (u32*)(at + blocks * TIGHT_BLOCK_BYTES + 8);
    if (top > 237 && lane == 0) atomicAdd(lost, 1u);  // its scale or the inverse is no float32; infinities and NaNs among them
    top = empty ? 0 : max(top, 16);
    if (lane == 0) ((u8*)list)[g - 8] = (u8)top;
    u32 odd = 0;  // weights that go to the list
    #pragma unroll
    for (int e = 0; e < 16; ++e) {
      const int exponent = v[e] >> 7 & 255, code = exponent - (top - 15);
      const bool fits = exponent > 0 && code >= 0;
      if (!fits && !empty && slab * SLAB + lane * 16 + e < k) odd |= 1u << e;
      v[e] = fits ? (v[e] & 0x8000) | (u32)code << 7 | (v[e] & 127) : 0u;
    }
    #pragma unroll
    for (int h = 0; h < 2; ++h) {
      u32 pair[4];
      #pragma unroll
      for (int e = 0; e < 4; ++e) pair[e] = v[h * 8 + e * 2] | v[h * 8 + e * 2 + 1] << 16;
      const u32 words[3] = {pair[0] | (pair[3] & 0x07800780u) << 4, pair[1] | (pair[3] & 0x00780078u) << 8,
                            pair[2] | (pair[3] & 0x00070007u) << 11 | (pair[3] & 0x80008000u) >> 1};
      const int tile = lane / 2 % 4, q = lane % 2 * 2 + h;
      if (lane / 8 < blocks) {
        #pragma unroll
        for (int e = 0; e < 3; ++e) {
          const int word = tile * 3 + e;
          *(u32*)(at + lane / 8 * TIGHT_BLOCK_BYTES + word / 4 * 512 + (g * 4 + q) * 16 + word % 4 * 4) = words[e];
        }
      }
    }
    // in ascending k, so that sums are always the same; other rows' entries may stand between
    for (u32 left = __ballot_sync(~0u, odd != 0); left; left &= left - 1) {
      if (lane == __ffs(left) - 1) {
        for (; odd; odd &= odd - 1) {
          const int e = __ffs(odd) - 1, c = lane * 16 + e;
          const u32 word = (u32)src[(i64)r * k + slab * SLAB + c] << 16 | 0x8000u | g << 9 | c;
          int free = 0;
          while (free < TIGHT_LISTED && atomicCAS(list + free, 0u, word) != 0) ++free;
          if (free == TIGHT_LISTED) atomicAdd(lost, 1u);
        }
      }
      __syncwarp();
    }
  }
}
