// What the CPU runtime knows about one operator compiled for one instruction set. Generated code makes one `OpEntry` for
// each pair (ops/codegen.py); the runtime builds argument structs by its offsets and calls through its pointers.
#pragma once
#include <cstdint>

#include "task.h"

namespace ev {

enum class AttrKind : int32_t { i64, f32, boolean, choice };

struct AttrField {
  const char* name;
  AttrKind kind;
  int32_t offset;
};

struct OpEntry {
  const char* op;
  const char* isa;
  int64_t args_bytes;
  int32_t num_operands;
  const char* const* operand_names;
  const int32_t* operand_offsets;
  int32_t num_attrs;
  const AttrField* attrs;
  int32_t num_axes;
  int64_t (*scratch_bytes)(const void* args);
  void (*task)(const void* args, const int64_t* coords, Scratch scratch);
};

}  // namespace ev
