#include <cuda_fp16.h>
#include <mma.h>

// C = A B^T on tensor cores: a block makes a 64 x 64 tile, each of its four warps a quarter; tiles of 64 x 64 along K
// go through shared memory with rows padded by 16 bytes against bank conflicts. K and N are multiples of 64.
using namespace nvcuda;
constexpr int kTile = 64, kPitch = kTile + 8;

extern "C" __global__ void __launch_bounds__(128) gemm(const half* a, const half* b, half* c, int m, int n, int k) {
  __shared__ __align__(16) half as[kTile * kPitch];
  __shared__ __align__(16) half bs[kTile * kPitch];
  __shared__ __align__(16) float cs[kTile * kTile];
  const int row0 = blockIdx.x * kTile, col0 = blockIdx.y * kTile, warp = threadIdx.x / 32;
  const int wr = warp / 2 * 32, wc = warp % 2 * 32;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[2][2];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) wmma::fill_fragment(sum[i][j], 0.0f);
  for (int k0 = 0; k0 < k; k0 += kTile) {
    for (int p = threadIdx.x; p < kTile * kTile / 8; p += 128) {
      const int r = p / 8, q = p % 8 * 8;
      uint4 zero = make_uint4(0, 0, 0, 0);
      const bool inside = row0 + r < m;
      *reinterpret_cast<uint4*>(&as[r * kPitch + q]) =
          inside ? *reinterpret_cast<const uint4*>(&a[static_cast<size_t>(row0 + r) * k + k0 + q]) : zero;
      *reinterpret_cast<uint4*>(&bs[r * kPitch + q]) =
          *reinterpret_cast<const uint4*>(&b[static_cast<size_t>(col0 + r) * k + k0 + q]);
    }
    __syncthreads();
    for (int kk = 0; kk < kTile; kk += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb[2];
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(fa[i], &as[(wr + i * 16) * kPitch + kk], kPitch);
        wmma::load_matrix_sync(fb[i], &bs[(wc + i * 16) * kPitch + kk], kPitch);
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) wmma::mma_sync(sum[i][j], fa[i], fb[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      wmma::store_matrix_sync(&cs[(wr + i * 16) * kTile + wc + j * 16], sum[i][j], kTile, wmma::mem_row_major);
  __syncthreads();
  for (int p = threadIdx.x; p < kTile * kTile; p += 128) {
    const int r = p / kTile, q = p % kTile;
    if (row0 + r < m) c[static_cast<size_t>(row0 + r) * n + col0 + q] = __float2half(cs[p]);
  }
}
