// Memory of the CPU backend: zeroed, aligned to a page at least, in huge pages where the system gives them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ev {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
#if defined(__linux__)
    // 2 MB alignment lets the kernel back the whole range with huge pages
    const size_t align = bytes >= kHuge ? kHuge : 4096;
    mapped_ = (bytes + align - 1) / align * align + (align > 4096 ? align : 0);
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) {
      base_ = nullptr;
      throw std::bad_alloc();
    }
    data_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base_) + align - 1) / align * align);
    if (align == kHuge) madvise(data_, bytes, MADV_HUGEPAGE);
#else
    base_ = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!base_) throw std::bad_alloc();
    std::memset(base_, 0, bytes);
    data_ = static_cast<char*>(base_);
#endif
  }
  Buffer(Buffer&& o) noexcept { swap(o); }
  Buffer& operator=(Buffer&& o) noexcept {
    swap(o);
    return *this;
  }
  ~Buffer() {
    if (!base_) return;
#if defined(__linux__)
    munmap(base_, mapped_);
#else
    std::free(base_);
#endif
  }
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kHuge = size_t{2} << 20;
  void swap(Buffer& o) {
    std::swap(base_, o.base_);
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    std::swap(mapped_, o.mapped_);
  }
  void* base_ = nullptr;
  char* data_ = nullptr;
  size_t bytes_ = 0, mapped_ = 0;
};

}  // namespace ev
