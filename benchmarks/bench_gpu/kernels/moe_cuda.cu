#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <mma.h>

// Mixture of experts on FP8 with a scale for every block of 128, routed as DeepSeek-V3 does. Five kernels:
//   route    one block a token: sigmoid, the 4 best of 8 groups, the 8 best experts in them, their shares
//   gather   one block an expert: the (token, slot) pairs that chose it, in order
//   up       16 pairs x 128 columns a block: both halves of the first product, then silu(second) * first
//   down     16 pairs x 128 columns a block: the second product times the pair's share
//   combine  the sum of a token's pairs
// FP8 values are exact in half; the scale of an activation is folded into it, that of a weight block multiplies the
// block's partial sum. A pair is token * 8 + slot.
using namespace nvcuda;
constexpr int kExperts = 256, kGroups = 8, kKeptGroups = 4, kTop = 8, kHidden = 7168, kInner = 2048;
constexpr int kRows = 16, kBlock = 128, kPitch = kBlock + 8;  // rows padded by 16 bytes against bank conflicts
constexpr float kLowest = -3.402823466e38f;
using Sum = wmma::fragment<wmma::accumulator, 16, 16, 16, float>;

extern "C" __global__ void __launch_bounds__(256)
route(const float* logits, const __nv_bfloat16* bias, int* expert, float* share, int first, int num_local, float factor) {
  const int e = threadIdx.x, group = e / 32;  // a warp is a group
  const float s = 1.0f / (1.0f + expf(-logits[blockIdx.x * kExperts + e]));
  const float biased = s + __bfloat162float(bias[e]);
  float best = biased, second;
  int at = e;
  for (int d = 16; d; d /= 2) {
    const float other = __shfl_xor_sync(0xffffffff, best, d);
    const int other_at = __shfl_xor_sync(0xffffffff, at, d);
    if (other > best || (other == best && other_at < at)) best = other, at = other_at;
  }
  second = e == at ? kLowest : biased;
  for (int d = 16; d; d /= 2) second = fmaxf(second, __shfl_xor_sync(0xffffffff, second, d));
  __shared__ float groups[kGroups], values[kExperts], chosen[kTop];
  if (e % 32 == 0) groups[group] = best + second;
  __syncthreads();
  int better = 0;
  for (int g = 0; g < kGroups; ++g)
    better += groups[g] > groups[group] || (groups[g] == groups[group] && g < group);
  const float value = better < kKeptGroups ? biased : kLowest;
  values[e] = value;
  __syncthreads();
  int rank = 0;
  for (int i = 0; i < kExperts; ++i) rank += values[i] > value || (values[i] == value && i < e);
  if (rank < kTop) chosen[rank] = s;
  __syncthreads();
  if (rank >= kTop) return;
  float total = 1e-20f;
  for (int i = 0; i < kTop; ++i) total += chosen[i];
  const int pair = blockIdx.x * kTop + rank, local = e - first;
  expert[pair] = local >= 0 && local < num_local ? local : -1;
  share[pair] = s / total * factor;
}

extern "C" __global__ void __launch_bounds__(256) gather(const int* expert, int* list, int* count, int num_tokens) {
  __shared__ int before[9];
  int found = 0;
  for (int start = 0; start < num_tokens * kTop; start += 256) {
    const int pair = start + threadIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool mine = pair < num_tokens * kTop && expert[pair] == static_cast<int>(blockIdx.x);
    const unsigned votes = __ballot_sync(0xffffffff, mine);
    if (lane == 0) before[warp + 1] = __popc(votes);
    __syncthreads();
    int place = found;
    for (int w = 1; w <= warp; ++w) place += before[w];
    if (mine) list[blockIdx.x * num_tokens + place + __popc(votes & ((1u << lane) - 1))] = pair;
    for (int w = 1; w <= 8; ++w) found += before[w];
    __syncthreads();
  }
  if (threadIdx.x == 0) count[blockIdx.x] = found;
}

__device__ inline half2 widen(unsigned short two) { return half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3)); }

// 128 rows of 128 weights, as half
__device__ void load_weights(const unsigned char* from, size_t stride, half* tile) {
  for (int p = threadIdx.x; p < kBlock * kBlock / 16; p += blockDim.x) {
    const int r = p / 8, q = p % 8 * 16;
    const uint4 raw = *reinterpret_cast<const uint4*>(from + r * stride + q);
    const unsigned short* two = reinterpret_cast<const unsigned short*>(&raw);
    half2* to = reinterpret_cast<half2*>(tile + r * kPitch + q);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = widen(two[i]);
  }
}

// sum += (16 rows of `left`) x (128 rows of `right`)^T * scale; a warp has 32 of the columns
__device__ void multiply(const half* left, const half* right, float scale, Sum sum[2]) {
  const int column = threadIdx.x / 32 * 32;
  Sum part[2];
  for (int j = 0; j < 2; ++j) wmma::fill_fragment(part[j], 0.0f);
  for (int k = 0; k < kBlock; k += 16) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> a;
    wmma::load_matrix_sync(a, left + k, kPitch);
    for (int j = 0; j < 2; ++j) {
      wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> b;
      wmma::load_matrix_sync(b, right + (column + j * 16) * kPitch + k, kPitch);
      wmma::mma_sync(part[j], a, b, part[j]);
    }
  }
  for (int j = 0; j < 2; ++j)
    for (int i = 0; i < part[j].num_elements; ++i) sum[j].x[i] += part[j].x[i] * scale;
}

extern "C" __global__ void __launch_bounds__(128)
up(const unsigned char* x, const float* x_scale, const unsigned char* w, const float* w_scale, const int* list,
   const int* count, half* inner, int num_tokens) {
  constexpr int kBlocks = kHidden / kBlock, kWide = 2 * kInner;
  __shared__ __align__(16) half weights[kBlock * kPitch];
  __shared__ __align__(16) half rows[kRows * kPitch];
  __shared__ int pairs[kRows];
  const int n = blockIdx.x, e = blockIdx.y, total = count[e];
  const unsigned char* mine = w + static_cast<size_t>(e) * kWide * kHidden;
  const float* scales = w_scale + static_cast<size_t>(e) * (kWide / kBlock) * kBlocks;
  for (int m = 0; m < total; m += kRows) {
    if (threadIdx.x < kRows) pairs[threadIdx.x] = list[e * num_tokens + min(m + static_cast<int>(threadIdx.x), total - 1)];
    __syncthreads();
    Sum sum[2][2];
    for (int h = 0; h < 2; ++h)
      for (int j = 0; j < 2; ++j) wmma::fill_fragment(sum[h][j], 0.0f);
    for (int b = 0; b < kBlocks; ++b) {
      const int r = threadIdx.x / 8, q = threadIdx.x % 8 * 16, token = pairs[r] / kTop;
      const float scale = x_scale[static_cast<size_t>(b) * num_tokens + token];
      const uint4 raw = *reinterpret_cast<const uint4*>(x + static_cast<size_t>(token) * kHidden + b * kBlock + q);
      const unsigned short* two = reinterpret_cast<const unsigned short*>(&raw);
      for (int i = 0; i < 8; ++i) {
        const float2 v = __half22float2(widen(two[i]));
        *reinterpret_cast<half2*>(rows + r * kPitch + q + i * 2) = __floats2half2_rn(v.x * scale, v.y * scale);
      }
      for (int h = 0; h < 2; ++h) {
        const int block = n + h * (kInner / kBlock);
        load_weights(mine + static_cast<size_t>(block) * kBlock * kHidden + b * kBlock, kHidden, weights);
        __syncthreads();
        multiply(rows, weights, scales[block * kBlocks + b], sum[h]);
        __syncthreads();
      }
    }
    float* result = reinterpret_cast<float*>(weights);
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < sum[0][j].num_elements; ++i) {
        const float gate = sum[1][j].x[i];
        sum[0][j].x[i] *= gate / (1.0f + __expf(-gate));
      }
      wmma::store_matrix_sync(result + threadIdx.x / 32 * 32 + j * 16, sum[0][j], kBlock, wmma::mem_row_major);
    }
    __syncthreads();
    for (int p = threadIdx.x; p < kRows * kBlock; p += 128) {
      const int r = p / kBlock, q = p % kBlock;
      if (m + r < total) inner[static_cast<size_t>(pairs[r]) * kInner + n * kBlock + q] = __float2half(result[p]);
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(128)
down(const half* inner, const unsigned char* w, const float* w_scale, const int* list, const int* count,
     const float* share, float* parts, int num_tokens) {
  constexpr int kBlocks = kInner / kBlock;
  __shared__ __align__(16) half weights[kBlock * kPitch];
  __shared__ __align__(16) half rows[kRows * kPitch];
  __shared__ int pairs[kRows];
  const int n = blockIdx.x, e = blockIdx.y, total = count[e];
  const unsigned char* mine = w + (static_cast<size_t>(e) * kHidden + n * kBlock) * kInner;
  const float* scales = w_scale + (static_cast<size_t>(e) * (kHidden / kBlock) + n) * kBlocks;
  for (int m = 0; m < total; m += kRows) {
    if (threadIdx.x < kRows) pairs[threadIdx.x] = list[e * num_tokens + min(m + static_cast<int>(threadIdx.x), total - 1)];
    __syncthreads();
    Sum sum[2];
    for (int j = 0; j < 2; ++j) wmma::fill_fragment(sum[j], 0.0f);
    for (int b = 0; b < kBlocks; ++b) {
      const int r = threadIdx.x / 8, q = threadIdx.x % 8 * 16;
      const uint4* from = reinterpret_cast<const uint4*>(inner + static_cast<size_t>(pairs[r]) * kInner + b * kBlock + q);
      uint4* to = reinterpret_cast<uint4*>(rows + r * kPitch + q);
      to[0] = from[0], to[1] = from[1];
      load_weights(mine + b * kBlock, kInner, weights);
      __syncthreads();
      multiply(rows, weights, scales[b], sum);
      __syncthreads();
    }
    float* result = reinterpret_cast<float*>(weights);
    for (int j = 0; j < 2; ++j)
      wmma::store_matrix_sync(result + threadIdx.x / 32 * 32 + j * 16, sum[j], kBlock, wmma::mem_row_major);
    __syncthreads();
    for (int p = threadIdx.x; p < kRows * kBlock; p += 128) {
      const int r = p / kBlock, q = p % kBlock;
      if (m + r < total) parts[static_cast<size_t>(pairs[r]) * kHidden + n * kBlock + q] = result[p] * share[pairs[r]];
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(256) combine(const float* parts, const int* expert, __nv_bfloat16* output) {
  const int token = blockIdx.y, column = blockIdx.x * 256 + threadIdx.x;
  float sum = 0;
  for (int slot = 0; slot < kTop; ++slot) {
    const int pair = token * kTop + slot;
    if (expert[pair] >= 0) sum += parts[static_cast<size_t>(pair) * kHidden + column];
  }
  output[static_cast<size_t>(token) * kHidden + column] = __float2bfloat16(sum);
}
