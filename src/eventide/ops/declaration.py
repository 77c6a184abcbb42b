"""The declaration of an operator: everything the compiler knows about it, written once.

A folder `ops/<op>/` holds

    __init__.py    OP = Op(...): operands, attributes, output shapes, and how one call is cut into tasks
    reference.py   def tile(t): what one task computes, in NumPy, on views of exactly its regions
    cpu.h          template of the same task for CPU workers         cuda.cuh   and for GPU workers
    cases.py       CASES: shapes and tolerances to test it with

Worked example, an element-wise sum cut into tiles of `target.tile_tokens` rows:

    def tile(call, target):
        rows, cols = call["y"].shape
        m = tiled("m", target.tile_tokens, rows)
        return Tiling(axes=[m.axis], regions={k: (m.span, full(cols)) for k in ("a", "b", "y")})

    OP = Op("add", operands=[Operand("a"), Operand("b"), Operand("y", "write")],
            axes=["m"], outputs_of=lambda call: [(call["a"].shape, call["a"].dtype)], tile=tile)

The device code of a task sees its operands (base pointer and extents of the whole tensor), its coordinates, its
attributes and its scratch memory; never a worker, an event or a layer.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ProgramError
from ..ir.expr import Expr, IntLike, Var, as_int, ceildiv, minimum, wrap
from ..ir.nodes import Mode, Region, Span, Tensor
from ..target import Target

REQUIRED = object()


@dataclass(frozen=True)
class Operand:
    """One tensor argument. `streamed`: known ahead and read once (weights), so a backend may fetch it before the
    task's dependencies are there. `tiles`: device code for GPUs takes it in the layout `target.TILES` too. `gpu`: only GPUs' code
    takes it at all."""

    name: str
    mode: Mode = "read"
    optional: bool = False
    streamed: bool = False
    tiles: bool = False
    gpu: bool = False
    doc: str = ""


@dataclass(frozen=True)
class Attr:
    """A compile-time constant of a call."""

    name: str
    type: type
    default: Any = REQUIRED
    choices: tuple[Any, ...] = ()
    doc: str = ""


@dataclass(frozen=True)
class Call:
    """A call being tiled: its name, the tensors bound to operands, its attributes."""

    name: str
    tensors: Mapping[str, Tensor]
    attrs: Mapping[str, Any]

    def __getitem__(self, operand: str) -> Tensor:
        return self.tensors[operand]

    def __contains__(self, operand: str) -> bool:
        return operand in self.tensors


@dataclass(frozen=True)
class Tiling:
    """How a call becomes tasks. `attrs` adds tile sizes to the call's attributes; `layouts` asks for layouts of weights and of
    activations."""

    axes: Sequence[tuple[str, Expr]]
    regions: Mapping[str, Region]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)


OutputFn = Callable[[Call], Sequence[tuple[tuple[Expr, ...], str]]]


@dataclass(frozen=True, eq=False)
class Op:
    """An operator's declaration. `axes` names the task coordinates and `tile_attrs` the integers that `tile` adds to the
    attributes, both in the order in which device code gets them. `outputs_of` gives shape and dtype of each "write"
    operand, in order; `check` raises ProgramError on operands or attributes that do not fit. `uneven` says of a grid's
    attributes whether its tasks differ much in length, neighbours less: workers then take them in turn (on a CPU always)."""

    name: str
    operands: Sequence[Operand]
    outputs_of: OutputFn
    tile: Callable[[Call, Target], Tiling]
    axes: Sequence[str]
    attrs: Sequence[Attr] = ()
    tile_attrs: Sequence[str] = ()
    check: Callable[[Call], None] | None = None
    uneven: Callable[[Mapping[str, Any]], bool] | None = None
    folder: Path | None = None
    doc: str = ""
    reference_tile: Callable[..., None] | None = None

    @cached_property
    def operand_names(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.operands)

    @property
    def num_outputs(self) -> int:
        return sum(o.mode == "write" for o in self.operands)

    def operand(self, name: str) -> Operand:
        return next(o for o in self.operands if o.name == name)

    def bind(self, call: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sorts keyword arguments into operands and attributes, with defaults; missing and unknown ones are errors."""
        operands = {k: v for k, v in arguments.items() if k in self.operand_names and v is not None}
        known = {a.name: a for a in self.attrs}
        if unknown := [k for k in arguments if k not in known and k not in self.operand_names]:
            have = ", ".join([*self.operand_names, *known])
            raise ProgramError(f"call '{call}': operator '{self.name}' has no argument '{unknown[0]}'; it has: {have}")
        for o in self.operands:
            if o.name not in operands and not o.optional and o.mode != "write":
                raise ProgramError(f"call '{call}': operator '{self.name}' needs the operand '{o.name}'")
        attrs = {}
        for a in self.attrs:
            value = arguments.get(a.name, a.default)
            if value is REQUIRED:
                raise ProgramError(f"call '{call}': operator '{self.name}' needs the attribute '{a.name}'")
            value = a.type(value)
            if a.choices and value not in a.choices:
                raise ProgramError(
                    f"call '{call}': attribute '{a.name}' must be one of {', '.join(map(str, a.choices))}, got {value!r}"
                )
            attrs[a.name] = value
        return operands, attrs

    def outputs(
        self, name: str, tensors: Mapping[str, Tensor], attrs: Mapping[str, Any]
    ) -> Iterator[tuple[Operand, tuple[Expr, ...], str]]:
        call = Call(name, tensors, attrs)
        if self.check:
            self.check(call)
        written = [o for o in self.operands if o.mode == "write"]
        for o, (shape, dtype) in zip(written, self.outputs_of(call), strict=True):
            yield o, tuple(wrap(s) for s in shape), dtype

    @cached_property
    def reference(self) -> Callable[..., None]:
        """The NumPy tile function: ``tile(t)`` with ``t.<operand>`` views, ``t.attrs``, ``t.coord``."""
        if self.reference_tile is not None:
            return self.reference_tile
        fn = self._module("reference").tile
        assert callable(fn)
        return fn  # type: ignore[no-any-return]

    @property
    def cases(self) -> Any:
        return self._module("cases").CASES

    def _module(self, stem: str) -> ModuleType:
        if self.folder is None or not (self.folder / f"{stem}.py").exists():
            raise ProgramError(f"operator '{self.name}' has no {stem}.py beside its declaration")
        name = f"eventide.ops.{self.name}.{stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, self.folder / f"{stem}.py")
            assert spec and spec.loader
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[name]


# ----------------------------------------------------------------------------------------- helpers for tile functions


@dataclass(frozen=True)
class Tiled:
    """An axis that cuts `extent` elements into tiles: its (name, count) and the span of one tile."""

    name: str
    tile: int
    extent: Expr

    @property
    def var(self) -> Var:
        return Var(self.name)

    @property
    def axis(self) -> tuple[str, Expr]:
        return self.name, ceildiv(self.extent, self.tile)

    @property
    def span(self) -> Span:
        return self.scaled(1)

    def scaled(self, factor: int) -> Span:
        """The same tile in a dimension whose extent is `factor` times larger."""
        lo = self.var * (self.tile * factor)
        n = as_int(self.extent)
        even = self.tile == 1 or (n is not None and n % self.tile == 0)
        return Span(lo, lo + self.tile * factor if even else minimum(lo + self.tile * factor, self.extent * factor))


def tiled(name: str, tile: int, extent: IntLike) -> Tiled:
    return Tiled(name, tile, wrap(extent))


def full(extent: IntLike) -> Span:
    return Span.of(0, extent)
