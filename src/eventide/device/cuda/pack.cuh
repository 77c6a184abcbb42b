// Repacks rows of a plain bf16 weight of `k` columns into PANEL8: row r of `src` is row first + r * step of the weight. One
// thread writes 16 bytes; columns beyond k are written as zeros.
extern "C" __global__ void pack_panel8(const unsigned short* src, unsigned short* dst, int first, int step, int rows, int k, int padded_k) {
  const long long pieces = (long long)rows * (padded_k / 8);
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < pieces; i += (long long)gridDim.x * blockDim.x) {
    const int r = (int)(i / (padded_k / 8)), c = (int)(i % (padded_k / 8)) * 8, n = first + r * step;
    unsigned short v[8];
    #pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = c + e < k ? src[(long long)r * k + c + e] : (unsigned short)0;
    const long long at = (long long)(n >> 3) * 8 * padded_k + (c >> 5) * 256 + (n & 7) * 32 + ((((c >> 3) & 3) ^ ((n >> 1) & 3)) << 3);
    *(uint4*)(dst + at) = *(const uint4*)v;
  }
}
