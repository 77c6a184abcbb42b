// A loop over independent pieces of work, cut into even runs of them, one a thread.
#pragma once
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace ev {

template <class Fn>
void in_parallel(int64_t pieces, int num_threads, Fn fn) {
  const int64_t parts = std::clamp<int64_t>(num_threads, 1, std::max<int64_t>(pieces, 1));
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < parts; i++) {
    auto part = [=, &fn] {
      for (int64_t p = pieces * i / parts; p < pieces * (i + 1) / parts; p++) fn(p);
    };
    if (i + 1 < parts)
      threads.emplace_back(part);
    else
      part();
  }
  for (auto& t : threads) t.join();
}

}  // namespace ev
