// What the code of one task sees on a CPU: operands, coordinates, attributes, scratch. Never a worker or an event.
//
// ops/<op>/cpu.h opens `namespace ev::EV_ISA` (a macro; the file is compiled once for every instruction set, chosen by the
// compiler's flags: see simd.h) and defines
//
//     inline int64_t <op>_scratch(const <op>_args& a);                                bytes of scratch one task needs
//     inline void <op>_task(const <op>_args& a, const <op>_coords& c, Scratch s);     one task, from start to end
//
// `<op>_args` and `<op>_coords` are generated from the operator's declaration: an Operand for each operand (absent
// optional ones are false), each attribute (int64_t, float, bool, or an enum for those with choices), each tile
// attribute (int64_t); and an int64_t for each axis. They stand in `namespace ev` and are included before it; the enum of
// attribute `x` of operator `o` is `enum class o_x`. Attributes that are free text (out_dtype) are left out.
#pragma once
#include <cstdint>

namespace ev {

enum class DType : int32_t { f32, bf16, f16, i32, i64 };

// plain: row major. panel32: a weight [n, k] in panels of 32 rows, the last one padded with zero rows. A float32 panel is
// [k][32]; a bfloat16 panel is [ceil(k / 2)][32][2], pairs of k side by side as vdpbf16ps reads them. narrow32: a bfloat16
// weight in panels as well, in 12 bits a value: see narrow_format.h.
enum class Layout : int32_t { plain, panel32, narrow32 };

// The whole tensor: base pointer and extents. A task adds its own offsets.
struct Operand {
  void* data = nullptr;
  int64_t shape[4] = {0, 0, 0, 0};
  DType dtype = DType::f32;
  Layout layout = Layout::plain;
  explicit operator bool() const { return data != nullptr; }
  template <class T> T* as() const { return static_cast<T*>(data); }
};

// Memory of this worker, 64-byte aligned. It keeps its contents between tasks of one grid that a worker runs in a row in
// one step, so that a prologue (a norm, a packed operand) need not be repeated; `fresh` is true for the first of them.
struct Scratch {
  char* data;
  bool fresh;
};

}  // namespace ev
