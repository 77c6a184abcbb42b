#include <cuda_bf16.h>

// one block a row, two elements a thread and step; the sum stays in shared memory between the passes
extern "C" __global__ void add_rmsnorm(const __nv_bfloat162* x, const __nv_bfloat162* r, const __nv_bfloat162* w,
                                       __nv_bfloat162* y, int width, float eps) {
  extern __shared__ float2 row[];
  __shared__ float partial[32];
  const int pairs = width / 2;
  const size_t base = static_cast<size_t>(blockIdx.x) * pairs;
  float sum = 0;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    const float2 a = __bfloat1622float2(x[base + i]), b = __bfloat1622float2(r[base + i]);
    const float2 v = make_float2(a.x + b.x, a.y + b.y);
    row[i] = v;
    sum += v.x * v.x + v.y * v.y;
  }
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < blockDim.x / 32; ++i) sum += partial[i];
  const float scale = rsqrtf(sum / width + eps);
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    const float2 v = row[i], s = __bfloat1622float2(w[i]);
    y[base + i] = __floats2bfloat162_rn(v.x * scale * s.x, v.y * scale * s.y);
  }
}
