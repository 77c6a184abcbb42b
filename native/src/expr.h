// Integer expressions of a plan, evaluated by workers.
//
// Most are constants, one slot, or an affine form of a few slots, and are evaluated without a loop over code; the others
// are a small stack program. Slots hold, in this order: the symbols; the task's coordinates; a cell's coordinates; and the
// expressions over symbols alone, which are computed once a step.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "device/cpu/task.h"

namespace ev {

constexpr int kMaxDims = 4;
constexpr int kMaxAxes = 8;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TensorView {
  void* data = nullptr;
  int64_t shape[kMaxDims] = {0, 0, 0, 0};
};

struct TableInfo {
  DType dtype;
  int ndim;
  std::string name;
};

inline int64_t floor_div(int64_t a, int64_t b) {
  const int64_t q = a / b;
  return q * b > a ? q - 1 : q;
}

inline int64_t read_int(const void* data, DType dtype, int64_t i) {
  return dtype == DType::i32 ? static_cast<const int32_t*>(data)[i] : static_cast<const int64_t*>(data)[i];
}

struct Scope {
  const int64_t* slots;
  const TensorView* tensors;
  const TableInfo* tables;  // by tensor
};

struct Expr {
  enum Kind : uint8_t { constant, slot, affine, code } kind = constant;
  int64_t c = 0;             // constant, or slot number, or the affine form's constant
  int32_t num_terms = 0;
  int64_t coef[4] = {};
  int32_t at[4] = {};
  std::vector<int64_t> program;

  int64_t eval(const Scope& s) const {
    switch (kind) {
      case constant:
        return c;
      case slot:
        return s.slots[c];
      case affine: {
        int64_t v = c;
        for (int i = 0; i < num_terms; ++i) v += coef[i] * s.slots[at[i]];
        return v;
      }
      default:
        return run(s);
    }
  }

 private:
  int64_t run(const Scope& s) const;
};

enum class Code : int64_t { constant, slot, add_times, mul, floordiv, mod, min, max, load };

int64_t load_table(const Scope& s, int tensor, const int64_t* index, int n);

}  // namespace ev
