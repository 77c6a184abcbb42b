// Times the linears of a model alone, without plan or runtime: two workers, static shares, a spinning barrier after each; with
// weights of 16 bits, of 12 (Layout::narrow32), and a loop that only reads as many bytes, one after another in every round.
//
//     python -m eventide.ops.codegen /tmp/generated --isas avx512
//     g++ -std=c++17 -O3 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -fno-math-errno -DEV_ISA=avx512 -I/tmp/generated
//         -Isrc/eventide -Inative/src native/bench/linears.cpp native/src/pack.cpp native/src/pack_narrow.cpp -pthread
//         -o /tmp/linears                                              (one line, from the repository's root)
//     /tmp/linears 0.6b 1          tokens a step; also: tiny. Prints medians over the rounds, and of ratios within a round.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "linear_args.h"
#include "ops/linear/cpu.h"
#include "pack.h"

using namespace ev;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

char* huge(size_t bytes) {
  bytes = (bytes + (2 << 20) - 1) >> 21 << 21;
  char* p = static_cast<char*>(std::aligned_alloc(2 << 20, bytes));
  madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

constexpr int kWorkers = 2;

double read_seconds(const char* data, size_t bytes) {
  const double start = now();
  std::vector<std::thread> threads;
  for (int w = 0; w < kWorkers; w++)
    threads.emplace_back([=] {
      using namespace ev::EV_ISA;
      F sums[8] = {};
      const float* p = reinterpret_cast<const float*>(data + bytes / kWorkers * w);
      for (size_t i = 0; i < bytes / kWorkers / 4; i += 8 * L)
        for (int j = 0; j < 8; j++) {
          __builtin_prefetch(p + i + j * L + 1024);
          sums[j] += load(p + i + j * L);
        }
      F all = sums[0];
      for (int j = 1; j < 8; j++) all += sums[j];
      volatile float sink = sum(all);
      (void)sink;
    });
  for (auto& t : threads) t.join();
  return now() - start;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string model = argc > 1 ? argv[1] : "0.6b";
  const int64_t tokens = argc > 2 ? std::atoi(argv[2]) : 1;
  const int64_t tile_m = argc > 3 ? std::atoi(argv[3]) : 128;
  struct Shape {
    int64_t n, k;
    bool norm, gated, residual;
  };
  std::vector<Shape> layer = {{4096, 1024, true, false, false},
                              {1024, 2048, false, false, true},
                              {6144, 1024, true, true, false},
                              {1024, 3072, false, false, true}};
  int layers = 28;
  Shape head{151936, 1024, true, false, false};
  if (model == "tiny") {
    layers = 4, head = {4096, 256, true, false, false};
    layer = {{512, 256, true, false, false},
             {256, 256, false, false, true},
             {1536, 256, true, true, false},
             {256, 768, false, false, true}};
  }
  std::vector<Shape> shapes;
  for (int i = 0; i < layers; i++) shapes.insert(shapes.end(), layer.begin(), layer.end());
  shapes.push_back(head);
  size_t bytes = 0, narrow_bytes = 0;
  for (auto& s : shapes) bytes += size_t(s.n * s.k * 2);
  // normal numbers of standard deviation 0.02, as bfloat16
  std::vector<uint16_t> normal(1 << 22);
  std::mt19937 random(1);
  std::normal_distribution<float> draw(0, 0.02f);
  for (auto& v : normal) {
    const float f = draw(random);
    std::memcpy(&v, reinterpret_cast<const char*>(&f) + 2, 2);
  }
  char* weights = huge(bytes + (4 << 20));
  char* x = huge(tokens * 8192 * 4);
  char* y = huge(tokens * 160000 * 4);
  for (int64_t i = 0; i < tokens * 8192; i++) reinterpret_cast<uint16_t*>(x)[i] = uint16_t(0x3f00 + i % 64);
  std::vector<linear_args> calls[2];  // 16 bits, 12 bits
  size_t at = 0;
  for (auto& s : shapes) {
    linear_args a{};
    const bool last = &s == &shapes.back();
    const int64_t rows = last && tokens > 64 ? 1 : tokens, cols = s.gated ? s.n / 2 : s.n;
    a.x = {x, {rows, s.k}, DType::bf16, Layout::plain};
    a.w = {weights + at, {s.n, s.k}, DType::bf16, Layout::panel32};
    if (s.norm) a.norm_weight = {x, {s.k}, DType::bf16, Layout::plain};
    if (s.residual) a.residual = {x, {rows, cols}, DType::bf16, Layout::plain};
    a.y = {y, {rows, cols}, last ? DType::f32 : DType::bf16, Layout::plain};
    a.activation = s.gated ? linear_activation::silu_mul : linear_activation::none;
    a.eps = 1e-6f, a.tile_m = tile_m, a.tile_n = 32;
    std::vector<uint16_t> plain(size_t(s.n * s.k));
    for (size_t i = 0; i < plain.size(); i++) plain[i] = normal[(at / 2 + i) * 2654435761u % normal.size()];
    pack_all(plain.data(), s.n, s.k, DType::bf16, a.w.data, kWorkers);
    calls[0].push_back(a);
    const auto how = narrow(plain.data(), s.n, s.k, kWorkers);
    a.w.data = huge(size_t(how->bytes)), a.w.layout = Layout::narrow32;
    pack_narrow(plain.data(), s.n, s.k, *how, a.w.data, kWorkers);
    calls[1].push_back(a);
    at += size_t(s.n * s.k * 2), narrow_bytes += size_t(how->bytes);
  }
  auto step = [&](const std::vector<linear_args>& calls, char* const* scratch) {
    std::atomic<int64_t> arrived{0};
    auto worker = [&](int w) {
      int64_t round = 0;
      for (auto& a : calls) {
        const int64_t panels = (a.w.shape[0] + 31) / 32, tiles = (a.y.shape[0] + tile_m - 1) / tile_m;
        bool fresh = true;
        for (int64_t m = 0; m < tiles; m++)
          for (int64_t n = panels * w / kWorkers; n < panels * (w + 1) / kWorkers; n++, fresh = false)
            ev::EV_ISA::linear_task(a, {m, n}, {scratch[w], fresh});
        round++;
        arrived.fetch_add(1);
        for (int spins = 0; arrived.load() < round * kWorkers; spins++)
          if (spins > 10000) std::this_thread::yield();
      }
    };
    std::thread other(worker, 1);
    const double start = now();
    worker(0);
    const double seconds = now() - start;
    other.join();
    return seconds;
  };
  char* scratch[] = {huge(64 << 20), huge(64 << 20)};
  const int rounds = tokens > 64 ? 3 : model == "tiny" ? 500 : 11;
  std::vector<double> read, wide, narrow;
  std::vector<char> sums[2];
  for (int i = 0; i < rounds; i++) {
    read.push_back(read_seconds(weights, bytes / 1024 * 1024));
    for (int j = 0; j < 2; j++) {
      (j ? narrow : wide).push_back(step(calls[j], scratch));
      sums[j].assign(y, y + 4 * calls[j].back().y.shape[0] * calls[j].back().y.shape[1]);
    }
  }
  if (sums[0] != sums[1]) std::puts("WRONG: the two forms of the weights give different bits");
  auto median = [](std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  auto ratio = [&](const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> r;
    for (size_t i = 0; i < a.size(); i++) r.push_back(a[i] / b[i]);
    return median(r);
  };
  auto show = [&](const char* name, const std::vector<double>& times, size_t moved) {
    const double t = median(times);
    std::printf("%s, %ld tokens, %s: %.3f ms a step, %.1f tok/s, %.1f GB/s; speed of 16 bits x %.3f, of reading 16 bits x %.3f\n",
                model.c_str(), long(tokens), name, t * 1e3, tokens / t, moved / t * 1e-9, ratio(wide, times), ratio(read, times));
  };
  show("16 bits", wide, bytes);
  show("12 bits", narrow, narrow_bytes);
  show("reading 16 bits", read, bytes);
}
