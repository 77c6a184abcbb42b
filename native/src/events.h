// Event cells, and how a worker waits for one: it spins, yields if asked to, then sleeps.
//
// A cell is a counter on its own cache line. A notification adds with release, a waiter reads with acquire. Spinning answers
// within the time that a cache line takes to move; sleeping leaves the core to whoever needs it, be it another process or
// the very worker that is waited for, and who sleeps is preferred when woken. A notifier finds out with one load of a line that nobody writes
// whether anyone sleeps, and wakes only those whose count is reached.
//
// The two meet safely because both sides use sequentially consistent operations: the sleeper announces itself and then
// looks at the count, the notifier adds to the count and then looks for sleepers, so one of them sees the other.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

namespace ev {

struct alignas(64) Cell {
  std::atomic<uint64_t> count{0};
};

inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline int64_t now_ns() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

class Waiting {
 public:
  explicit Waiting(int num_workers) : num_(num_workers), sleepers_(new Sleeper[num_workers]) {}

  int64_t spin_ns = 50'000;  // longer than workers of an idle machine differ at one event
  int64_t yield_ns = 0;      // after that, if asked for: no gain was measured, beside a busy process or on one CPU

  void notify(Cell& cell, uint64_t n) {
    const uint64_t now = cell.count.fetch_add(n, std::memory_order_seq_cst) + n;
    if (num_sleepers_.load(std::memory_order_seq_cst)) wake(cell, now);
  }

  static bool ready(const Cell& cell, uint64_t target) { return cell.count.load(std::memory_order_acquire) >= target; }

  // Returns when the cell has reached the target, or as soon as `stop()` is true; `stop` is also called about every 100 ms
  // of sleep, so it may look for signals and for a step that is stuck.
  template <class Stop>
  void wait(const Cell& cell, uint64_t target, int worker, Stop&& stop) {
    for (int i = 0; i < 64; ++i) {
      if (ready(cell, target)) return;
      cpu_pause();
    }
    const int64_t start = now_ns();
    for (int64_t spent = 0; spent < spin_ns + yield_ns; spent = now_ns() - start) {
      if (spent < spin_ns) {
        for (int i = 0; i < 32; ++i) {
          if (ready(cell, target)) return;
          cpu_pause();
        }
      } else {
        if (ready(cell, target)) return;
        std::this_thread::yield();
      }
      if (stop(false)) return;
    }
    sleep(cell, target, worker, stop);
  }

  // Whether every worker sleeps on a cell that has not reached its count.
  bool all_asleep() const {
    for (int i = 0; i < num_; ++i) {
      const Cell* cell = sleepers_[i].cell.load(std::memory_order_seq_cst);
      if (!cell || ready(*cell, sleepers_[i].target.load(std::memory_order_relaxed))) return false;
    }
    return true;
  }

  void wake_all() {
    for (int i = 0; i < num_; ++i) wake_one(sleepers_[i]);
  }

 private:
  struct alignas(64) Sleeper {
    std::atomic<const Cell*> cell{nullptr};
    std::atomic<uint64_t> target{0};
    std::atomic<uint32_t> word{0};
  };

  template <class Stop>
  void sleep(const Cell& cell, uint64_t target, int worker, Stop&& stop) {
    Sleeper& me = sleepers_[worker];
    me.target.store(target, std::memory_order_relaxed);
    me.cell.store(&cell, std::memory_order_seq_cst);
    num_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    for (;;) {
      const uint32_t word = me.word.load(std::memory_order_seq_cst);
      if (cell.count.load(std::memory_order_seq_cst) >= target || stop(true)) break;
      futex_wait(me.word, word);
    }
    num_sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    me.cell.store(nullptr, std::memory_order_seq_cst);
  }

  void wake(const Cell& cell, uint64_t now) {
    for (int i = 0; i < num_; ++i) {
      Sleeper& s = sleepers_[i];
      if (s.cell.load(std::memory_order_seq_cst) == &cell && now >= s.target.load(std::memory_order_relaxed)) wake_one(s);
    }
  }

  static void wake_one(Sleeper& s) {
    s.word.fetch_add(1, std::memory_order_seq_cst);
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&s.word), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
#endif  // elsewhere a sleeper polls; waking is in the library from C++20 on
  }

  static void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
#if defined(__linux__)
    const timespec limit{0, 100'000'000};
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, &limit, nullptr, 0);
#else
    // no timed wait in the standard library: poll, gently
    if (word.load() == seen) std::this_thread::sleep_for(std::chrono::microseconds(200));
#endif
  }

  int num_;
  std::unique_ptr<Sleeper[]> sleepers_;
  alignas(64) std::atomic<int32_t> num_sleepers_{0};
};

}  // namespace ev
