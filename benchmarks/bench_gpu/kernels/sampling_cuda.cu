// One block of 1024 threads a row; no sort: a threshold found by bisection leaves exactly the tokens that survive the
// filter, then one uniform number picks a token by its running sum. COUNT selects top-k (1) or top-p (0).
__device__ inline float block_sum(float value) {
  __shared__ float parts[32];
  __syncthreads();
  for (int d = 16; d; d /= 2) value += __shfl_xor_sync(0xffffffff, value, d);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < 32; ++i) total += parts[i];
  return total;
}

__device__ inline float uniform(unsigned long long seed, unsigned row) {
  unsigned long long z = seed + 0x9e3779b97f4a7c15ull * (row + 1);  // splitmix64
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return ((z ^ (z >> 31)) >> 40) * (1.0f / 16777216.0f);
}

extern "C" __global__ void __launch_bounds__(1024)
sample(const float* probs, const LIMIT* limits, long long* samples, unsigned long long seed, int vocab) {
  const float* row = probs + static_cast<size_t>(blockIdx.x) * vocab;
  const float limit = static_cast<float>(limits[blockIdx.x]);
  float low = -1.0f, high = 1.0f;
  for (int step = 0; step < 40; ++step) {
    const float middle = (low + high) * 0.5f;
    float part = 0;
    for (int i = threadIdx.x; i < vocab; i += 1024) {
      const float p = row[i];
      if (p > middle) part += COUNT ? 1.0f : p;
    }
    const float value = block_sum(part);
    const bool fits = COUNT ? value < limit : value <= limit;
    if (fits) high = middle; else low = middle;
  }
  // every thread owns a run of neighbours, so that running sums are in the order of the vocabulary
  const int share = (vocab + 1023) / 1024, first = threadIdx.x * share, stop = min(first + share, vocab);
  float own = 0;
  for (int i = first; i < stop; ++i) own += row[i] > low && row[i] > 0 ? row[i] : 0.0f;
  __shared__ float sums[1024];
  __shared__ int chosen, fallback;
  sums[threadIdx.x] = own;
  if (threadIdx.x == 0) chosen = 0x7fffffff, fallback = 0;
  __syncthreads();
  for (int d = 1; d < 1024; d *= 2) {
    const float add = threadIdx.x >= d ? sums[threadIdx.x - d] : 0.0f;
    __syncthreads();
    sums[threadIdx.x] += add;
    __syncthreads();
  }
  const float target = uniform(seed, blockIdx.x) * sums[1023];
  float running = threadIdx.x ? sums[threadIdx.x - 1] : 0.0f;
  if (own > 0 && running <= target && target < sums[threadIdx.x]) {
    int token = -1, last = -1;
    for (int i = first; i < stop && token < 0; ++i) {
      if (row[i] > low && row[i] > 0) {
        last = i;
        running += row[i];
        if (running > target) token = i;
      }
    }
    atomicMin(&chosen, token < 0 ? last : token);
  }
  for (int i = stop - 1; i >= first; --i)
    if (row[i] > low && row[i] > 0) {
      atomicMax(&fallback, i);
      break;
    }
  __syncthreads();
  if (threadIdx.x == 0) samples[blockIdx.x] = chosen == 0x7fffffff ? fallback : chosen;
}
