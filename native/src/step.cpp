// One step on one worker: its share of every segment, in order; waits, tasks, notifications.
#include <algorithm>

#include "kernel.h"

namespace ev {

constexpr size_t kMaxTrace = size_t{1} << 18;  // operations of one worker; longer steps have longer tasks, and gain nothing

const int64_t* Kernel::event_shape(const Worker& me, int event, int64_t* local) const {
  const Event& e = plan_.events[event];
  if (!e.late) return events_[event].shape;
  int64_t cells = 1;
  for (size_t d = 0; d < e.shape.size(); ++d) cells *= local[d] = std::max<int64_t>(e.shape[d].eval(scope(me)), 0);
  if (cells > e.capacity)
    throw Fault("event '" + e.name + "' has " + std::to_string(cells) + " cells in this step, but its declared bounds allow " +
                std::to_string(e.capacity));
  return local;
}

// Calls f(cell, shape) for every cell of an edge, clipped to the event tensor; repeated lookups repeat.
template <class F>
void Kernel::for_cells(const Worker& me, const Edge& e, F&& f) const {
  const Scope s = scope(me);
  int64_t local[kMaxDims];
  const int64_t* shape = event_shape(me, e.event, local);
  const size_t n = e.cells.size();
  if (n == 0) return f(int64_t{0}, shape);
  // nearly all edges: one cell, or a run of cells along the last dimension
  if (e.simple) {
    int64_t flat = 0;
    for (size_t d = 0; d + 1 < n; ++d) {
      const int64_t i = e.cells[d].lo.eval(s);
      if (i < 0 || i >= shape[d]) return;
      flat = (flat + i) * shape[d + 1];
    }
    const CellSet& last = e.cells[n - 1];
    int64_t lo = last.lo.eval(s), hi = last.kind == CellSet::single ? lo + 1 : last.hi.eval(s);
    lo = std::max<int64_t>(lo, 0);
    hi = std::min(hi, shape[n - 1]);
    for (int64_t i = lo; i < hi; ++i) f(flat + i, shape);
    return;
  }
  int64_t lo[kMaxDims], hi[kMaxDims], at[kMaxDims], value[kMaxDims];
  int64_t prefix[kMaxDims][kMaxDims];
  for (size_t d = 0; d < n; ++d) {
    const CellSet& c = e.cells[d];
    lo[d] = c.lo.eval(s);
    hi[d] = c.kind == CellSet::single ? lo[d] + 1 : c.hi.eval(s);
    if (c.kind != CellSet::via) {
      lo[d] = std::max<int64_t>(lo[d], 0);
      hi[d] = std::min(hi[d], shape[d]);
    } else {
      for (size_t i = 0; i < c.prefix.size(); ++i) prefix[d][i] = c.prefix[i].eval(s);
    }
    if (lo[d] >= hi[d]) return;
    at[d] = lo[d];
  }
  for (;;) {
    int64_t flat = 0;
    for (size_t d = 0; d < n; ++d) {
      const CellSet& c = e.cells[d];
      value[d] = at[d];
      if (c.kind == CellSet::via) {
        prefix[d][c.prefix.size()] = at[d] / c.block;
        value[d] = load_table(s, c.table, prefix[d], static_cast<int>(c.prefix.size()) + 1) * c.block + at[d] % c.block;
        if (value[d] < 0 || value[d] >= shape[d])
          throw Fault("an edge looks up cell " + std::to_string(value[d]) + " of event '" + plan_.events[e.event].name +
                      "', which has " + std::to_string(shape[d]) + " in dimension " + std::to_string(d));
      }
      flat = flat * shape[d] + value[d];
    }
    f(flat, shape);
    size_t d = n;
    while (d-- > 0) {
      if (++at[d] < hi[d]) break;
      at[d] = lo[d];
    }
    if (d == static_cast<size_t>(-1)) return;
  }
}

int64_t Kernel::needed(Worker& me, int event, int64_t cell, const int64_t* shape) {
  if (events_[event].needed >= 0) return events_[event].needed;
  const Event& e = plan_.events[event];
  for (size_t d = e.shape.size(); d-- > 0;) {
    me.slots[plan_.first_cell + d] = cell % shape[d];
    cell /= shape[d];
  }
  return std::max<int64_t>(e.needed.eval(scope(me)), 0);
}

bool Kernel::should_stop(Worker& me, bool slept) {
  if (abort_.load(std::memory_order_relaxed)) return true;
  if (me.id == 0 && launch_->interrupted) {
    const int64_t now = now_ns();
    // a short step is let to its end, where the leader looks again
    if (now >= next_signal_check_ + 50'000'000) {
      next_signal_check_ = now + 50'000'000;
      if (launch_->interrupted()) {
        interrupted_.store(true);
        abort_with("interrupted");
        return true;
      }
    }
  }
  if (!slept || !me.waits_event) return false;
  uint64_t progress = 0;
  for (auto& w : workers_) progress += w->progress.load(std::memory_order_relaxed);
  const bool idle = waiting_.all_asleep() && progress == me.stuck_progress;
  me.stuck_progress = progress;
  me.stuck_checks = idle ? me.stuck_checks + 1 : 0;
  if (me.stuck_checks < 5) return false;
  const Cell& cell = banks_[parity_][events_[me.waits_event - plan_.events.data()].base + me.waits_cell];
  abort_with("the workers are stuck: worker " + std::to_string(me.id) + " waits for event '" + me.waits_event->name +
             "', cell " + std::to_string(me.waits_cell) + ", which has " + std::to_string(cell.count.load()) +
             " notifications and no more are coming");
  return true;
}

void Kernel::wait_cell(Worker& me, const Cell& cell, uint64_t target) {
  waiting_.wait(cell, target, me.id, [this, &me](bool slept) { return should_stop(me, slept); });
  me.stuck_checks = 0;
  if (abort_.load(std::memory_order_relaxed)) throw Aborted{};
}

// `cell` counts from the start of the bank.
inline void Kernel::wait_event(Worker& me, int event, int64_t cell, uint64_t target) {
  const Cell& c = banks_[parity_][cell];
  if (Waiting::ready(c, target)) return;
  me.waits_event = &plan_.events[event];
  me.waits_cell = cell - events_[event].base;
  wait_cell(me, c, target);
  me.waits_event = nullptr;
}

void Kernel::wait_edge(Worker& me, const Edge& e) {
  const int64_t base = events_[e.event].base;
  for_cells(me, e, [&](int64_t i, const int64_t* shape) {
    const auto target = static_cast<uint64_t>(needed(me, e.event, i, shape));
    wait_event(me, e.event, base + i, target);
    if (!me.recording) return;
    Trace& t = me.trace;
    if (t.waited[base + i] >= target || t.sent[base + i] >= target) return;
    t.waited[base + i] = target;
    t.ops.push_back({TraceOp::wait, e.event, base + i, target});
  });
}

void Kernel::notify_edge(Worker& me, const Edge& e, uint64_t n) {
  const int64_t base = events_[e.event].base;
  for_cells(me, e, [&](int64_t i, const int64_t*) {
    waiting_.notify(banks_[parity_][base + i], n);
    if (!me.recording) return;
    me.trace.sent[base + i] += n;
    me.trace.ops.push_back({TraceOp::notify, e.event, base + i, n});
  });
}

void Kernel::barrier(Worker& me) {
  waiting_.notify(barrier_, 1);
  wait_cell(me, barrier_, ++me.barriers * static_cast<uint64_t>(plan_.num_workers));
}

void Kernel::delay(Worker& me) {
  me.rng ^= me.rng << 13;
  me.rng ^= me.rng >> 7;
  me.rng ^= me.rng << 17;
  if (me.rng & 3) return;
  const int64_t until = now_ns() + static_cast<int64_t>((me.rng >> 8) % static_cast<uint64_t>(options_.delay_ns));
  while (now_ns() < until) std::this_thread::yield();
}

void Kernel::run_worker(Worker& me) {
  try {
    if (launch_->records || options_.delay_ns > 0)
      run_step<true>(me);
    else
      run_step<false>(me);
  } catch (const Aborted&) {
  } catch (const std::exception& e) {
    abort_with(e.what());
  }
}

template <bool kInstrumented>
void Kernel::run_step(Worker& me) {
  const bool again = me.version == version_;
  if (!again) {
    std::copy(slots_.begin(), slots_.end(), me.slots.begin());
    me.version = version_;
  }
  if (kInstrumented) me.free_ns = now_ns();
  const int64_t num_workers = plan_.num_workers;
  Cell* idle = banks_[parity_ ^ 1].get();
  for (int64_t i = clear_cells_ * me.id / num_workers, n = clear_cells_ * (me.id + 1) / num_workers; i < n; ++i)
    idle[i].count.store(0, std::memory_order_relaxed);

  if (!kInstrumented && me.trace.version == version_ && !events_read_tables_) return replay(me);
  if (!kInstrumented && again && !me.long_tasks && me.trace.tried != version_ && !events_read_tables_) begin_trace(me);
  const int64_t began = now_ns(), ticks = me.ticks;
  for (size_t i = 0; i < plan_.segments.size(); ++i) {
    const bool recording = me.recording;
    if (recording && plan_.segments[i].barrier && i > 0) me.trace.ops.push_back({TraceOp::barrier, 0, 0, 0});
    if (recording && !plan_.grids[plan_.segments[i].grid].traceable) {
      me.trace.ops.push_back({TraceOp::segment, static_cast<int32_t>(i), 0, 0});
      me.recording = false;
    }
    if (plan_.segments[i].barrier && i > 0) barrier(me);
    run_segment<kInstrumented>(me, i);
    me.recording = recording && me.trace.ops.size() < kMaxTrace;
    if (recording && !me.recording) me.trace = Trace{0, version_, {}, {}, {}, {}};
  }
  if (me.recording) {
    me.recording = false;
    me.trace.version = version_;
    me.trace.waited = me.trace.sent = {};
  } else {
    // evaluating edges then counts less than waiting for others
    me.long_tasks = me.ticks > ticks && now_ns() - began > options_.long_task_ns * (me.ticks - ticks);
  }
}

void Kernel::begin_trace(Worker& me) {
  Trace& t = me.trace;
  t.version = 0;
  t.tried = version_;
  t.ops.clear();
  t.coords.clear();
  t.waited.assign(static_cast<size_t>(step_cells_), 0);
  t.sent.assign(static_cast<size_t>(step_cells_), 0);
  me.recording = true;
}

void Kernel::replay(Worker& me) {
  Cell* cells = banks_[parity_].get();
  for (const TraceOp& op : me.trace.ops) {
    switch (op.kind) {
      case TraceOp::wait:
        wait_event(me, op.what, op.cell, op.count);
        break;
      case TraceOp::task:
        if (++me.ticks % 64 == 0 && should_stop(me, false)) throw Aborted{};
        entries_[op.what]->task(args_[op.what], me.trace.coords.data() + op.cell, Scratch{me.scratch.data(), op.count != 0});
        break;
      case TraceOp::notify:
        waiting_.notify(cells[op.cell], op.count);
        me.progress.store(me.progress.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
        break;
      case TraceOp::barrier:
        barrier(me);
        break;
      case TraceOp::segment:
        run_segment<false>(me, static_cast<size_t>(op.what));
        break;
    }
  }
}

// the first task of a worker's share; `after` 1: of consecutive shares, that of the next
int64_t Kernel::start_of(int worker, const Segment& s, const Share& share, int64_t after) const {
  int64_t w = (worker - share.rotate) % plan_.num_workers;
  if (w < 0) w += plan_.num_workers;
  if (s.cyclic) return w;
  w += after;
  return w * (share.total / plan_.num_workers) + std::min(w, share.total % plan_.num_workers);
}

// An eighth of what is left, as a number of tasks from `first` on; 0: nothing is. The share's own worker takes from its front, others
// from its end, and what they have taken nobody takes from them again.
int64_t Kernel::take(std::atomic<uint64_t>& left, uint64_t tag, bool own, int64_t& first) {
  uint64_t was = left.load(std::memory_order_relaxed);
  for (;;) {
    const Left l(was);
    const int64_t n = (l.end - l.next + 7) / 8;
    if (l.tag != tag || !n) return 0;
    first = own ? l.next : l.end - n;
    const uint64_t rest = own ? Left::pack(tag, l.next + n, l.end) : Left::pack(tag, l.next, l.end - n);
    if (left.compare_exchange_weak(was, rest, std::memory_order_relaxed)) return n;
  }
}

template <bool kInstrumented>
void Kernel::run_segment(Worker& me, size_t i) {
  const int64_t num_workers = plan_.num_workers;
  const Segment& s = plan_.segments[i];
  const Grid& g = plan_.grids[s.grid];
  for (const Edge& e : g.enter) wait_edge(me, e);
  Task t{&g, s.grid, entries_[s.grid], args_[s.grid], {}, true};
  if (g.ragged) return run_ragged<kInstrumented>(me, t, s);
  Share& share = me.shares[i];
  const int axes = static_cast<int>(g.extents.size());
  if (!g.fixed || share.version != version_) {
    int64_t total = 1;
    for (int d = 0; d < axes; ++d) total *= share.extents[d] = std::max<int64_t>(g.extents[d].eval(scope(me)), 0);
    share.total = total;
    share.rotate = s.rotate.eval(scope(me));
    share.start = start_of(me.id, s, share);
    share.count = s.cyclic ? (std::max<int64_t>(total - share.start, 0) + num_workers - 1) / num_workers
                           : start_of(me.id, s, share, 1) - share.start;
    share.version = version_;
  }
  // What is recorded, and replayed, is a worker's own share. Else who has done with it takes from others what they have left of theirs:
  // two cores are seldom equally fast. Tasks wait for earlier segments alone: of those that are left in the earliest segment all can
  // run, so nobody waits in vain for what he has taken.
  if (me.recording || !forward_ || num_workers == 1 || share.total > Left::kMost) {
    if (share.count) run_tasks<kInstrumented>(me, t, s, share, share.start, share.count);
    return;
  }
  const uint64_t tag = (step_ * plan_.segments.size() + i) & 0xffffff;
  const int64_t stride = s.cyclic ? num_workers : 1;
  me.left.store(Left::pack(tag, 0, share.count), std::memory_order_relaxed);
  int64_t first;
  while (const int64_t n = take(me.left, tag, true, first)) run_tasks<kInstrumented>(me, t, s, share, share.start + first * stride, n);
  for (int64_t w = 1; w < num_workers; ++w) {
    Worker& other = *workers_[static_cast<size_t>((me.id + w) % num_workers)];
    while (const int64_t n = take(other.left, tag, false, first))
      run_tasks<kInstrumented>(me, t, s, share, start_of(other.id, s, share) + first * stride, n);
  }
}

// `count` tasks of a share, from task `at` on
template <bool kInstrumented>
void Kernel::run_tasks(Worker& me, Task& t, const Segment& s, const Share& share, int64_t at, int64_t count) {
  const int axes = static_cast<int>(t.grid->extents.size());
  const int64_t row = axes ? share.extents[axes - 1] : 1;
  const int64_t stride = s.cyclic ? plan_.num_workers : 1;
  for (int64_t left = count; left > 0;) {
    int64_t rest = at;
    int64_t first = 0;
    if (axes) {
      first = rest % row;
      rest /= row;
      for (int d = axes - 2; d >= 0; --d) {
        t.coords[d] = rest % share.extents[d];
        rest /= share.extents[d];
      }
    }
    const int64_t n = stride > 1 ? 1 : std::min(left, row - first);
    run_row<kInstrumented>(me, t, at, first, n);
    at += n * stride;
    left -= n;
  }
}

// Rows of a grid whose extents depend on earlier axes, in linear order, twice: to count the tasks and to run the share.
template <bool kInstrumented>
void Kernel::run_ragged(Worker& me, Task& t, const Segment& s) {
  const Grid& g = *t.grid;
  const int axes = static_cast<int>(g.extents.size());
  int64_t extents[kMaxAxes];
  int64_t* coord_slots = me.slots.data() + plan_.first_coord;
  // f(position of the row's first task, tasks in the row) -> go on?
  auto rows = [&](auto&& f) {
    int d = 0;
    bool down = true;
    int64_t position = 0;
    while (d >= 0) {
      if (down) {
        extents[d] = std::max<int64_t>(g.extents[d].eval(scope(me)), 0);
        t.coords[d] = 0;
        if (d == axes - 1) {
          if (extents[d] && !f(position, extents[d])) return position;
          position += extents[d];
          down = false;
          --d;
          continue;
        }
      } else {
        ++t.coords[d];
      }
      if (t.coords[d] < extents[d]) {
        coord_slots[d] = t.coords[d];
        ++d;
        down = true;
      } else {
        down = false;
        --d;
      }
    }
    return position;
  };
  const int64_t total = rows([](int64_t, int64_t) { return true; });
  const int64_t num_workers = plan_.num_workers;
  int64_t w = (me.id - s.rotate.eval(scope(me))) % num_workers;
  if (w < 0) w += num_workers;
  const int64_t base = total / num_workers, extra = total % num_workers;
  const int64_t start = w * base + std::min(w, extra), stop = start + base + (w < extra);
  rows([&](int64_t position, int64_t n) {
    if (s.cyclic) {
      int64_t first = (w - position) % num_workers;
      if (first < 0) first += num_workers;
      for (int64_t i = first; i < n; i += num_workers) run_row<kInstrumented>(me, t, position + i, i, 1);
      return true;
    }
    const int64_t lo = std::max(start, position), hi = std::min(stop, position + n);
    if (lo < hi) run_row<kInstrumented>(me, t, lo, lo - position, hi - lo);
    return position + n < stop;
  });
}

// Consecutive tasks along the last axis, the other coordinates fixed.
template <bool kInstrumented>
void Kernel::run_row(Worker& me, Task& t, int64_t linear, int64_t first, int64_t count) {
  const Grid& g = *t.grid;
  const int axes = static_cast<int>(g.extents.size());
  int64_t* coord_slots = me.slots.data() + plan_.first_coord;
  for (int d = 0; d < axes - 1; ++d) coord_slots[d] = t.coords[d];
  int64_t* last_slot = axes ? coord_slots + axes - 1 : nullptr;
  if (last_slot) *last_slot = first;
  for (const Edge& e : g.waits)
    if (!e.inner) wait_edge(me, e);
  const int64_t end = first + count;
  for (int64_t j = first; j < end; ++j) {
    if (last_slot) {
      *last_slot = j;
      t.coords[axes - 1] = j;
    }
    for (const Edge& e : g.waits)
      if (e.inner) wait_edge(me, e);
    if (++me.ticks % 64 == 0 && should_stop(me, false)) throw Aborted{};
    int64_t start = 0;
    if (kInstrumented) {
      if (options_.delay_ns > 0) delay(me);
      start = now_ns();
    }
    if (me.recording) {
      me.trace.ops.push_back({TraceOp::task, t.index, static_cast<int64_t>(me.trace.coords.size()), t.fresh});
      me.trace.coords.insert(me.trace.coords.end(), t.coords, t.coords + std::max(axes, 1));
    }
    t.entry->task(t.args, t.coords, Scratch{me.scratch.data(), t.fresh});
    t.fresh = false;
    for (const Edge& e : g.notifies)
      if (e.inner) notify_edge(me, e, 1);
    if (kInstrumented && launch_->records) {
      const int64_t stop = now_ns();
      if (me.num_records < launch_->records_per_worker)
        launch_->records[me.id * launch_->records_per_worker + me.num_records] = {
            static_cast<int32_t>(step_in_launch_), me.id, t.index, 0, linear + (j - first), me.free_ns, start, stop};
      ++me.num_records;
      me.free_ns = stop;
    }
  }
  for (const Edge& e : g.notifies)
    if (!e.inner) notify_edge(me, e, static_cast<uint64_t>(count));
  me.progress.store(me.progress.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace ev
