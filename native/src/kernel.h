// Persistent CPU workers that run a plan, step after step, without returning to the host.
//
// The thread that calls `run` is worker 0, the leader; the others are threads of the kernel, parked between launches. A step:
//
//     leader        begin_step: symbols, shapes, pointers, tables checked, event cells laid out      others wait
//     everybody     clears its share of the idle bank of cells, then runs its share of every segment in order, and what others
//                   have left of theirs
//     everybody     arrives; the leader looks at stop rules, signals and the host's callback; next step
//
// Event cells are counters that start every step at zero. There are two banks of them, turned by step: while one is in use,
// the other, used in the step before, is cleared by the workers themselves, so no launch and no step needs a reset.
// Only after an aborted step does the leader clear both.
//
// Where tasks are short, the second step in a row with the same symbols is recorded: each worker writes down the waits, tasks and
// notifications that its shares came to, and replays them from then on, without evaluating a single expression. Waits that an
// earlier wait or the worker's own notifications make certain are left out. What depends on run-time tables is never recorded.
//
// A worker adds up its notifications of one cell over consecutive tasks and sends the sum with the last of them. Since a
// cell needs exactly the notifications that the plan sends, it could not have been triggered earlier.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "events.h"
#include "memory.h"
#include "plan.h"

namespace ev {

// One task on one worker; times in nanoseconds of the steady clock.
struct Record {
  int32_t step, worker, grid, unused;
  int64_t task;                 // linear index in the grid
  int64_t free_ns, start_ns, end_ns;  // the worker could take it up; its events had triggered; it had notified
};

struct Options {
  bool poison = false;        // fill the arena and the outputs with 0xFF before every step
  bool check_counts = false;  // compare every counter with its needed count after every step
  bool pin = false;           // tie each worker to one CPU
  int64_t delay_ns = 0;       // wait a random time up to this before some tasks
  uint64_t delay_seed = 1;
  int64_t spin_ns = 50'000;   // how long a waiting worker spins, then yields, before it sleeps
  int64_t yield_ns = 0;
  int64_t long_task_ns = 4'000;  // of a step for each of a worker's tasks, waits included, from which on steps aren't recorded
};

// Ends a launch early: after each step every element of an int32 output is looked up in its row of tokens.
struct StopRule {
  int io = -1;  // position among the plan's inputs and outputs
  const int32_t* tokens = nullptr;
  int64_t rows = 0, width = 0;
  bool all = false;  // stop when every row has met one of its tokens, rather than any
};

struct Launch {
  int64_t num_steps = 0;
  const int64_t* symbols = nullptr;   // [num_steps, symbols]
  const int64_t* pointers = nullptr;  // [num_steps, inputs and outputs]
  StopRule stop;
  std::function<bool(int64_t)> between;  // after steps: how many are done -> go on?
  int64_t between_ns = 0;                // at most this often
  std::function<bool()> interrupted;     // about every 50 ms
  Record* records = nullptr;             // [workers, records_per_worker]
  int64_t records_per_worker = 0;
  int64_t* record_counts = nullptr;      // [workers]
};

class Kernel {
 public:
  Kernel(Plan plan, const std::vector<const OpEntry*>& entries, Options options);
  ~Kernel();
  Kernel(const Kernel&) = delete;

  const Plan& plan() const { return plan_; }
  // narrow: a weight that was packed as Layout::narrow32 where the plan asks for panels
  void bind(int tensor, void* data, bool narrow = false);
  bool bound(int tensor) const { return views_[tensor].data != nullptr; }
  // Runs the steps of a launch; returns how many were run. Throws Fault if a step cannot go on.
  int64_t run(const Launch& launch);
  // Ends a running launch after its current step; from any thread.
  void stop() { stop_requested_.store(true); }
  int64_t steps_done() const { return done_.load(); }
  // Runs one task alone, on memory of the caller's: one pointer for each operand that the grid has.
  void run_task(int grid, const int64_t* symbols, const int64_t* coords, void* const* operands);
  Options& options() { return options_; }

 private:
  struct Aborted {};
  struct EventStep {
    int64_t base = 0, needed = -1;
    int64_t shape[kMaxDims] = {};
  };
  struct Share {
    uint64_t version = 0;
    int64_t total = 0, rotate = 0;  // tasks of the grid; by how much workers are turned
    int64_t start = 0, count = 0;
    int64_t extents[kMaxAxes] = {};
  };
  // What is left of a worker's share of a segment, for others to take from its end once they have done with theirs: of which segment
  // of which step (24 bits), the next task and the end, counted from the share's first (20 bits each).
  struct Left {
    static constexpr int64_t kMost = (1 << 20) - 1;
    static uint64_t pack(uint64_t tag, int64_t next, int64_t end) {
      return tag << 40 | static_cast<uint64_t>(next) << 20 | static_cast<uint64_t>(end);
    }
    explicit Left(uint64_t packed) : tag(packed >> 40), next(packed >> 20 & kMost), end(packed & kMost) {}
    uint64_t tag;
    int64_t next, end;
  };
  struct TraceOp {
    enum Kind : int32_t { wait, task, notify, barrier, segment } kind;
    int32_t what;    // wait, notify: event; task: grid; segment: its index
    int64_t cell;    // wait, notify: from the bank's start; task: where its coordinates are
    uint64_t count;  // wait: the target; notify: how many; task: whether it is the first of its share
  };
  struct Trace {
    uint64_t version = 0, tried = 0;  // of the symbols that it was made with, or that it became too long with
    std::vector<TraceOp> ops;
    std::vector<int64_t> coords;
    std::vector<uint64_t> waited, sent;  // by cell, while recording
  };
  struct alignas(64) Worker {
    int id = 0;
    uint64_t version = 0, barriers = 0, rng = 0;
    int64_t ticks = 0, num_records = 0, free_ns = 0;
    std::vector<int64_t> slots;
    std::vector<Share> shares;
    Buffer scratch;
    std::thread thread;
    std::atomic<uint64_t> progress{0};
    alignas(64) std::atomic<uint64_t> left{0};
    alignas(64) bool long_tasks = false;  // of the last step that was neither recorded nor replayed
    int stuck_checks = 0;
    uint64_t stuck_progress = 0;
    Trace trace;
    bool recording = false;
    const Event* waits_event = nullptr;
    int64_t waits_cell = 0;
  };
  struct Task {  // what a worker keeps at hand while it runs one grid
    const Grid* grid;
    int index;
    const OpEntry* entry;
    const void* args;
    int64_t coords[kMaxAxes];
    bool fresh;
  };

  void thread_main(int w);
  void begin_step(const Launch& l, int64_t k);
  void set_symbols(const int64_t* symbols);
  void set_pointer(int tensor, void* data);
  void layout_events();
  void check_tables(const std::vector<int>& changed);
  void check_counts();
  void abort_with(const std::string& message);
  void recover();
  bool finished(const Launch& l, int64_t k);

  void run_worker(Worker& me);
  template <bool kInstrumented>
  void run_step(Worker& me);
  template <bool kInstrumented>
  void run_segment(Worker& me, size_t i);
  void begin_trace(Worker& me);
  void replay(Worker& me);
  void wait_event(Worker& me, int event, int64_t cell, uint64_t target);
  int64_t start_of(int worker, const Segment& s, const Share& share, int64_t after = 0) const;
  static int64_t take(std::atomic<uint64_t>& left, uint64_t tag, bool own, int64_t& first);
  template <bool kInstrumented>
  void run_tasks(Worker& me, Task& t, const Segment& s, const Share& share, int64_t at, int64_t count);
  template <bool kInstrumented>
  void run_ragged(Worker& me, Task& t, const Segment& s);
  template <bool kInstrumented>
  void run_row(Worker& me, Task& t, int64_t linear, int64_t first, int64_t count);
  void wait_edge(Worker& me, const Edge& e);
  void notify_edge(Worker& me, const Edge& e, uint64_t n);
  int64_t needed(Worker& me, int event, int64_t cell, const int64_t* shape);
  template <class F>
  void for_cells(const Worker& me, const Edge& e, F&& f) const;
  const int64_t* event_shape(const Worker& me, int event, int64_t* local) const;
  void wait_cell(Worker& me, const Cell& cell, uint64_t target);
  bool should_stop(Worker& me, bool slept);
  void barrier(Worker& me);
  void delay(Worker& me);
  Scope scope(const Worker& me) const { return {me.slots.data(), views_.data(), tables_.data()}; }

  Plan plan_;
  Options options_;
  std::vector<const OpEntry*> entries_;  // by grid
  Buffer arena_, args_memory_;
  std::vector<char*> args_;              // by grid
  std::vector<TensorView> views_;        // by tensor
  std::vector<TableInfo> tables_;        // by tensor
  std::vector<std::vector<Operand*>> uses_;
  std::vector<EventStep> events_;
  std::vector<int64_t> slots_;           // the step's symbols and step slots
  bool events_read_tables_ = false;
  bool forward_ = true;                  // whether tasks wait for tasks of earlier segments alone
  uint64_t version_ = 0;                 // of the symbols
  bool ready_ = false;                   // whether the last begin_step went through
  int64_t process_ = 0;
  Waiting waiting_;
  std::vector<std::unique_ptr<Worker>> workers_;

  std::unique_ptr<Cell[]> banks_[2];
  int64_t bank_cells_ = 0, bank_used_[2] = {0, 0}, step_cells_ = 0, clear_cells_ = 0;
  int parity_ = 0;

  const Launch* launch_ = nullptr;
  int64_t step_in_launch_ = 0, next_signal_check_ = 0, next_between_ = 0;
  uint64_t step_ = 0;
  std::vector<char> row_finished_;
  std::mutex running_, fault_mutex_;
  std::string fault_;
  alignas(64) Cell released_;
  alignas(64) Cell arrived_;
  alignas(64) Cell barrier_;
  alignas(64) std::atomic<bool> abort_{false};
  std::atomic<bool> quit_{false}, stop_requested_{false}, interrupted_{false};
  std::atomic<int64_t> done_{0};
};

}  // namespace ev
