// The tensors that a C++ or CUDA solution in the plain C form is given: DLPack's layout
// (https://dmlc.github.io/dlpack/latest/c_api.html), for sources that do not bring dlpack.h themselves.
//
//     extern "C" int run(const DLTensor* x, DLTensor* y);   // 0: done; anything else is a RUNTIME_ERROR
//
// Kernels belong on eventide_bench::stream(), the stream that the caller works on: `kernel<<<grid, block, 0, stream()>>>`.
// On the default stream they are right as well, but cannot be captured in a CUDA graph.
//
// Tensors are row-major and contiguous, strides are null, byte_offset is 0. Scalars come as int64_t or double.
#pragma once
#include <cstdint>

#ifndef DLPACK_VERSION
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_
struct DLDevice { int32_t device_type; int32_t device_id; };
struct DLDataType { uint8_t code; uint8_t bits; uint16_t lanes; };
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
#endif
#endif

namespace eventide_bench {
template <class T> inline T* data(const DLTensor* t) { return static_cast<T*>(t->data); }
inline int64_t numel(const DLTensor* t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; ++i) n *= t->shape[i];
  return n;
}
}  // namespace eventide_bench

#ifdef __CUDACC__
// set before each call; in the library only if stream() is used, which is how a caller knows that it may capture
extern "C" {
__attribute__((visibility("default"))) inline void* eventide_bench_stream = nullptr;
}
namespace eventide_bench {
inline cudaStream_t stream() { return static_cast<cudaStream_t>(eventide_bench_stream); }
}  // namespace eventide_bench
#endif
