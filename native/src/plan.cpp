#include "plan.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace ev {
namespace {

// No stream: what numbers look like must not depend on a program's locale, nor on whose standard library owns it.
class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}

  std::string word() { return std::string(next()); }
  int64_t integer() { return number<int64_t>("an integer"); }
  double real() { return number<double>("a number"); }
  template <class T>
  T as() {
    return static_cast<T>(integer());
  }
  template <class T, class F>
  std::vector<T> list(F&& read) {
    std::vector<T> out(static_cast<size_t>(integer()));
    for (T& x : out) x = read();
    return out;
  }
  void keyword(const char* expected) {
    if (const std::string s = word(); s != expected)
      throw std::runtime_error("the lowered plan has '" + s + "' where '" + expected + "' was expected");
  }

  Expr make_expr() {
    Expr e;
    const std::string kind = word();
    if (kind == "c" || kind == "s") {
      e.kind = kind == "c" ? Expr::constant : Expr::slot;
      e.c = integer();
    } else if (kind == "a") {
      e.kind = Expr::affine;
      e.c = integer();
      e.num_terms = as<int32_t>();
      for (int i = 0; i < e.num_terms; ++i) {
        e.coef[i] = integer();
        e.at[i] = as<int32_t>();
      }
    } else {
      e.kind = Expr::code;
      e.program = list<int64_t>([&] { return integer(); });
    }
    return e;
  }
  void read_exprs() { exprs_ = list<Expr>([&] { return make_expr(); }); }
  Expr expr() { return exprs_.at(static_cast<size_t>(integer())); }
  std::vector<Expr> expr_list() {
    return list<Expr>([&] { return expr(); });
  }

  Invariant invariant() {
    Invariant i;
    i.kind = as<Invariant::Kind>();
    i.lo = expr();
    i.hi = expr();
    return i;
  }
  Tensor tensor() {
    Tensor t;
    t.name = word();
    t.dtype = as<DType>();
    t.role = as<Role>();
    t.layout = as<Layout>();
    t.offset = integer();
    t.shape = expr_list();
    t.invariants = list<Invariant>([&] { return invariant(); });
    return t;
  }
  Event event() {
    Event e;
    e.name = word();
    e.shape = expr_list();
    e.needed = expr();
    e.per_cell = as<bool>();
    e.late = as<bool>();
    e.reads_tables = as<bool>();
    e.capacity = integer();
    return e;
  }
  CellSet cells() {
    CellSet c;
    c.kind = as<CellSet::Kind>();
    c.lo = expr();
    c.hi = expr();
    c.table = as<int>();
    c.prefix = expr_list();
    c.block = integer();
    return c;
  }
  Edge edge() {
    Edge e;
    e.event = as<int>();
    e.inner = as<bool>();
    e.cells = list<CellSet>([&] { return cells(); });
    e.simple = true;
    for (size_t d = 0; d < e.cells.size(); ++d)
      e.simple &= e.cells[d].kind == CellSet::single || (e.cells[d].kind == CellSet::span && d + 1 == e.cells.size());
    return e;
  }
  std::vector<Edge> edges() {
    return list<Edge>([&] { return edge(); });
  }
  Grid grid() {
    Grid g;
    g.name = word();
    g.op = word();
    g.fixed = as<bool>();
    g.ragged = as<bool>();
    g.traceable = as<bool>();
    g.extents = expr_list();
    g.operands = list<OperandUse>([&] {
      OperandUse u;
      u.name = word();
      u.tensor = as<int>();
      return u;
    });
    g.attrs = list<AttrValue>([&] {
      AttrValue a;
      a.name = word();
      a.number = real();
      return a;
    });
    g.enter = edges();
    g.waits = edges();
    g.notifies = edges();
    return g;
  }
  Segment segment() {
    Segment s;
    s.grid = as<int>();
    s.cyclic = as<bool>();
    s.barrier = as<bool>();
    s.rotate = expr();
    return s;
  }

 private:
  std::string_view next() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(kSpace), rest_.size()));
    if (rest_.empty()) throw std::runtime_error("the lowered plan ends too early");
    const std::string_view found = rest_.substr(0, rest_.find_first_of(kSpace));
    rest_.remove_prefix(found.size());
    return found;
  }
  template <class T>
  T number(const char* what) {
    const std::string_view text = next();
    T v{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), v);
    if (error != std::errc() || end != text.data() + text.size())
      throw std::runtime_error("the lowered plan has '" + std::string(text) + "' where " + what + " was expected");
    return v;
  }

  static constexpr std::string_view kSpace = " \n\t\r";
  std::string_view rest_;
  std::vector<Expr> exprs_;
};

}  // namespace

Plan Plan::parse(std::string_view text) {
  Reader r(text);
  Plan p;
  r.keyword("eventide-cpu-plan");
  if (r.integer() != 1) throw std::runtime_error("the lowered plan has another format version");
  p.num_workers = r.as<int>();
  p.arena_bytes = r.integer();
  p.symbols = r.list<std::string>([&] { return r.word(); });
  p.num_symbols = static_cast<int>(p.symbols.size());
  p.first_coord = p.num_symbols;
  p.first_cell = p.first_coord + kMaxAxes;
  p.first_step_slot = p.first_cell + kMaxAxes;
  r.keyword("exprs");
  r.read_exprs();
  r.keyword("step_slots");
  p.step_slots = r.expr_list();
  p.num_slots = p.first_step_slot + static_cast<int>(p.step_slots.size());
  r.keyword("tensors");
  p.tensors = r.list<Tensor>([&] { return r.tensor(); });
  r.keyword("events");
  p.events = r.list<Event>([&] { return r.event(); });
  r.keyword("grids");
  p.grids = r.list<Grid>([&] { return r.grid(); });
  r.keyword("segments");
  p.segments = r.list<Segment>([&] { return r.segment(); });
  for (size_t i = 0; i < p.tensors.size(); ++i)
    if (p.tensors[i].role == Role::input || p.tensors[i].role == Role::output) p.io.push_back(static_cast<int>(i));
  return p;
}

}  // namespace ev
