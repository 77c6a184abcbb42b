"""Programs: operator calls over named tensors, before any tiling.

    p = Program("mlp")
    t = p.symbol("num_tokens", 1, 64)
    x = p.input("x", (t, 256), "float32")
    h = p.call("linear", x=x, w=p.weight("w1", (512, 256), "float32"))
    y = p.call("linear", x=h, w=p.weight("w2", (256, 512), "float32"), name="down")
    p.output(y, "y")

The order of the calls defines what the program means: an access that conflicts with an earlier one (same elements, at
least one of the two writing) takes place after it. Passes may run tasks in any order that keeps this.

Events by hand, with the same meaning as inferred ones:

    done = p.event("done", (8,), needed=4)
    h = p.call("linear", x=x, w=w1, notifies=lambda m, n: [done[n // 4]])
    y = p.call("linear", x=h, w=w2, waits=lambda m, n: [done[0:8]])

Functions given as `waits` and `notifies` take the call's task coordinates by the axis names of its operator. Cells are
picked with integers, expressions, slices, or lookups in run-time tables: `done[topk[i, 0]]`, `done[topk[i, :]]`,
`done[indptr[e]:indptr[e + 1]]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..dtypes import DTYPES
from ..errors import ProgramError
from ..ir.expr import Expr, IntLike, Load, Var, wrap
from ..ir.nodes import Edge, EventTensor, IndexSet, Invariant, Role, Span, Tensor, Via
from ..ir.printer import attrs_text, symbols_text, tensor_text
from .registry import get_op

EdgeFn = Callable[..., Iterable[Edge]]


@dataclass(frozen=True)
class TensorRef:
    """A program's handle on a tensor; indexing an integer tensor gives a run-time lookup."""

    tensor: Tensor

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def shape(self) -> tuple[Expr, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    def __getitem__(self, key: Any) -> Any:
        index = key if isinstance(key, tuple) else (key,)
        if not self.dtype.startswith("int"):
            raise ProgramError(f"'{self.name}' is {self.dtype}; only integer tensors can be looked up in a map")
        if len(index) != len(self.shape):
            raise ProgramError(f"'{self.name}' has {len(self.shape)} dimensions, the lookup gives {len(index)}")
        if isinstance(index[-1], slice):
            lo, hi = _slice_bounds(index[-1], self.shape[-1])
            return Via(self.name, tuple(wrap(i) for i in index[:-1]), lo, hi)
        return Load(self.name, tuple(wrap(i) for i in index))


@dataclass(frozen=True)
class EventRef:
    event: EventTensor

    def __getitem__(self, key: Any) -> Edge:
        index = key if isinstance(key, tuple) else (key,)
        ev = self.event
        if len(index) != len(ev.shape):
            raise ProgramError(f"event '{ev.name}' has {len(ev.shape)} dimensions, the edge gives {len(index)}")
        return Edge(ev.name, tuple(_cells(i, extent) for i, extent in zip(index, ev.shape, strict=True)))


def _slice_bounds(s: slice, extent: Expr) -> tuple[Expr, Expr]:
    if s.step not in (None, 1):
        raise ProgramError(f"a slice of cells has no step, got {s.step}")
    return wrap(0 if s.start is None else s.start), wrap(extent if s.stop is None else s.stop)


def _cells(i: Any, extent: Expr) -> IndexSet:
    if isinstance(i, Via):
        return i
    if isinstance(i, slice):
        return Span(*_slice_bounds(i, extent))
    return Span.at(i)


@dataclass(frozen=True)
class OpCall:
    """One operator applied to tensors: ``operands`` maps operand names of the declaration to tensor names."""

    name: str
    op: str
    operands: Mapping[str, str]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    waits: EdgeFn | None = None
    notifies: EdgeFn | None = None
    source: str = ""


class Program:
    """A tensor program being built; see the module's docstring."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.symbols: dict[str, tuple[int, int]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.events: dict[str, EventTensor] = {}
        self.calls: list[OpCall] = []
        self.requires: list[Expr] = []

    # -- declarations

    def symbol(self, name: str, lo: int, hi: int) -> Var:
        """A run-time integer with lo <= value <= hi."""
        if not 0 <= lo <= hi:
            raise ProgramError(f"symbol '{name}': the range must satisfy 0 <= lo <= hi, got [{lo}, {hi}]")
        self._fresh(name)
        self.symbols[name] = (lo, hi)
        return Var(name)

    def require_at_most(self, small: IntLike, large: IntLike) -> None:
        """Promises small <= large for every step, an expression over symbols each; steps that break it are refused."""
        self.requires.append(wrap(large) - small)

    def tensor(
        self, name: str, shape: Iterable[IntLike], dtype: str, role: Role = "scratch", invariants: Iterable[Invariant] = ()
    ) -> TensorRef:
        self._fresh(name)
        if dtype not in DTYPES:
            raise ProgramError(f"tensor '{name}': unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
        t = Tensor(name, tuple(wrap(s) for s in shape), dtype, role, invariants=tuple(invariants))
        self.tensors[name] = t
        return TensorRef(t)

    def input(self, name: str, shape: Iterable[IntLike], dtype: str, invariants: Iterable[Invariant] = ()) -> TensorRef:
        return self.tensor(name, shape, dtype, "input", invariants)

    def weight(self, name: str, shape: Iterable[IntLike], dtype: str) -> TensorRef:
        return self.tensor(name, shape, dtype, "weight")

    def state(self, name: str, shape: Iterable[IntLike], dtype: str) -> TensorRef:
        return self.tensor(name, shape, dtype, "state")

    def event(self, name: str, shape: Iterable[IntLike], needed: IntLike | None = None) -> EventRef:
        """An event tensor by hand; without `needed` the compiler counts the notifications of each cell."""
        self._fresh(name)
        ev = EventTensor(name, tuple(wrap(s) for s in shape), None if needed is None else wrap(needed))
        self.events[name] = ev
        return EventRef(ev)

    def output(self, ref: TensorRef, name: str | None = None) -> TensorRef:
        """Marks a scratch tensor as an output that the host may read, renaming it if asked."""
        t = self.tensors.get(ref.name)
        if t is None or t.role != "scratch":
            raise ProgramError(f"'{ref.name}' cannot be an output: it is {'unknown' if t is None else 'a ' + t.role}")
        new = Tensor(name or t.name, t.shape, t.dtype, "output")
        if new.name != t.name:
            self._fresh(new.name)
        self.tensors = {(new.name if k == t.name else k): (new if k == t.name else v) for k, v in self.tensors.items()}
        self.calls = [_rename(c, t.name, new.name) for c in self.calls]
        return TensorRef(new)

    # -- calls

    def call(
        self,
        op: str,
        *,
        name: str | None = None,
        waits: EdgeFn | None = None,
        notifies: EdgeFn | None = None,
        **arguments: Any,
    ) -> Any:
        """Appends a call. Keyword arguments are operands (tensor handles) and attributes of the operator's declaration.

        Returns the handle of the operator's output, a tuple of them if it has several, None if it only updates its
        operands.
        """
        decl = get_op(op)
        name = name or f"{op}{len(self.calls)}"
        operands, attrs = decl.bind(name, arguments)
        for operand, value in operands.items():
            if not isinstance(value, TensorRef):
                raise ProgramError(
                    f"call '{name}': operand '{operand}' must be a tensor of the program (from input, weight, state or call), "
                    f"got {type(value).__name__}"
                )
        out: list[TensorRef] = []
        for spec, shape, dtype in decl.outputs(name, {k: r.tensor for k, r in operands.items()}, attrs):
            if spec.name not in operands:
                suffix = f".{spec.name}" if decl.num_outputs > 1 else ""
                operands[spec.name] = self.tensor(f"{name}{suffix}", shape, dtype)
                out.append(operands[spec.name])
        if any(c.name == name for c in self.calls):
            raise ProgramError(f"a call named '{name}' exists already; give every call its own name")
        source = _caller()
        self.calls.append(OpCall(name, op, {k: r.name for k, r in operands.items()}, attrs, waits, notifies, source))
        return out[0] if len(out) == 1 else tuple(out) if out else None

    def _fresh(self, name: str) -> None:
        first, *rest = name.split(".")
        if not first.isidentifier() or not all(part.isidentifier() or part.isdecimal() for part in rest):
            raise ProgramError(f"'{name}' is not a name: an identifier is, or several and numbers joined by dots")
        for kind, table in (("symbol", self.symbols), ("tensor", self.tensors), ("event", self.events)):
            if name in table:
                raise ProgramError(f"the name '{name}' is taken by a {kind} of program '{self.name}'")

    def __str__(self) -> str:
        lines = [f"program '{self.name}'", *symbols_text(self.symbols)]
        lines += [tensor_text(t) for t in self.tensors.values()]
        lines += [f"  event     {e.name:24s} [{', '.join(map(str, e.shape))}]" for e in self.events.values()]
        for c in self.calls:
            operands = ", ".join(f"{k}={v}" for k, v in c.operands.items())
            lines.append(f"  {c.name} = {c.op}({operands}){attrs_text(c.attrs)}    # {c.source}")
        return "\n".join(lines)


def replace_calls(program: Program, calls: Iterable[OpCall], tensors: Mapping[str, Tensor]) -> Program:
    """A copy of a program with other calls and tensors (what a pass over programs returns)."""
    new = Program(program.name)
    new.symbols, new.events, new.requires = dict(program.symbols), dict(program.events), list(program.requires)
    new.calls, new.tensors = list(calls), dict(tensors)
    return new


def _rename(call: OpCall, old: str, new: str) -> OpCall:
    operands = {k: new if v == old else v for k, v in call.operands.items()}
    return OpCall(call.name, call.op, operands, call.attrs, call.waits, call.notifies, call.source)


def _caller() -> str:
    frame = sys._getframe(2)
    path = frame.f_code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-2:])}:{frame.f_lineno}"


