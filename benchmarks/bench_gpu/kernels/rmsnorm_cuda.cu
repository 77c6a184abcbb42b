#include <cuda_bf16.h>

#include "eventide_bench.h"

// one block a row; every thread keeps its 16-byte pieces in registers between the two passes
namespace {
constexpr float kEps = @EPS@;
constexpr int kPieces = 4;  // of 8 elements a thread

__global__ void rmsnorm(const uint4* x, const uint4* w, uint4* y, int width) {
  const int pieces = width / 8;
  const uint4* in = x + static_cast<size_t>(blockIdx.x) * pieces;
  uint4* out = y + static_cast<size_t>(blockIdx.x) * pieces;
  uint4 held[kPieces];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int at = threadIdx.x + p * blockDim.x;
    if (at < pieces) {
      held[p] = in[at];
      const __nv_bfloat162* pair = reinterpret_cast<const __nv_bfloat162*>(&held[p]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = __bfloat1622float2(pair[i]);
        sum += v.x * v.x + v.y * v.y;
      }
    }
  }
  __shared__ float partial[32];
#pragma unroll
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) sum += partial[i];
  const float scale = rsqrtf(sum / width + kEps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int at = threadIdx.x + p * blockDim.x;
    if (at < pieces) {
      const uint4 weight = w[at];
      const __nv_bfloat162* a = reinterpret_cast<const __nv_bfloat162*>(&held[p]);
      const __nv_bfloat162* b = reinterpret_cast<const __nv_bfloat162*>(&weight);
      uint4 result;
      __nv_bfloat162* r = reinterpret_cast<__nv_bfloat162*>(&result);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = __bfloat1622float2(a[i]), s = __bfloat1622float2(b[i]);
        r[i] = __floats2bfloat162_rn(v.x * scale * s.x, v.y * scale * s.y);
      }
      out[at] = result;
    }
  }
}
}  // namespace

extern "C" int run(const DLTensor* x, const DLTensor* w, DLTensor* y) {
  using eventide_bench::data;
  const int rows = static_cast<int>(x->shape[0]), width = static_cast<int>(x->shape[1]);
  int threads = (width / 8 + kPieces - 1) / kPieces;
  threads = threads < 32 ? 32 : (threads + 31) / 32 * 32;
  if (width % 8 || threads > 1024) return 1;
  const cudaStream_t stream = eventide_bench::stream();
  rmsnorm<<<rows, threads, 0, stream>>>(data<const uint4>(x), data<const uint4>(w), data<uint4>(y), width);
  return static_cast<int>(cudaGetLastError());
}
