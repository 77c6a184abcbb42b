// Runs a plan over and over under a sanitizer and compares every output bit by bit with what the file says.
//
//     stress PLAN DATA PASSES
//
// DATA (tests/backends/test_sanitizers.py writes it), little endian: int64 count of bound tensors, then for each its number,
// its bytes, and the bytes themselves (states are restored from there before every pass); int64 steps; for each step its
// symbols, then for every input and output the bytes and the data that goes in or must come out.
// Between passes: launches of random lengths, random delays before tasks, launches stopped from another thread, and
// launches aborted in the middle of a step, after which the next must still be right.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "kernel.h"

namespace ev {
extern const OpEntry* const builtin_entries[];
}

namespace {

struct Blob {
  std::vector<char> bytes;
  void read(std::istream& in) {
    int64_t n = 0;
    in.read(reinterpret_cast<char*>(&n), 8);
    bytes.resize(static_cast<size_t>(n));
    in.read(bytes.data(), n);
  }
};

int64_t read_int64(std::istream& in) {
  int64_t v = 0;
  in.read(reinterpret_cast<char*>(&v), 8);
  return v;
}

struct Bound {
  int64_t tensor;
  Blob initial;
  ev::Buffer memory;
};

struct Step {
  std::vector<Blob> io;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "usage: stress PLAN DATA PASSES\n"), 2;
  std::ifstream text(argv[1]), data(argv[2], std::ios::binary);
  ev::Plan plan = ev::Plan::parse(std::string(std::istreambuf_iterator<char>(text), {}));
  const size_t num_symbols = plan.symbols.size(), num_io = plan.io.size();
  std::vector<bool> is_output;
  for (int t : plan.io) is_output.push_back(plan.tensors[t].role == ev::Role::output);
  std::vector<const ev::OpEntry*> entries;
  for (auto* e = ev::builtin_entries; *e; ++e) entries.push_back(*e);
  ev::Options options;
  options.poison = options.check_counts = true;
  ev::Kernel kernel(std::move(plan), entries, options);

  std::vector<Bound> bound(static_cast<size_t>(read_int64(data)));
  for (Bound& b : bound) {
    b.tensor = read_int64(data);
    b.initial.read(data);
    b.memory = ev::Buffer(b.initial.bytes.size());
    kernel.bind(static_cast<int>(b.tensor), b.memory.data());
  }
  const auto num_steps = static_cast<size_t>(read_int64(data));
  std::vector<int64_t> symbols, pointers;
  std::vector<Step> steps(num_steps), got(num_steps);
  for (size_t k = 0; k < num_steps; ++k) {
    for (size_t i = 0; i < num_symbols; ++i) symbols.push_back(read_int64(data));
    steps[k].io.resize(num_io);
    got[k].io.resize(num_io);
    for (size_t i = 0; i < num_io; ++i) {
      steps[k].io[i].read(data);
      got[k].io[i].bytes.resize(steps[k].io[i].bytes.size() + 1);
      Blob& blob = is_output[i] ? got[k].io[i] : steps[k].io[i];
      if (!is_output[i]) blob.bytes.reserve(1);
      pointers.push_back(reinterpret_cast<int64_t>(blob.bytes.data()));
    }
  }
  if (!data) return std::fprintf(stderr, "the data file is too short\n"), 2;

  std::mt19937 rng(1);
  auto restore = [&] {
    for (Bound& b : bound) std::memcpy(b.memory.data(), b.initial.bytes.data(), b.initial.bytes.size());
  };
  auto launch = [&](size_t from, size_t count) {
    ev::Launch l;
    l.num_steps = static_cast<int64_t>(count);
    l.symbols = symbols.data() + from * num_symbols;
    l.pointers = pointers.data() + from * num_io;
    return l;
  };
  const int passes = std::atoi(argv[3]);
  for (int pass = 0; pass < passes; ++pass) {
    restore();
    kernel.options().delay_ns = pass % 2 ? 200'000 : 0;
    kernel.options().long_task_ns = pass % 4 ? 4'000 : 1'000'000'000;  // now and then steps are recorded, however slow a build is
    for (size_t k = 0; k < num_steps;) {
      const size_t count = std::min<size_t>(num_steps - k, 1 + rng() % 5);
      ev::Launch l = launch(k, count);
      std::vector<ev::Record> records(4096 * 8);
      int64_t counts[64] = {};
      if (pass % 3 == 2) {
        l.records = records.data();
        l.records_per_worker = 4096;
        l.record_counts = counts;
      }
      k += static_cast<size_t>(kernel.run(l));
    }
    for (size_t k = 0; k < num_steps; ++k)
      for (size_t i = 0; i < num_io; ++i)
        if (is_output[i] && !steps[k].io[i].bytes.empty() &&
            std::memcmp(got[k].io[i].bytes.data(), steps[k].io[i].bytes.data(), steps[k].io[i].bytes.size()))
          return std::fprintf(stderr, "pass %d, step %zu: output %zu differs\n", pass, k, i), 1;

    // stopped from another thread, between two steps
    std::thread stopper([&] { kernel.stop(); });
    restore();
    kernel.run(launch(0, num_steps));
    stopper.join();

    // aborted inside a step: the leader says so at its first look, and delays make steps long enough to be looked into
    restore();
    kernel.options().delay_ns = 30'000'000;
    ev::Launch aborted = launch(0, num_steps);
    aborted.interrupted = [] { return true; };
    const int64_t done = kernel.run(aborted);
    if (done == static_cast<int64_t>(num_steps)) return std::fprintf(stderr, "pass %d: the launch was not aborted\n", pass), 1;
  }
  std::printf("%d passes of %zu steps\n", passes, num_steps);
  return 0;
}
