// Python's view of the CPU workers: `eventide._native`. Everything here checks and converts; nothing computes.
#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "isa.h"
#include "kernel.h"
#include "pack.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ev {
extern const OpEntry* const builtin_entries[];
}

namespace {

template <class T>
using Array2 = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array1 = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::vector<const ev::OpEntry*> entries_for(const std::string& isa) {
  std::vector<const ev::OpEntry*> out;
  for (const ev::OpEntry* const* e = ev::builtin_entries; *e; ++e)
    if (isa == (*e)->isa) out.push_back(*e);
  return out;
}

// Runs Python code from the leader; an exception ends the launch and is raised once the workers have stopped.
class Host {
 public:
  template <class F>
  bool call(F&& f, bool failed) {
    nb::gil_scoped_acquire gil;
    try {
      return f();
    } catch (nb::python_error& e) {
      error_.emplace(std::move(e));
      return failed;
    }
  }
  void rethrow() {
    if (error_) throw std::move(*error_);
  }

 private:
  std::optional<nb::python_error> error_;
};

class PyKernel {
 public:
  PyKernel(const std::string& text, const std::string& isa, const std::vector<int64_t>& extra, bool poison, bool check_counts,
           bool pin, int64_t delay_ns, uint64_t delay_seed, int64_t spin_ns, int64_t yield_ns, int64_t long_task_ns) {
    std::vector<const ev::OpEntry*> entries = entries_for(isa);
    for (int64_t address : extra) entries.push_back(reinterpret_cast<const ev::OpEntry*>(address));
    kernel_ = std::make_unique<ev::Kernel>(ev::Plan::parse(text), entries,
                                           ev::Options{poison, check_counts, pin, delay_ns, delay_seed, spin_ns, yield_ns, long_task_ns});
  }

  void bind(int tensor, int64_t address, bool narrow) { kernel_->bind(tensor, reinterpret_cast<void*>(address), narrow); }

  int64_t run(Array2<const int64_t> symbols, Array2<const int64_t> pointers, int stop_io,
              std::optional<Array2<const int32_t>> stop_tokens, bool stop_all, nb::object between, int64_t between_ns,
              bool check_signals, int64_t records, int64_t records_per_worker, std::optional<Array1<int64_t>> record_counts) {
    ev::Launch l;
    l.num_steps = static_cast<int64_t>(symbols.shape(0));
    l.symbols = symbols.data();
    l.pointers = pointers.data();
    if (stop_tokens) l.stop = {stop_io, stop_tokens->data(), int64_t(stop_tokens->shape(0)), int64_t(stop_tokens->shape(1)), stop_all};
    Host host;
    if (!between.is_none()) {
      l.between = [&](int64_t done) {
        return host.call([&] { return nb::cast<bool>(between(done)); }, false);
      };
      l.between_ns = between_ns;
    }
    if (check_signals) {
      l.interrupted = [&] {
        return host.call(
            [&] {
              if (PyErr_CheckSignals()) throw nb::python_error();
              return false;
            },
            true);
      };
    }
    l.records = reinterpret_cast<ev::Record*>(records);
    l.records_per_worker = records_per_worker;
    if (record_counts) l.record_counts = record_counts->data();
    int64_t done = 0;
    {
      nb::gil_scoped_release release;
      done = kernel_->run(l);
    }
    host.rethrow();
    return done;
  }

  void run_task(int grid, const std::vector<int64_t>& symbols, std::vector<int64_t> coords, const std::vector<int64_t>& operands) {
    std::vector<void*> pointers;
    for (int64_t p : operands) pointers.push_back(reinterpret_cast<void*>(p));
    coords.resize(ev::kMaxAxes);
    nb::gil_scoped_release release;
    kernel_->run_task(grid, symbols.data(), coords.data(), pointers.data());
  }

  void stop() { kernel_->stop(); }
  int64_t steps_done() const { return kernel_->steps_done(); }

 private:
  std::unique_ptr<ev::Kernel> kernel_;
};

// Zeroed memory in huge pages, as a writable byte array that owns it.
nb::object allocate(size_t bytes) {
  auto* buffer = new ev::Buffer(bytes);
  nb::capsule owner(buffer, [](void* p) noexcept { delete static_cast<ev::Buffer*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(buffer->data(), {bytes}, owner));
}

nb::object pack_narrow(int64_t from, int64_t n, int64_t k, int num_threads) {
  const auto* source = reinterpret_cast<const uint16_t*>(from);
  std::optional<ev::Narrow> how;
  {
    nb::gil_scoped_release release;
    how = ev::narrow(source, n, k, num_threads);
  }
  if (!how) return nb::none();
  nb::object memory = allocate(size_t(how->bytes));
  void* to = nb::cast<nb::ndarray<uint8_t>>(memory).data();
  nb::gil_scoped_release release;
  ev::pack_narrow(source, n, k, *how, to, num_threads);
  return memory;
}

// Any CPU array with DLPack as (address, shape, strides in elements, kind code, bits), bf16 included.
nb::tuple from_dlpack(nb::ndarray<nb::ro, nb::device::cpu> a) {
  nb::list shape, strides;
  for (size_t i = 0; i < a.ndim(); ++i) {
    shape.append(a.shape(i));
    strides.append(a.stride(i));
  }
  return nb::make_tuple(reinterpret_cast<int64_t>(a.data()), nb::tuple(shape), nb::tuple(strides), int(a.dtype().code), int(a.dtype().bits));
}

int64_t load_entry(const std::string& path, const std::string& symbol) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  void* entry = dlsym(library, symbol.c_str());
  if (!entry) throw std::runtime_error("'" + path + "' does not define " + symbol);
  return reinterpret_cast<int64_t>(entry);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);
  nb::exception<ev::Fault>(m, "Fault");
  m.def("supported_isas", &ev::supported_isas, "Instruction sets of this processor that operators may be compiled for, best first.");
  m.def(
      "compiled_ops",
      [] {
        std::vector<std::string> out;
        for (const ev::OpEntry* const* e = ev::builtin_entries; *e; ++e) out.push_back(std::string((*e)->op) + ":" + (*e)->isa);
        return out;
      },
      "Pairs op:isa of this build.");
  m.def("allocate", &allocate, "bytes"_a, "Zeroed bytes in huge pages, uint8 [bytes].");
  m.def("from_dlpack", &from_dlpack, nb::arg("array").noconvert());
  m.def("load_entry", &load_entry, "path"_a, "symbol"_a, "The address of an operator's entry in a shared library.");
  m.attr("RECORD_BYTES") = sizeof(ev::Record);
  m.def(
      "packed_bytes", [](int64_t n, int64_t k, int dtype) { return ev::packed_bytes(n, k, static_cast<ev::DType>(dtype)); }, "n"_a,
      "k"_a, "dtype"_a, "Bytes of a weight [n, k] in panels.");
  m.def(
      "pack",
      [](int64_t from, int64_t n, int64_t k, int dtype, int64_t to, int num_threads) {
        nb::gil_scoped_release release;
        ev::pack_all(reinterpret_cast<const void*>(from), n, k, static_cast<ev::DType>(dtype), reinterpret_cast<void*>(to), num_threads);
      },
      "source"_a, "n"_a, "k"_a, "dtype"_a, "to"_a, "num_threads"_a, "Packs a weight [n, k] into panels.");
  m.def("pack_narrow", &pack_narrow, "source"_a, "n"_a, "k"_a, "num_threads"_a,
        "A bfloat16 weight [n, k] in 12 bits a value, uint8 [bytes]; None where that would save nothing.");
  nb::class_<PyKernel>(m, "Kernel")
      .def(nb::init<const std::string&, const std::string&, const std::vector<int64_t>&, bool, bool, bool, int64_t, uint64_t, int64_t, int64_t, int64_t>(),
           "plan"_a, "isa"_a, "extra"_a, "poison"_a, "check_counts"_a, "pin"_a, "delay_ns"_a, "delay_seed"_a, "spin_ns"_a, "yield_ns"_a,
           "long_task_ns"_a)
      .def("bind", &PyKernel::bind, "tensor"_a, "address"_a, "narrow"_a = false)
      .def("run", &PyKernel::run, "symbols"_a, "pointers"_a, "stop_io"_a, "stop_tokens"_a.none(), "stop_all"_a, "between"_a.none(),
           "between_ns"_a, "check_signals"_a, "records"_a, "records_per_worker"_a, "record_counts"_a.none())
      .def("run_task", &PyKernel::run_task, "grid"_a, "symbols"_a, "coords"_a, "operands"_a)
      .def("stop", &PyKernel::stop)
      .def_prop_ro("steps_done", &PyKernel::steps_done);
}
