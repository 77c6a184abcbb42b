#include <cuda_bf16.h>

// Attention of one query row and head by one block of eight warps. A warp takes every eighth key: its lanes hold four
// dimensions each (128 in all), the dot product is a shuffle, the softmax is online; the warps' states are merged at the
// end through shared memory. Plain and exact; memory is read once per query head.
constexpr int kWarps = 8;
#define kLowest __int_as_float(0xff800000)  // minus infinity; NVRTC has no math.h

__device__ inline float4 load4(const __nv_bfloat16* p) {
  const uint2 raw = *reinterpret_cast<const uint2*>(p);
  const float2 a = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
  const float2 b = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
  return make_float4(a.x, a.y, b.x, b.y);
}

template <class Row>
__device__ void attend(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, int count, Row row,
                       float scale, __nv_bfloat16* out, float* lse) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float4 query = load4(q + lane * 4);
  float top = kLowest, total = 0;
  float4 sum = make_float4(0, 0, 0, 0);
  for (int t = warp; t < count; t += kWarps) {
    const size_t at = row(t) + lane * 4;
    const float4 key = load4(k + at), value = load4(v + at);
    float logit = query.x * key.x + query.y * key.y + query.z * key.z + query.w * key.w;
    for (int d = 16; d; d /= 2) logit += __shfl_xor_sync(0xffffffff, logit, d);
    logit *= scale;
    const float next = fmaxf(top, logit), keep = __expf(top - next), add = __expf(logit - next);
    total = total * keep + add;
    sum.x = sum.x * keep + add * value.x, sum.y = sum.y * keep + add * value.y;
    sum.z = sum.z * keep + add * value.z, sum.w = sum.w * keep + add * value.w;
    top = next;
  }
  __shared__ float tops[kWarps], totals[kWarps];
  __shared__ float4 sums[kWarps][32];
  if (lane == 0) tops[warp] = top, totals[warp] = total;
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0) return;
  float best = kLowest, mass = 0;
  for (int w = 0; w < kWarps; ++w) best = fmaxf(best, tops[w]);
  float4 all = make_float4(0, 0, 0, 0);
  for (int w = 0; w < kWarps; ++w) {
    const float keep = totals[w] > 0 ? __expf(tops[w] - best) : 0.0f;
    mass += totals[w] * keep;
    all.x += sums[w][lane].x * keep, all.y += sums[w][lane].y * keep;
    all.z += sums[w][lane].z * keep, all.w += sums[w][lane].w * keep;
  }
  const float inv = mass > 0 ? 1.0f / mass : 0.0f;
  __nv_bfloat162* place = reinterpret_cast<__nv_bfloat162*>(out + lane * 4);
  place[0] = __floats2bfloat162_rn(all.x * inv, all.y * inv);
  place[1] = __floats2bfloat162_rn(all.z * inv, all.w * inv);
  if (lane == 0) *lse = mass > 0 ? (best + logf(mass)) * 1.4426950408889634f : kLowest;
}

extern "C" __global__ void __launch_bounds__(256)
paged_decode(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const int* indptr,
             const int* indices, __nv_bfloat16* out, float* lse, int heads, int kv_heads, float scale) {
  const int b = blockIdx.x, h = blockIdx.y, kv = h / (heads / kv_heads);
  const int start = indptr[b], count = indptr[b + 1] - start;
  const size_t at = static_cast<size_t>(b) * heads + h;
  const auto row = [=](int t) { return (static_cast<size_t>(indices[start + t]) * kv_heads + kv) * 128; };
  attend(q + at * 128, k, v, count, row, scale, out + at * 128, lse + at);
}

extern "C" __global__ void __launch_bounds__(256)
ragged_prefill(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const int* qo_indptr,
               const int* kv_indptr, __nv_bfloat16* out, float* lse, int heads, int kv_heads, int num_seqs, float scale) {
  const int token = blockIdx.x, h = blockIdx.y, kv = h / (heads / kv_heads);
  int s = 0;
  while (s + 1 < num_seqs && token >= qo_indptr[s + 1]) ++s;
  const int num_q = qo_indptr[s + 1] - qo_indptr[s], start = kv_indptr[s], num_kv = kv_indptr[s + 1] - start;
  const int seen = token - qo_indptr[s] + 1 + num_kv - num_q;  // causal, aligned at the end
  const size_t at = static_cast<size_t>(token) * heads + h;
  const auto row = [=](int t) { return (static_cast<size_t>(start + t) * kv_heads + kv) * 128; };
  attend(q + at * 128, k, v, min(max(seen, 0), num_kv), row, scale, out + at * 128, lse + at);
}

extern "C" __global__ void __launch_bounds__(256)
paged_prefill(const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v, const int* qo_indptr,
              const int* kv_indptr, const int* indices, __nv_bfloat16* out, float* lse, int heads, int kv_heads,
              int num_seqs, float scale) {
  const int token = blockIdx.x, h = blockIdx.y, kv = h / (heads / kv_heads);
  int s = 0;
  while (s + 1 < num_seqs && token >= qo_indptr[s + 1]) ++s;
  const int num_q = qo_indptr[s + 1] - qo_indptr[s], start = kv_indptr[s], num_kv = kv_indptr[s + 1] - start;
  const int seen = token - qo_indptr[s] + 1 + num_kv - num_q;  // causal, aligned at the end
  const size_t at = static_cast<size_t>(token) * heads + h;
  const auto row = [=](int t) { return (static_cast<size_t>(indices[start + t]) * kv_heads + kv) * 128; };
  attend(q + at * 128, k, v, min(max(seen, 0), num_kv), row, scale, out + at * 128, lse + at);
}
