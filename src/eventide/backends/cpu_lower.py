"""Lowers a plan to the text that the CPU workers read (native/src/plan.cpp): words and integers, one pass.

    eventide-cpu-plan 1  workers  arena bytes  symbols
    exprs        each distinct expression once: c VALUE | s SLOT | a CONSTANT (COEFFICIENT SLOT)* | x CODE...
    step_slots   the expressions over symbols alone, computed once a step into slots of their own
    tensors  events  grids  segments       referring to expressions, tensors, events and grids by number

Slots: the symbols; 8 task coordinates; 8 cell coordinates; then the step slots. Worked example, with symbol `num_tokens` in
slot 0 and the coordinate m in slot 1:

    (num_tokens + 127) // 128      x 7  0 127  1 0  2 1  0 128  4     step slot 17, so elsewhere:  s 17
    128*m + 128                    a 128 1 128 1

Regions of operands are not lowered: operator code finds its elements from its coordinates. What needs no step's values is
decided here: which extents are the same for every step with the same symbols, which grids a worker may replay from a trace
(native/src/kernel.h), which edges differ from task to task of a row, which events depend on tables of the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import PlanError
from ..ir.expr import (
    Expr,
    FloorDiv,
    Load,
    Max,
    Min,
    Mod,
    Product,
    Sum,
    Var,
    as_int,
    bounds,
    linear,
    product,
    tables,
    variables,
)
from ..ir.nodes import Edge, EventTensor, IndexSet, Plan, Segment, Span, TaskGrid, Tensor, Via, cell_var
from ..ops.codegen import attr_value, device_attrs
from ..ops.registry import get_op

MAX_DIMS, MAX_AXES, MAX_DEPTH, MAX_TERMS = 4, 8, 30, 4
DTYPES = ("float32", "bfloat16", "float16", "int32", "int64")
ROLES = ("input", "weight", "state", "scratch", "output")
LAYOUTS = {"plain": 0, "panel32.cpu": 1}
CHECKED = ("within", "nondecreasing", "increasing", "partition", "distinct")
_CODES: dict[type[Expr], int] = {Product: 3, FloorDiv: 4, Mod: 5, Min: 6, Max: 7}


def lower(plan: Plan) -> str:
    """The text of a plan; PlanError if it is beyond what CPU workers can run."""
    return _Lowering(plan).text()


class _Lowering:
    def __init__(self, plan: Plan) -> None:
        if plan.schedule is None:
            raise PlanError(f"plan '{plan.name}' has no schedule; compile it with one")
        self.plan, self.schedule = plan, plan.schedule
        self.tensor_id = {name: i for i, name in enumerate(plan.tensors)}
        self.event_id = {name: i for i, name in enumerate(plan.events)}
        self.grid_id = {g.name: i for i, g in enumerate(plan.grids)}
        self.symbol_slots = {name: i for i, name in enumerate(plan.symbols)}
        self.first_coord = len(plan.symbols)
        self.first_cell = self.first_coord + MAX_AXES
        self.exprs: dict[str, int] = {}
        self.step_slots: dict[str, int] = {}  # expression -> slot
        self.step_exprs: list[int] = []
        self.slots: dict[str, int] = {}
        written = {a.tensor for g in plan.grids for a in g.accesses if a.writes}
        self.computed = {n for n in written if plan.tensors[n].role in ("scratch", "output")}

    def text(self) -> str:
        tensors = [self._tensor(t) for t in self.plan.tensors.values()]
        events = [self._event(e) for e in self.plan.events.values()]
        grids = [self._grid(g) for g in self.plan.grids]
        segments = [self._segment(s) for s in self.schedule.segments]
        lines = [
            f"eventide-cpu-plan 1 {self.schedule.num_workers} {self.plan.arena_bytes}",
            _list(self.plan.symbols),
            f"exprs {_list(self.exprs, ' ')}",
            f"step_slots {_list(self.step_exprs)}",
        ]
        for title, items in (("tensors", tensors), ("events", events), ("grids", grids), ("segments", segments)):
            lines += [f"{title} {len(items)}", *items]
        return "\n".join(lines) + "\n"

    # -- expressions

    def expr(self, e: Expr) -> int:
        """The number of an expression in the scope of `self.slots`."""
        spec = self._spec(e)
        return self.exprs.setdefault(spec, len(self.exprs))

    def _spec(self, e: Expr) -> str:
        if (value := as_int(e)) is not None:
            return f"c {value}"
        e_slot = self._slot(e)
        if e_slot is not None:
            return f"s {e_slot}"
        const, terms = linear(e)
        at = [(c, self._slot(x)) for x, c in terms.items()]
        if len(at) <= MAX_TERMS and all(s is not None for _, s in at):
            return f"a {const} {_list(f'{c} {s}' for c, s in at)}"
        code, depth = self._code(e)
        if depth > MAX_DEPTH:
            raise PlanError(f"the expression {e} is nested too deeply for the CPU workers; name a part of it in a tensor")
        return f"x {_list(code)}"

    def _slot(self, e: Expr) -> int | None:
        """The slot that holds an expression: a variable's, or that of a step slot, made when symbols alone decide it."""
        if isinstance(e, Var):
            if e.name in self.symbol_slots:
                return self.symbol_slots[e.name]
            if e.name not in self.slots:
                raise PlanError(f"'{e.name}' has no value where the plan uses it")
            return self.slots[e.name]
        if tables(e) or not variables(e) <= set(self.symbol_slots):
            return None
        if e.text not in self.step_slots:
            code, depth = self._code(e)
            if depth > MAX_DEPTH:
                raise PlanError(f"the expression {e} is nested too deeply for the CPU workers")
            self.step_exprs.append(self.exprs.setdefault(f"x {_list(code)}", len(self.exprs)))
            self.step_slots[e.text] = self.first_cell + MAX_AXES + len(self.step_slots)
        return self.step_slots[e.text]

    def _code(self, e: Expr) -> tuple[list[int], int]:
        """Stack code of an expression that has no slot, and the stack's depth."""
        if isinstance(e, Sum):
            code, depth = [0, e.const], 1
            for coef, atom in e.terms:
                inner, d = self._part(atom)
                code += [*inner, 2, coef]
                depth = max(depth, d + 1)
            return code, depth
        if isinstance(e, Load):
            code, depth = [], 1
            for i, index in enumerate(e.index):
                inner, d = self._part(index)
                code += inner
                depth = max(depth, d + i)
            return [*code, 8, self._table(e.table, len(e.index)), len(e.index)], depth
        a, b = e.children
        (ca, da), (cb, db) = self._part(a), self._part(b)
        return [*ca, *cb, _CODES[type(e)]], max(da, db + 1)

    def _part(self, e: Expr) -> tuple[list[int], int]:
        if (value := as_int(e)) is not None:
            return [0, value], 1
        slot = self._slot(e)
        return ([1, slot], 1) if slot is not None else self._code(e)

    def _table(self, name: str, ndim: int) -> int:
        t = self.plan.tensors.get(name)
        if t is None or t.dtype not in ("int32", "int64") or t.ndim != ndim:
            raise PlanError(f"the run-time table '{name}' must be an int32 or int64 tensor of {ndim} dimensions in the plan")
        return self.tensor_id[name]

    # -- the parts of a plan

    def _tensor(self, t: Tensor) -> str:
        if t.dtype not in DTYPES:
            raise PlanError(f"tensor '{t.name}' is {t.dtype}; the CPU backend has {', '.join(DTYPES)}")
        if t.ndim > MAX_DIMS:
            raise PlanError(f"tensor '{t.name}' has {t.ndim} dimensions; the CPU backend takes at most {MAX_DIMS}")
        if t.layout not in LAYOUTS:
            raise PlanError(f"tensor '{t.name}' has layout {t.layout}, made for another target; compile the plan for a CPU")
        offset = self.plan.offsets.get(t.name, -1) if t.role == "scratch" else -1
        if t.role == "scratch" and offset < 0:
            raise PlanError(f"scratch tensor '{t.name}' has no place in the arena; run the pass 'memory'")
        checks = [f"{CHECKED.index(i.kind)} {self.expr(i.lo)} {self.expr(i.hi)}" for i in t.invariants if i.kind in CHECKED]
        return (
            f"{t.name} {DTYPES.index(t.dtype)} {ROLES.index(t.role)} {LAYOUTS[t.layout]} {offset} "
            f"{_list(self.expr(e) for e in t.shape)} {_list(checks)}"
        )

    def _event(self, e: EventTensor) -> str:
        if e.needed is None:
            raise PlanError(f"event '{e.name}' has no needed count; the events pass should have inferred it")
        if len(e.shape) > MAX_DIMS:
            raise PlanError(f"event '{e.name}' has {len(e.shape)} dimensions; the CPU backend takes at most {MAX_DIMS}")
        self.slots = {cell_var(d).name: self.first_cell + d for d in range(len(e.shape))}
        read = set().union(*(tables(x) for x in (*e.shape, e.needed)))
        late = bool(read & self.computed)
        capacity = bounds(product(e.shape), self.plan.symbols, self._bound)[1] if late else 0
        per_cell = bool(variables(e.needed) & set(self.slots))
        return (
            f"{e.name} {_list(self.expr(x) for x in e.shape)} {self.expr(e.needed)} "
            f"{per_cell:d} {late:d} {bool(read - self.computed):d} {max(capacity, 0)}"
        )

    def _bound(self, load: Load) -> tuple[int, int]:
        for inv in self.plan.tensors[load.table].invariants:
            if inv.kind in ("within", "partition"):
                lo, hi = (bounds(x, self.plan.symbols, self._bound) for x in (inv.lo, inv.hi))
                return lo[0], hi[1]
        raise PlanError(
            f"an event's shape reads '{load.table}', which the step computes; declare its bounds with an invariant 'within'"
        )

    def _grid(self, g: TaskGrid) -> str:
        if len(g.axes) > MAX_AXES:
            raise PlanError(f"grid '{g.name}' has {len(g.axes)} axes; the CPU backend takes at most {MAX_AXES}")
        op = get_op(g.op)
        if unknown := [a.operand for a in g.accesses if op.operand(a.operand).gpu]:
            raise PlanError(f"grid '{g.name}': the CPU's code of '{g.op}' takes no operand '{unknown[0]}', only GPUs' code does")
        self.slots = {a: self.first_coord + d for d, a in enumerate(g.axis_names)}
        extents = [e for _, e in g.axes]
        fixed = not any(tables(e) for e in extents) and not any(tables(s.rotate) for s in self._segments(g))
        ragged = any(variables(e) & set(g.axis_names) for e in extents)
        edges = (*g.enter, *g.waits, *g.notifies)
        events = [self.plan.events[e.event] for e in edges]
        read = [e for edge in edges for s in edge.cells for e in _exprs(s)]
        read += [e for event in events for e in (*event.shape, *((event.needed,) if event.needed is not None else ()))]
        via = any(isinstance(s, Via) for edge in edges for s in edge.cells)
        traceable = fixed and not via and not any(tables(e) for e in read)
        attrs = [f"{a.name} {attr_value(a, g.attrs[a.name])!r}" for a in device_attrs(op)]
        attrs += [f"{name} {int(g.attrs[name])}" for name in op.tile_attrs]
        last = g.axis_names[-1] if g.axes else ""
        return " ".join(
            [
                f"{g.name} {g.op} {fixed:d} {ragged:d} {traceable:d}",
                _list(self.expr(e) for e in extents),
                _list(f"{a.operand} {self.tensor_id[a.tensor]}" for a in g.accesses),
                _list(attrs),
                *(_list(self._edge(e, last) for e in edges) for edges in (g.enter, g.waits, g.notifies)),
            ]
        )

    def _segments(self, g: TaskGrid) -> list[Segment]:
        return [s for s in self.schedule.segments if s.grid == g.name]

    def _edge(self, edge: Edge, last: str) -> str:
        inner = any(last in variables(e) for s in edge.cells for e in _exprs(s))
        return f"{self.event_id[edge.event]} {inner:d} {_list(self._cells(s) for s in edge.cells)}"

    def _cells(self, s: IndexSet) -> str:
        if isinstance(s, Via):
            table = self._table(s.table, len(s.prefix) + 1)
            return f"2 {self.expr(s.lo)} {self.expr(s.hi)} {table} {_list(self.expr(p) for p in s.prefix)} {s.block}"
        single = s.single is not None
        return f"{0 if single else 1} {self.expr(s.lo)} {self.expr(s.lo if single else s.hi)} 0 0 1"

    def _segment(self, s: Segment) -> str:
        self.slots = {}
        if tables(s.rotate) & self.computed:
            raise PlanError(f"the share of grid '{s.grid}' rotates by {s.rotate}, which the step computes only later")
        return f"{self.grid_id[s.grid]} {s.distribution == 'cyclic':d} {s.barrier:d} {self.expr(s.rotate)}"


def _exprs(s: IndexSet) -> Sequence[Expr]:
    return (s.lo, s.hi) if isinstance(s, Span) else (*s.prefix, s.lo, s.hi)


def _list(items: Iterable[object] | Mapping[str, object], separator: str = " ") -> str:
    found = [str(i) for i in items]
    return separator.join([str(len(found)), *found])
