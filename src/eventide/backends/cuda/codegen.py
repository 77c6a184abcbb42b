"""CUDA source from a plan: one class for each kind of task grid, a table for all grids, one kernel.

Grids that differ only in which tensors and events they name share a class: the 36 query projections of a model are one
class with 36 rows of arguments. A class is a C++ struct that holds the operands with their constant extents, evaluates
the plan's expressions (extents, shares, waits, notifies) and calls the operator's code, which sees nothing else.

    struct C3 {  // linear: layers.0.qkv and 35 more
      struct x_t { const bf16* data; int dim0; static constexpr int dim1 = 4096, layout = PLAIN; } x;
      ...
      int tasks() const { return ((s.symbol(0) + 7) / 8) * 768; }
      void waits(Waiter& k, Coords x) const { for (...) k.add(base(7) + i0, needed); }
    };

The arguments of one grid, 64 bits each: its operands' addresses (offsets, for inputs and small outputs, which move from
step to step), tensor maps of weights that wide products stream, run-time tables' addresses, event tensors' first cells, and the
coefficients of its share's rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import DeviceError, PlanError
from ...ir.expr import Expr, Load, Mod, as_int, linear, tables, to_c, variables
from ...ir.nodes import Edge, EventTensor, Plan, Segment, Span, TaskGrid, Tensor, Via, exprs_of
from ...ops.declaration import Op
from ...ops.registry import get_op
from ...target import DIRECT_ROWS, HALF_ROWS, TILES, WIDE_ROWS
from .announce import MOST, MOST_DIRECT, MOST_WIDE, Announced, find_announced
from .layout import PANEL, TIGHT, Layout, lay_out, max_value, slab_bytes
from .wgmma import wgmma_source

DEVICE = Path(__file__).parents[2] / "device" / "cuda"
# before the operators' code
RUNTIME = (
    "ptx.cuh", "runtime.cuh", "weights.cuh", "tiles.cuh", "fragments.cuh", "direct.cuh", "warps.cuh", "wide.cuh", "slim.cuh",
    "attention.cuh",
)  # fmt: skip
C_TYPES = {"float32": "float", "bfloat16": "bf16", "int32": "int", "int64": "i64"}
LAYOUTS = {"plain": "PLAIN", PANEL: "PANEL8", TIGHT: "TIGHT8", TILES: "TILED"}


@dataclass(frozen=True)
class Config:
    """Sizes of the kernel's shared memory: ring slots and their bytes, the stream's limit in flight (slots), operators' scratch."""

    slots: int = 16
    slot: int = slab_bytes(PANEL)
    in_flight: int = 6
    scratch: int = 88 * 1024
    delay_ns: int = 0  # test aid: some tasks sleep up to so long first
    announce: int = 1  # whether small activations tell by themselves that they are there, see `announce`
    trace: int = 0  # records of each worker's timeline to keep; 0 compiles tracing away
    no_run_ahead: int = 0  # ablation: weights of a task are streamed once its events were triggered, not before
    phase_barrier: int = 0  # ablation: a barrier of all workers between grids, in place of events
    per_op: int = 0  # one kernel an operator, made for so many blocks on a multiprocessor; 0: the persistent kernel

    @property
    def shared_bytes(self) -> int:
        return -(-self.slots * self.slot // 1024) * 1024 + self.scratch


@dataclass
class Argument:
    """One 64-bit argument of a grid: ("tensor", name), ("maps of 64" rows, or 48 or 32, name of a weight), ("event", name) or
    ("number", value)."""

    kind: str
    value: str | int


@dataclass
class Source:
    """Generated source and what the host needs to launch it."""

    text: str
    layout: Layout
    config: Config
    segments: list[list[Argument]]  # the class of each segment, then its arguments
    stride: int  # arguments of a segment in the table, padded
    threads: list[int]  # of a block of each class's own kernel, see device/cuda/per_op.cuh


def generate(plan: Plan, config: Config | None = None) -> Source:
    """The kernel's source for a scheduled plan; DeviceError for what the CUDA backend can't run yet."""
    return _Generator(plan, config or Config()).run()


class _Generator:
    def __init__(self, plan: Plan, config: Config) -> None:
        if plan.schedule is None:
            raise PlanError(f"plan '{plan.name}' has no schedule")
        self.plan, self.config, self.schedule = plan, config, plan.schedule
        announce = self.config.announce and not self.config.per_op
        self.wide = wide_tokens(plan)
        most = MOST_DIRECT if direct_rows(plan) else MOST_WIDE if self.wide else MOST
        self.announced = find_announced(plan, lambda op: _device_code(get_op(op)), most) if announce else Announced()
        waits = {(g.name, e.event) for g in plan.grids for e in (*g.waits, *g.enter)}
        self.counted = {event for _, event in waits - self.announced.carried}  # events that somebody counts
        self.layout = lay_out(plan, self.announced.tensors)
        self.atoms: list[Expr] = []
        self.classes: dict[str, int] = {}
        self.members: list[list[str]] = []
        self.bodies: list[str] = []

    def run(self) -> Source:
        rotations = [self._rotation(s) for s in self.schedule.segments]
        segments: list[list[Argument]] = []
        for segment, (const, terms) in zip(self.schedule.segments, rotations):
            body = _ClassBody(self, segment)
            key = body.text("C?")
            if key not in self.classes:
                self.classes[key] = len(self.members)
                self.members.append([])
                self.bodies.append(body.text(f"C{len(self.members) - 1}"))
            cls = self.classes[key]
            self.members[cls].append(segment.grid)
            rotation = [Argument("number", v) for v in (const, *(terms.get(a, 0) for a in self.atoms))]
            segments.append([Argument("number", cls), *body.arguments, *rotation])
        stride = -(-max(len(s) for s in segments) // 2) * 2  # the copy engine moves 16 bytes at a time
        more = 128 if self.wide else 32
        threads = [256 + more * ("STREAMED = true" in body) for body in self.bodies]
        return Source(self._assemble(stride), self.layout, self.config, segments, stride, threads)

    def _rotation(self, segment: Segment) -> tuple[int, dict[Expr, int]]:
        rotate = segment.rotate.a if isinstance(segment.rotate, Mod) else segment.rotate
        const, terms = linear(rotate)
        for atom in terms:
            if atom not in self.atoms:
                self.atoms.append(atom)
        return const, terms

    def _constants(self, stride: int) -> dict[str, int]:
        c = self.config
        return {
            "NUM_SYMBOLS": max(len(self.layout.symbols), 1), "NUM_CELLS": self.layout.num_cells, "ARGS": stride,
            "WORKERS": self.schedule.num_workers, "SLOTS": c.slots, "SLOT": c.slot, "IN_FLIGHT": c.in_flight, "SCRATCH": c.scratch,
            "WIDE": self.wide, "DIRECT": direct_rows(self.plan), "STAGES": stages(self.wide, c.scratch),
            "SUMS_BYTES": sums_bytes(self.wide),
            "TRACE": c.trace, "STAGED": max(self.layout.staged_bytes, 16),
            "ANNOUNCED": self.layout.announced_bytes, **({"OP_BLOCKS": c.per_op} if c.per_op else {}),
        }  # fmt: skip

    def _assemble(self, stride: int) -> str:
        ops = list(dict.fromkeys(g.op for g in self.plan.grids))
        parts = [
            f"// generated from plan '{self.plan.name}' for {self.plan.target}; do not edit",
            f"#define EV_TRACE {int(self.config.trace > 0)}",
            f"#define EV_DELAY {self.config.delay_ns}",
            f"#define EV_NO_RUN_AHEAD {self.config.no_run_ahead}",
            f"#define EV_PHASE_BARRIER {self.config.phase_barrier}",
            "namespace ev {",
            *(f"constexpr int {name} = {value};" for name, value in self._constants(stride).items()),
            "}  // namespace ev",
            *(f"// ---- device/cuda/{n}\n{(DEVICE / n).read_text()}" for n in RUNTIME[:1]),
            *([wgmma_source(self.wide)] if self.wide else []),
            *(f"// ---- device/cuda/{n}\n{(DEVICE / n).read_text()}" for n in RUNTIME[1:]),
            *(f"// ---- ops/{op}/cuda.cuh\n{_device_code(get_op(op))}" for op in ops),
            f"// ---- device/cuda/tasks.cuh\n{(DEVICE / 'tasks.cuh').read_text()}",
            "namespace ev {",
        ]
        for i, (body, names) in enumerate(zip(self.bodies, self.members)):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"// C{i}: {names[0]}{more}\n{body}")
        if self.config.per_op:
            return "\n".join(p.replace("#pragma once\n", "") for p in (*parts, *self._operator_kernels()))
        for fn, last, call in (
            ("dispatch_load", "Loader& l", "next_run(C{i}(s, args), l)"),
            ("dispatch_consume", "Worker& w", "consume(C{i}(s, args), w)"),
        ):
            cases = "\n".join(f"    case {i}: return {call.format(i=i)};" for i in range(len(self.members)))
            parts.append(
                f"__device__ __forceinline__ bool {fn}(int cls, const u64* args, const Step& s, {last}) {{\n"
                f"  switch (cls) {{\n{cases}\n  }}\n  return false;\n}}"
            )
        parts += ["}  // namespace ev", f"// ---- device/cuda/main.cuh\n{(DEVICE / 'main.cuh').read_text()}"]
        return "\n".join(p.replace("#pragma once\n", "") for p in parts)

    def _operator_kernels(self) -> list[str]:
        """One kernel for each class, instead of one for all."""
        parts = ["}  // namespace ev", f"// ---- device/cuda/per_op.cuh\n{(DEVICE / 'per_op.cuh').read_text()}"]
        for i in range(len(self.members)):
            bounds = f"__launch_bounds__(ev::OP_THREADS<ev::C{i}>, ev::OP_BLOCKS_OF<ev::C{i}>)"
            parts.append(
                f'extern "C" __global__ void {bounds} operator_{i}(const ev::Launch* launch, int segment, int last) {{\n'
                "  extern __shared__ __align__(1024) ev::u8 memory[];\n"
                "  __shared__ ev::Block block;\n"
                f"  ev::operator_main<ev::C{i}>(launch, segment, last, memory, &block);\n}}"
            )
        return parts


def device_source(*names: str) -> str:
    """Files of device/cuda as one text, for kernels of their own."""
    return "\n".join((DEVICE / name).read_text().replace("#pragma once\n", "") for name in names)


def wide_tokens(plan: Plan) -> int:
    """Tokens of a task where products are wide (device/cuda/wide.cuh): with more than 8; 0 where they are narrow."""
    streams = (g for g in plan.grids if any(get_op(g.op).operand(a.operand).streamed for a in g.accesses))
    most = max((int(g.attrs.get("tile_m", 1)) for g in streams), default=1)
    return most if most > 8 else 0


def direct_rows(plan: Plan) -> int:
    """Rows of a task where products take their input as it stands (device/cuda/direct.cuh); 0 where they don't."""
    return DIRECT_ROWS if wide_tokens(plan) and any(g.attrs.get("tile_n") == DIRECT_ROWS for g in plan.grids) else 0


def sums_bytes(tokens: int) -> int:
    """What stands behind the stages of a wide product's input: sums of both warpgroups, of 64 tokens or 32 at once, of 64 rows and
    4 floats between (wide.cuh), or those of a slim product's warps, of all blocks of a pass (slim.cuh)."""
    return 32 * 1024 + 256 if tokens <= 32 else 2 * (tokens if tokens <= 64 else 32) * 68 * 4


def stages(tokens: int, scratch: int) -> int:
    """Stages of a wide product's input that scratch memory holds, beside sums and, up to 64 tokens, a number for each thread (see
    device/cuda/runtime.cuh).

    Up to 64 tokens an even number, for warpgroups take lines by turns: so that a stage's place belongs to one of them (wide.cuh).
    Up to 32 a multiple of 4, for eight warps do: so that it belongs to one, or to one of each warpgroup (slim.cuh).
    """
    stage = tokens * (256 if tokens <= 128 else 128)
    numbers = 1024 if tokens <= 64 else 0  # of each thread, for the other half of a norm
    found = min((scratch - sums_bytes(tokens) - numbers) // stage, 16 if tokens <= 32 else 8) if tokens else 1
    turns = 4 if tokens <= 32 else 2 if tokens <= 64 else 1
    return max(found - found % turns, 1)


def _bool(value: object) -> str:
    return "true" if value else "false"


@cache
def _device_code(op: Op) -> str:
    path = op.folder / "cuda.cuh" if op.folder else None
    if path is None or not path.exists():
        raise DeviceError(f"operator '{op.name}' has no cuda.cuh beside its declaration, so it can't run on a GPU")
    return path.read_text()


class _ClassBody:
    """The C++ struct of one grid, and its arguments."""

    def __init__(self, gen: _Generator, segment: Segment) -> None:
        self.gen, self.plan, self.segment = gen, gen.plan, segment
        self.grid: TaskGrid = gen.plan.grid(segment.grid)
        self.op = get_op(self.grid.op)
        self.arguments: list[Argument] = []
        if any(variables(e) & set(self.grid.axis_names) for _, e in self.grid.axes):
            raise DeviceError(
                f"grid '{self.grid.name}' is ragged (an extent depends on another axis); the CUDA backend can't run that yet"
            )
        self.slots: dict[tuple[str, str], int] = {}
        for a in self.grid.accesses:
            self._slot("operand", a.operand, Argument("tensor", a.tensor))
            if self._boxed(a.tensor):
                rows = self.grid.attrs.get("tile_n")
                rows = rows if rows in (DIRECT_ROWS, HALF_ROWS) else WIDE_ROWS
                self._slot("maps", a.operand, Argument(f"maps of {rows}", a.tensor))
        for name in sorted(self._tables()):
            if self.plan.tensors[name].role != "input":
                self._slot("table", name, Argument("tensor", name))
        carried = {e for g, e in gen.announced.carried if g == self.grid.name}
        self.polls = bool(carried)
        self.waits = tuple(e for e in self.grid.waits if e.event not in carried)
        self.notifies = tuple(e for e in self.grid.notifies if e.event in gen.counted)
        for edge in (*self.waits, *self.grid.enter, *self.notifies):
            self._slot("event", edge.event, Argument("event", edge.event))

    def _slot(self, kind: str, name: str, argument: Argument) -> int:
        if (kind, name) not in self.slots:
            self.slots[kind, name] = len(self.arguments)
            self.arguments.append(argument)
        return self.slots[kind, name]

    def _boxed(self, tensor: str) -> bool:
        """Whether a tensor is a weight that wide products stream box by box."""
        return self.gen.wide > 0 and self.plan.tensors[tensor].layout in (PANEL, TIGHT)

    def _tables(self) -> set[str]:
        exprs = [e for _, e in self.grid.axes]
        names: set[str] = set()
        for edge in (*self.grid.waits, *self.grid.enter, *self.grid.notifies):
            exprs += exprs_of(edge.cells)
            names |= {s.table for s in edge.cells if isinstance(s, Via)}
            ev = self.plan.events[edge.event]
            exprs += [*ev.shape, *([ev.needed] if ev.needed is not None else [])]
        for a in self.grid.accesses:
            exprs += list(self.plan.tensors[a.tensor].shape)
        for e in exprs:
            names |= tables(e)
        return names

    # -- expressions

    def _name(self, name: str) -> str:
        if name in self.gen.layout.symbols:
            return f"s.symbol({self.gen.layout.symbols.index(name)})"
        if name in self.grid.axis_names:
            return f"x.v[{self.grid.axis_names.index(name)}]"
        return name  # a cell's coordinate, c0, c1, ...

    def _load(self, load: Load) -> str:
        t = self.plan.tensors[load.table]
        index = "0"
        for i, extent in zip(load.index, t.shape):
            index = f"({index} * {self._c(extent)} + {self._c(i)})" if index != "0" else self._c(i)
        return self._table_at(load.table, index)

    def _table_at(self, table: str, index: str) -> str:
        if self.plan.tensors[table].role == "input":
            if table in self.gen.layout.table_offsets:
                return f"s.load_table({self.gen.layout.table_offsets[table]}, {index})"
            return f"s.load({self.gen.layout.input_offsets[table]}, {index})"
        return f"((const volatile int*)args[{self.slots['table', table]}])[{index}]"

    def _c(self, expr: Expr) -> str:
        return to_c(expr, self._name, self._load)

    # -- the struct

    def text(self, name: str) -> str:
        g, op = self.grid, self.op
        runs = f"{op.name}_op<{name}>::RUNS"
        streamed, ahead = (f"void {fn}(const A& a, Loader& l" in _device_code(op) for fn in ("stream", "ahead"))
        n = len(g.axes)
        coords = [f"x.v[{i}]" for i in range(n)]
        lines = [f"struct {name} {{", *self._operands(), *self._attributes()]
        lines += [
            "  const Step& s;",
            "  const u64* args;",
            *self._constructor(name),
            f"  static constexpr bool RUNS = {runs};",
            f"  static constexpr bool STREAMED = {_bool(streamed)}, AHEAD = {_bool(ahead)};",
            f"  static constexpr int LAST = {max(n - 1, 0)};",
            f"  static constexpr bool ENTERS = {'true' if g.enter else 'false'};",
            f"  static constexpr bool WAITS_VARY = {self._varies(self.waits)}, NOTIFIES_VARY = {self._varies(self.notifies)};",
            f"  static constexpr bool WAITS = {_bool(self.waits)}, NOTIFIES = {_bool(self.notifies)};",
            f"  __device__ __forceinline__ int last_extent() const {{ return {self._c(g.axes[-1][1]) if g.axes else '1'}; }}",
            f"  __device__ __forceinline__ int tasks() const {{ return {self._c(g.num_tasks)}; }}",
            *self._coords(),
            *self._share(),
            *self._edge_function("waits", "Waiter", self.waits),
            *self._edge_function("enters", "Waiter", g.enter),
            *self._edge_function("notifies", "Notifier", self.notifies),
            f"  typedef {op.name}_op<{name}> op_t;",
            *(
                f"  __device__ __forceinline__ void {fn}(op_t& op, Worker& w, const Coords& x, int count) const "
                f"{{ op.{fn}(*this, w{''.join(', ' + c for c in coords)}{', count' if self._op_runs() else ''}); }}"
                for fn in ("prefetch", "run")
            ),
        ]
        if streamed:
            lines += [
                "  __device__ __forceinline__ void stream(Loader& l, const Coords& x, int count) const {",
                f"    {op.name}_op<{name}>::stream(*this, l, {', '.join(coords)}, count);",
                "  }",
            ]
        if ahead:
            lines += [
                "  __device__ __forceinline__ void ahead(Loader& l, const Coords& x) const {",
                f"    {op.name}_op<{name}>::ahead(*this, l, {', '.join(coords)});",
                "  }",
            ]
        return "\n".join(line for line in [*lines, "};"] if line)

    def _op_runs(self) -> bool:
        return "RUNS = true" in _device_code(self.op)

    def _operands(self) -> list[str]:
        lines = []
        present = {a.operand: a for a in self.grid.accesses}
        for o in self.op.operands:
            if o.optional:
                lines.append(f"  static constexpr bool has_{o.name} = {'true' if o.name in present else 'false'};")
            if o.name not in present:
                continue
            t = self.plan.tensors[present[o.name].tensor]
            const = "const " if o.mode == "read" else ""
            dims = []
            for d, e in enumerate(t.shape):
                n = as_int(e)
                dims.append(f"int dim{d};" if n is None else f"static constexpr int dim{d} = {n};")
            if t.dtype not in C_TYPES:
                raise DeviceError(f"tensor '{t.name}' is {t.dtype}; the CUDA backend has {', '.join(C_TYPES)}")
            if t.layout == TILES:
                dims.append(f"static constexpr int rows = {max_value(self.plan, t.shape[0])};")
            maps = "const u8* maps; " if self._boxed(t.name) else ""
            if t.dtype == "int32" and t.ndim == 2:
                dims.append(f"static constexpr bool single = {_bool(any(i.kind == 'single' for i in t.invariants))};")
            lines.append(
                f"  struct {o.name}_t {{ {const}{C_TYPES[t.dtype]}* data; {maps}{' '.join(dims)} "
                f"static constexpr int layout = {LAYOUTS.get(t.layout, 'PLAIN')}; "
                f"static constexpr bool polled = {_bool(self.polls and t.name in self.gen.announced.tensors)}; }} {o.name};"
            )
        return lines

    def _attributes(self) -> list[str]:
        lines = []
        for a in self.op.attrs:
            v = self.grid.attrs[a.name]
            if a.choices:
                lines.append(f"  static constexpr int {a.name} = {a.choices.index(v)};")
            elif a.type is float:
                lines.append(f"  static constexpr float {a.name} = (float){float(v)!r};")
            elif a.type in (int, bool):
                lines.append(f"  static constexpr int {a.name} = {int(v)};")
        return lines + [f"  static constexpr int {k} = {self.grid.attrs[k]};" for k in self.op.tile_attrs]

    def _constructor(self, name: str) -> list[str]:
        lines = [f"  __device__ __forceinline__ {name}(const Step& step_, const u64* args_) : s(step_), args(args_) {{"]
        for a in self.grid.accesses:
            t = self.plan.tensors[a.tensor]
            const = "const " if self.op.operand(a.operand).mode == "read" else ""
            base = self._base(t)
            slot = self.slots["operand", a.operand]
            lines.append(f"    {a.operand}.data = ({const}{C_TYPES[t.dtype]}*)({base}args[{slot}]);")
            if self._boxed(a.tensor):
                lines.append(f"    {a.operand}.maps = (const u8*)args[{self.slots['maps', a.operand]}];")
            for d, e in enumerate(t.shape):
                if as_int(e) is None:
                    lines.append(f"    {a.operand}.dim{d} = {self._c(e)};")
        return [*lines, "  }"]

    def _base(self, t: Tensor) -> str:
        """What the tensor's argument is an offset from; empty where it is an address."""
        layout = self.gen.layout
        if t.name in layout.announced_offsets:
            return "s.bank + "
        if t.name in layout.table_offsets:
            return "(u64)s.tables + "
        if t.role == "input":
            return f"(u64)s.{'staged' if layout.input_offsets[t.name] < layout.staged_bytes else 'inputs'} + "
        return "(u64)s.outputs + " if t.name in layout.output_offsets else ""

    def _coords(self) -> list[str]:
        lines = ["  __device__ __forceinline__ Coords coords(u32 r) const {", "    Coords x = {{0, 0, 0, 0}};"]
        for d in range(len(self.grid.axes) - 1, -1, -1):
            extent = self._c(self.grid.axes[d][1])
            lines.append(f"    x.v[{d}] = r % {extent}; r /= {extent};" if d else "    x.v[0] = r;")
        return [*lines, "    return x;", "  }"]

    def _share(self) -> list[str]:
        first = len(self.arguments)
        terms = [f"(int)args[{first}]"]
        for i, atom in enumerate(self.gen.atoms):
            terms.append(f"(int)args[{first + 1 + i}] * {self._c(atom)}")
        return [
            "  __device__ __forceinline__ Share share(int worker, int tasks) const {",
            f"    return {self.segment.distribution}_share<WORKERS>(worker, tasks, {' + '.join(terms)});",
            "  }",
        ]

    def _varies(self, edges: tuple[Edge, ...]) -> str:
        if not self.grid.axes:
            return "false"
        last = self.grid.axis_names[-1]
        return "true" if any(last in variables(e) for edge in edges for e in exprs_of(edge.cells)) else "false"

    def _edge_function(self, name: str, cls: str, edges: tuple[Edge, ...]) -> list[str]:
        extra = ", int times" if name == "notifies" else ""
        coords = "" if name == "enters" else ", const Coords& x"
        lines = [f"  __device__ __forceinline__ void {name}({cls}& k{coords}{extra}) const {{"]
        for edge in edges:
            lines += self._edge(edge, "times" if name == "notifies" else None)
        return [*lines, "  }"] if edges or name != "enters" else []

    def _edge(self, edge: Edge, times: str | None) -> list[str]:
        ev: EventTensor = self.plan.events[edge.event]
        base = f"(u32)args[{self.slots['event', edge.event]}]"
        lines, closing, flat = [], "", "0"
        for d, (s, extent) in enumerate(zip(edge.cells, ev.shape)):
            n = self._c(extent)
            if isinstance(s, Span) and s.single is not None:
                lines.append(f"    {{ const int c{d} = {self._c(s.lo)};")
                closing += "}"
            elif isinstance(s, Span):
                lo, hi = f"ev_max({self._c(s.lo)}, 0)", f"ev_min({self._c(s.hi)}, {n})"
                lines.append("    #pragma unroll 1")  # code that runs once is best short
                lines.append(f"    for (int c{d} = {lo}, end{d} = {hi}; c{d} < end{d}; ++c{d}) {{")
                closing += "}"
            else:
                if times is None and s.block != 1:
                    raise DeviceError(f"grid '{self.grid.name}': a paged lookup of event cells isn't supported on CUDA")
                prefix = [self._c(p) for p in s.prefix]
                table = self.plan.tensors[s.table]
                row = "0"
                for p, e in zip(prefix, table.shape):
                    row = f"({row} * {self._c(e)} + {p})"
                at = f"({row} * {self._c(table.shape[-1])} + i{d} / {s.block})"
                lines.append("    #pragma unroll 1")
                lines.append(f"    for (int i{d} = {self._c(s.lo)}, end{d} = {self._c(s.hi)}; i{d} < end{d}; ++i{d}) {{")
                lines.append(f"    const int c{d} = {self._table_at(s.table, at)} * {s.block} + i{d} % {s.block};")
                closing += "}"
            flat = f"({flat} * {n} + c{d})" if flat != "0" else f"c{d}"
        if times is None:
            assert ev.needed is not None
            lines.append(f"    k.add({base} + {flat}, {self._c(ev.needed)});")
        else:
            lines.append(f"    k.add({base} + {flat}, {times});")
        return [*lines, f"    {closing}" if closing else ""]

