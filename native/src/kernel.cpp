// The host's side of the workers: set-up, the leader's work between steps, stopping. The step itself is in step.cpp.
#include "kernel.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace ev {
namespace {

void pin_to(std::thread& thread, int worker) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != worker) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
    return;
  }
#endif
}

void write_attr(char* args, const AttrField& f, double v) {
  char* at = args + f.offset;
  switch (f.kind) {
    case AttrKind::i64:
      *reinterpret_cast<int64_t*>(at) = static_cast<int64_t>(v);
      break;
    case AttrKind::f32:
      *reinterpret_cast<float*>(at) = static_cast<float>(v);
      break;
    case AttrKind::boolean:
      *reinterpret_cast<bool*>(at) = v != 0;
      break;
    case AttrKind::choice:
      *reinterpret_cast<int32_t*>(at) = static_cast<int32_t>(v);
      break;
  }
}

int operand_offset(const OpEntry& e, const std::string& name) {
  for (int i = 0; i < e.num_operands; ++i)
    if (name == e.operand_names[i]) return e.operand_offsets[i];
  throw std::runtime_error("operator '" + std::string(e.op) + "' was compiled without the operand '" + name +
                           "'; build the extension again");
}

}  // namespace

Kernel::Kernel(Plan plan, const std::vector<const OpEntry*>& entries, Options options)
    : plan_(std::move(plan)), options_(options), waiting_(plan_.num_workers) {
  waiting_.spin_ns = options_.spin_ns;
  waiting_.yield_ns = options_.yield_ns;
  const size_t n = plan_.tensors.size();
  views_.resize(n);
  uses_.resize(n);
  for (const Tensor& t : plan_.tensors) tables_.push_back({t.dtype, static_cast<int>(t.shape.size()), t.name});
  arena_ = Buffer(static_cast<size_t>(plan_.arena_bytes));
  for (size_t i = 0; i < n; ++i)
    if (plan_.tensors[i].offset >= 0) views_[i].data = arena_.data() + plan_.tensors[i].offset;

  size_t bytes = 0;
  std::vector<size_t> offsets;
  for (const Grid& g : plan_.grids) {
    const OpEntry* entry = nullptr;
    for (const OpEntry* e : entries)
      if (g.op == e->op) entry = e;
    if (!entry) throw std::runtime_error("operator '" + g.op + "' has no CPU code in this build");
    if (entry->num_axes != static_cast<int>(g.extents.size()) || entry->num_attrs != static_cast<int>(g.attrs.size()))
      throw std::runtime_error("operator '" + g.op + "' was compiled from another declaration; build the extension again");
    entries_.push_back(entry);
    offsets.push_back(bytes);
    bytes += (static_cast<size_t>(entry->args_bytes) + 63) / 64 * 64;
  }
  args_memory_ = Buffer(bytes);
  for (size_t i = 0; i < plan_.grids.size(); ++i) {
    const Grid& g = plan_.grids[i];
    const OpEntry& e = *entries_[i];
    char* args = args_memory_.data() + offsets[i];
    args_.push_back(args);
    for (int o = 0; o < e.num_operands; ++o) *reinterpret_cast<Operand*>(args + e.operand_offsets[o]) = Operand{};
    for (const OperandUse& u : g.operands) {
      auto* operand = reinterpret_cast<Operand*>(args + operand_offset(e, u.name));
      const Tensor& t = plan_.tensors[u.tensor];
      operand->dtype = t.dtype;
      operand->layout = t.layout;
      operand->data = views_[u.tensor].data;
      uses_[u.tensor].push_back(operand);
    }
    for (size_t a = 0; a < g.attrs.size(); ++a) {
      if (g.attrs[a].name != e.attrs[a].name)
        throw std::runtime_error("operator '" + g.op + "' has no attribute '" + g.attrs[a].name + "' in this build");
      write_attr(args, e.attrs[a], g.attrs[a].number);
    }
  }
  slots_.resize(plan_.num_slots);
  events_.resize(plan_.events.size());
  for (const Event& e : plan_.events) events_read_tables_ |= e.reads_tables;
  std::vector<size_t> last(plan_.events.size(), 0);  // the last segment that notifies an event
  for (size_t i = 0; i < plan_.segments.size(); ++i)
    for (const Edge& e : plan_.grids[plan_.segments[i].grid].notifies) last[e.event] = i;
  for (size_t i = 0; i < plan_.segments.size(); ++i) {
    const Grid& g = plan_.grids[plan_.segments[i].grid];
    for (const auto* edges : {&g.enter, &g.waits})
      for (const Edge& e : *edges) forward_ &= last[e.event] < i;
  }
  for (int w = 0; w < plan_.num_workers; ++w) {
    workers_.push_back(std::make_unique<Worker>());
    Worker& me = *workers_.back();
    me.id = w;
    me.rng = options_.delay_seed * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(w) + 1;
    me.slots.resize(plan_.num_slots);
    me.shares.resize(plan_.segments.size());
  }
#if defined(__unix__) || defined(__APPLE__)
  process_ = getpid();
#endif
  for (int w = 1; w < plan_.num_workers; ++w) {
    workers_[w]->thread = std::thread([this, w] { thread_main(w); });
    if (options_.pin) pin_to(workers_[w]->thread, w);
  }
}

Kernel::~Kernel() {
#if defined(__unix__) || defined(__APPLE__)
  if (getpid() != process_) {  // a forked child has this object but not its threads
    for (auto& w : workers_)
      if (w->thread.joinable()) w->thread.detach();
    return;
  }
#endif
  quit_.store(true);
  waiting_.wake_all();
  for (auto& w : workers_)
    if (w->thread.joinable()) w->thread.join();
}

void Kernel::bind(int tensor, void* data, bool narrow) {
  set_pointer(tensor, data);
  const Layout layout = narrow ? Layout::narrow32 : plan_.tensors[tensor].layout;
  for (Operand* o : uses_[tensor]) {
    ready_ &= o->layout == layout;  // scratch depends on layouts
    o->layout = layout;
  }
}

void Kernel::set_pointer(int tensor, void* data) {
  views_[tensor].data = data;
  for (Operand* o : uses_[tensor]) o->data = data;
}

void Kernel::thread_main(int w) {
  for (uint64_t s = 1;; ++s) {
    waiting_.wait(released_, s, w, [this](bool) { return quit_.load(std::memory_order_relaxed); });
    if (quit_.load()) return;
    run_worker(*workers_[w]);
    waiting_.notify(arrived_, 1);
  }
}

int64_t Kernel::run(const Launch& launch) {
  std::unique_lock<std::mutex> lock(running_, std::try_to_lock);
  if (!lock.owns_lock()) throw Fault("this kernel is running already, in another thread");
#if defined(__unix__) || defined(__APPLE__)
  if (getpid() != process_) throw Fault("this kernel's workers live in the process that made it; make kernels after forking");
#endif
  launch_ = &launch;
  stop_requested_.store(false);
  interrupted_.store(false);
  done_.store(0);
  row_finished_.assign(static_cast<size_t>(launch.stop.rows), 0);
  next_signal_check_ = now_ns() + 50'000'000;
  next_between_ = 0;
  for (auto& w : workers_) w->num_records = 0;
  for (int64_t k = 0; k < launch.num_steps; ++k) {
    step_in_launch_ = k;
    begin_step(launch, k);
    ++step_;
    waiting_.notify(released_, 1);
    run_worker(*workers_[0]);
    const uint64_t target = step_ * static_cast<uint64_t>(plan_.num_workers - 1);
    // whoever is still in the step keeps using its memory, so the leader waits for all even when it aborts
    waiting_.wait(arrived_, target, 0, [this](bool slept) {
      if (!abort_.load(std::memory_order_relaxed)) should_stop(*workers_[0], slept);
      return false;
    });
    if (abort_.load()) {
      recover();
      if (interrupted_.load()) break;
      throw Fault(fault_);
    }
    if (options_.check_counts) check_counts();
    done_.store(k + 1, std::memory_order_release);
    if (finished(launch, k)) break;
  }
  if (launch.record_counts)
    for (auto& w : workers_) launch.record_counts[w->id] = w->num_records;
  launch_ = nullptr;
  return done_.load();
}

bool Kernel::finished(const Launch& l, int64_t k) {
  bool stop = stop_requested_.load(std::memory_order_relaxed) || interrupted_.load(std::memory_order_relaxed);
  if (l.stop.io >= 0) {
    const auto* out = static_cast<const int32_t*>(views_[plan_.io[l.stop.io]].data);
    bool any = false, all = true;
    for (int64_t r = 0; r < l.stop.rows; ++r) {
      const int32_t* row = l.stop.tokens + r * l.stop.width;
      for (int64_t i = 0; i < l.stop.width && !row_finished_[r]; ++i) row_finished_[r] = row[i] >= 0 && row[i] == out[r];
      any |= row_finished_[r] != 0;
      all &= row_finished_[r] != 0;
    }
    stop |= l.stop.all ? all && l.stop.rows > 0 : any;
  }
  if (!l.between && !l.interrupted) return stop;
  const int64_t now = now_ns();
  if (l.between && (now >= next_between_ || stop || k + 1 == l.num_steps)) {
    next_between_ = now + l.between_ns;
    stop |= !l.between(k + 1);
  }
  if (l.interrupted && now >= next_signal_check_) {
    next_signal_check_ = now + 50'000'000;
    stop |= l.interrupted();
  }
  return stop;
}

void Kernel::begin_step(const Launch& l, int64_t k) {
  const int64_t* symbols = l.symbols + k * plan_.num_symbols;
  const int64_t* pointers = l.pointers + k * static_cast<int64_t>(plan_.io.size());
  const bool changed = !ready_ || std::memcmp(symbols, slots_.data(), sizeof(int64_t) * plan_.num_symbols) != 0;
  ready_ = false;  // until everything below has been done for these symbols
  std::vector<int> tables;
  for (size_t i = 0; i < plan_.io.size(); ++i) {
    const int t = plan_.io[i];
    void* data = reinterpret_cast<void*>(pointers[i]);
    // the first step of a launch checks all tables: the host may have written into the same memory
    const bool moved = views_[t].data != data;
    if (moved) set_pointer(t, data);
    if ((moved || changed || k == 0) && !plan_.tensors[t].invariants.empty()) tables.push_back(t);
  }
  if (changed) set_symbols(symbols);
  if (!tables.empty()) check_tables(tables);
  if (changed || events_read_tables_) layout_events();
  if (options_.poison) {
    std::memset(arena_.data(), 0xFF, arena_.bytes());
    for (int t : plan_.io) {
      if (plan_.tensors[t].role != Role::output) continue;
      int64_t n = item_bytes(plan_.tensors[t].dtype);
      for (size_t d = 0; d < plan_.tensors[t].shape.size(); ++d) n *= views_[t].shape[d];
      if (n) std::memset(views_[t].data, 0xFF, static_cast<size_t>(n));
    }
  }
  parity_ ^= 1;
  clear_cells_ = bank_used_[parity_ ^ 1];
  bank_used_[parity_ ^ 1] = 0;
  bank_used_[parity_] = step_cells_;
  ready_ = true;
}

void Kernel::set_symbols(const int64_t* symbols) {
  ++version_;
  std::copy(symbols, symbols + plan_.num_symbols, slots_.begin());
  const Scope s{slots_.data(), views_.data(), tables_.data()};
  for (size_t i = 0; i < plan_.step_slots.size(); ++i) slots_[plan_.first_step_slot + i] = plan_.step_slots[i].eval(s);
  for (size_t t = 0; t < plan_.tensors.size(); ++t) {
    for (size_t d = 0; d < plan_.tensors[t].shape.size(); ++d) {
      views_[t].shape[d] = std::max<int64_t>(plan_.tensors[t].shape[d].eval(s), 0);
      for (Operand* o : uses_[t]) o->shape[d] = views_[t].shape[d];
    }
  }
  int64_t scratch = 0;
  for (size_t g = 0; g < args_.size(); ++g) scratch = std::max(scratch, entries_[g]->scratch_bytes(args_[g]));
  for (auto& w : workers_)
    if (static_cast<int64_t>(w->scratch.bytes()) < scratch) w->scratch = Buffer(static_cast<size_t>(scratch));
}

void Kernel::layout_events() {
  const Scope s{slots_.data(), views_.data(), tables_.data()};
  int64_t total = 0;
  for (size_t i = 0; i < events_.size(); ++i) {
    const Event& e = plan_.events[i];
    EventStep& now = events_[i];
    int64_t cells = 1;
    now.base = total;
    now.needed = -1;
    if (e.late) {
      cells = e.capacity;
    } else {
      for (size_t d = 0; d < e.shape.size(); ++d) {
        now.shape[d] = std::max<int64_t>(e.shape[d].eval(s), 0);
        cells *= now.shape[d];
      }
      if (!e.per_cell) now.needed = std::max<int64_t>(e.needed.eval(s), 0);
    }
    total += cells;
  }
  step_cells_ = total;
  if (total > bank_cells_) {
    bank_cells_ = total + total / 2;
    for (auto& bank : banks_) bank.reset(new Cell[bank_cells_]);
    bank_used_[0] = bank_used_[1] = 0;
  }
}

void Kernel::check_tables(const std::vector<int>& changed) {
  const Scope s{slots_.data(), views_.data(), tables_.data()};
  for (int t : changed) {
    const Tensor& tensor = plan_.tensors[t];
    int64_t n = 1;
    for (size_t d = 0; d < tensor.shape.size(); ++d) n *= views_[t].shape[d];
    const int64_t last = tensor.shape.empty() ? 1 : views_[t].shape[tensor.shape.size() - 1];
    auto at = [&](int64_t i) { return read_int(views_[t].data, tensor.dtype, i); };
    for (const Invariant& inv : tensor.invariants) {
      const int64_t lo = inv.lo.eval(s), hi = inv.hi.eval(s);
      bool good = true;
      if (inv.kind == Invariant::within)
        for (int64_t i = 0; i < n; ++i) good &= at(i) >= lo && at(i) < hi;
      if (inv.kind == Invariant::nondecreasing || inv.kind == Invariant::partition)
        for (int64_t i = 0; i < n; ++i) good &= i % last == 0 || at(i) >= at(i - 1);
      if (inv.kind == Invariant::increasing)
        for (int64_t i = 0; i < n; ++i) good &= i % last == 0 || at(i) > at(i - 1);
      if (inv.kind == Invariant::partition) good &= n > 0 && at(0) == lo && at(n - 1) == hi;
      if (inv.kind == Invariant::distinct && n > 1) {
        if (n <= 16) {
          for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < i; ++j) good &= at(i) != at(j);
        } else {
          std::unordered_set<int64_t> seen;
          for (int64_t i = 0; i < n; ++i) good &= seen.insert(at(i)).second;
        }
      }
      // the host words the message: it has the table and the declaration
      if (!good) throw Fault("table " + std::to_string(t) + " breaks an invariant");
    }
  }
}

void Kernel::check_counts() {
  Worker& me = *workers_[0];
  for (size_t i = 0; i < events_.size(); ++i) {
    int64_t local[kMaxDims];
    const int64_t* shape = event_shape(me, static_cast<int>(i), local);
    int64_t cells = 1;
    for (size_t d = 0; d < plan_.events[i].shape.size(); ++d) cells *= shape[d];
    for (int64_t c = 0; c < cells; ++c) {
      const auto have = static_cast<int64_t>(banks_[parity_][events_[i].base + c].count.load());
      const int64_t need = needed(me, static_cast<int>(i), c, shape);
      if (have != need)
        throw Fault("event '" + plan_.events[i].name + "', cell " + std::to_string(c) + ": " + std::to_string(have) +
                    " notifications came where " + std::to_string(need) + " are needed; its count or a map is wrong");
    }
  }
}

void Kernel::abort_with(const std::string& message) {
  {
    std::lock_guard<std::mutex> lock(fault_mutex_);
    if (!abort_.load()) fault_ = message;
    abort_.store(true);
  }
  waiting_.wake_all();
}

void Kernel::recover() {
  for (auto& bank : banks_)
    for (int64_t i = 0; i < bank_cells_; ++i) bank[i].count.store(0, std::memory_order_relaxed);
  bank_used_[0] = bank_used_[1] = 0;
  barrier_.count.store(0);
  for (auto& w : workers_) {
    w->barriers = 0;
    w->left.store(0, std::memory_order_relaxed);
    if (w->recording) w->trace = Trace{};
    w->recording = false;
  }
  abort_.store(false);
}

void Kernel::run_task(int grid, const int64_t* symbols, const int64_t* coords, void* const* operands) {
  std::lock_guard<std::mutex> lock(running_);
  const Grid& g = plan_.grids[grid];
  const OpEntry& e = *entries_[grid];
  std::vector<int64_t> slots(plan_.num_slots);
  std::copy(symbols, symbols + plan_.num_symbols, slots.begin());
  const Scope s{slots.data(), views_.data(), tables_.data()};
  for (size_t i = 0; i < plan_.step_slots.size(); ++i) slots[plan_.first_step_slot + i] = plan_.step_slots[i].eval(s);
  Buffer args(static_cast<size_t>(e.args_bytes));
  std::memcpy(args.data(), args_[grid], static_cast<size_t>(e.args_bytes));
  for (size_t i = 0; i < g.operands.size(); ++i) {
    auto* o = reinterpret_cast<Operand*>(args.data() + operand_offset(e, g.operands[i].name));
    const Tensor& t = plan_.tensors[g.operands[i].tensor];
    o->data = operands[i];
    for (size_t d = 0; d < t.shape.size(); ++d) o->shape[d] = t.shape[d].eval(s);
  }
  Buffer scratch(static_cast<size_t>(e.scratch_bytes(args.data())));
  e.task(args.data(), coords, Scratch{scratch.data(), true});
}

}  // namespace ev
