#include "expr.h"

#include <algorithm>

namespace ev {

int64_t load_table(const Scope& s, int tensor, const int64_t* index, int n) {
  const TensorView& view = s.tensors[tensor];
  const TableInfo& info = s.tables[tensor];
  int64_t flat = 0;
  for (int d = 0; d < n; ++d) {
    if (index[d] < 0 || index[d] >= view.shape[d])
      throw Fault("the run-time table '" + info.name + "' is read at index " + std::to_string(index[d]) + " of dimension " +
                  std::to_string(d) + ", which has " + std::to_string(view.shape[d]));
    flat = flat * view.shape[d] + index[d];
  }
  return read_int(view.data, info.dtype, flat);
}

int64_t Expr::run(const Scope& s) const {
  int64_t stack[32];
  int top = -1;
  const int64_t* p = program.data();
  const int64_t* end = p + program.size();
  while (p < end) {
    switch (static_cast<Code>(*p++)) {
      case Code::constant:
        stack[++top] = *p++;
        break;
      case Code::slot:
        stack[++top] = s.slots[*p++];
        break;
      case Code::add_times:
        stack[top - 1] += *p++ * stack[top];
        --top;
        break;
      case Code::mul:
        stack[top - 1] *= stack[top];
        --top;
        break;
      case Code::floordiv:
      case Code::mod: {
        const bool div = static_cast<Code>(p[-1]) == Code::floordiv;
        const int64_t a = stack[top - 1], b = stack[top];
        if (b <= 0) throw Fault("a divisor of the plan is " + std::to_string(b) + " in this step; it must be positive");
        const int64_t q = floor_div(a, b);
        stack[--top] = div ? q : a - q * b;
        break;
      }
      case Code::min:
        stack[top - 1] = std::min(stack[top - 1], stack[top]);
        --top;
        break;
      case Code::max:
        stack[top - 1] = std::max(stack[top - 1], stack[top]);
        --top;
        break;
      case Code::load: {
        const int tensor = static_cast<int>(*p++), n = static_cast<int>(*p++);
        top -= n - 1;
        stack[top] = load_table(s, tensor, stack + top, n);
        break;
      }
    }
  }
  return stack[0];
}

}  // namespace ev
