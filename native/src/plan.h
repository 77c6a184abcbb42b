// A plan as the workers read it: what backends/cpu_lower.py writes, parsed. See there for the format.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "device/cpu/runtime_entry.h"
#include "expr.h"

namespace ev {

enum class Role : int32_t { input, weight, state, scratch, output };

struct Invariant {
  enum Kind : int32_t { within, nondecreasing, increasing, partition, distinct } kind;
  Expr lo, hi;
};

struct Tensor {
  std::string name;
  DType dtype;
  Role role;
  Layout layout;
  int64_t offset;  // in the arena, -1 elsewhere
  std::vector<Expr> shape;
  std::vector<Invariant> invariants;
};

struct Event {
  std::string name;
  std::vector<Expr> shape;
  Expr needed;
  bool per_cell;       // the needed count uses the cell's coordinates
  bool late;           // shape or count read tables that the step computes
  bool reads_tables;   // shape or count read tables of the host
  int64_t capacity;    // cells of a late event, 0 otherwise
};

struct CellSet {
  enum Kind : int32_t { single, span, via } kind;
  Expr lo, hi;
  int table;
  std::vector<Expr> prefix;
  int64_t block;
};

struct Edge {
  int event;
  bool inner;   // depends on the last axis, so it differs from task to task of a row
  bool simple;  // single indices in all dimensions but the last, which may be a span
  std::vector<CellSet> cells;
};

struct OperandUse {
  std::string name;
  int tensor;
};

struct AttrValue {
  std::string name;
  double number;
};

struct Grid {
  std::string name, op;
  bool fixed;   // extents depend on symbols alone
  bool ragged;  // some extent depends on an earlier axis
  bool traceable;  // extents, edges and counts are the same in every step with the same symbols
  std::vector<Expr> extents;
  std::vector<OperandUse> operands;
  std::vector<AttrValue> attrs;
  std::vector<Edge> enter, waits, notifies;
};

struct Segment {
  int grid;
  bool cyclic, barrier;
  Expr rotate;
};

struct Plan {
  int num_workers = 1;
  int num_symbols = 0, num_slots = 0;
  int first_coord = 0, first_cell = 0, first_step_slot = 0;
  std::vector<std::string> symbols;
  std::vector<Expr> step_slots;
  std::vector<Tensor> tensors;
  std::vector<Event> events;
  std::vector<Grid> grids;
  std::vector<Segment> segments;
  std::vector<int> io;  // inputs and outputs, in the order of the tensors
  int64_t arena_bytes = 0;

  static Plan parse(std::string_view text);
};

inline int64_t item_bytes(DType t) {
  return t == DType::i64 ? 8 : (t == DType::bf16 || t == DType::f16) ? 2 : 4;
}

}  // namespace ev
