"""The nodes of a plan: tensors, index sets, event tensors, edges, task grids, the schedule, the plan itself.

All are frozen, validated when made, and plain data: they print (`printer`), survive a round trip to disk (`serial`),
and hold no code. Operators are named, not referenced; `eventide.ops` gives the names their meaning.

    Plan
     ├── symbols   {"num_tokens": (1, 64)}                       run-time integers with inclusive ranges
     ├── tensors   {"x": Tensor((num_tokens, 256), bfloat16)}
     ├── events    {"e.qkv": EventTensor((8,), needed=16)}       a cell triggers after `needed` notifications
     ├── grids     (TaskGrid("l0.qkv", "linear", axes m·n, accesses, waits, notifies), ...)
     └── schedule  Schedule("static", 132 workers, (Segment("l0.qkv", block), ...))

Worked example, the first two grids of a layer (tile of 32 rows, one event cell per KV head):

    l0.qkv[n < 128]    reads  x[0:num_tokens, 0:256]   writes qkv[0:num_tokens, 32*n : 32*n + 32]
                       notifies e.qkv[n // 4]
    l0.attn[h < 8]     waits  e.qkv[h]                  needed = 4
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union

from ..errors import ProgramError
from .expr import Expr, IntLike, Sum, Var, as_int, product, wrap

Role = Literal["input", "weight", "state", "scratch", "output"]
Mode = Literal["read", "write", "update"]
ROLES: tuple[str, ...] = ("input", "weight", "state", "scratch", "output")


@dataclass(frozen=True)
class Invariant:
    """A promise about a run-time table, checked when a step runs.

    ``within``: lo <= value < hi. ``nondecreasing``, ``increasing``: along the last axis. ``partition``: nondecreasing,
    first value lo, last value hi. ``distinct``: no value twice. Three tie a table to the table `of`, whose values are
    groups 0, 1, ...: ``histogram``, value g is how many entries of `of` are g; ``offsets``, the running sums of that
    histogram from 0; ``grouping``, the flat positions of the entries of `of`, stably sorted by group. ``ends``: value i is
    where a run ends that begins at value i of `of`, not beyond the next run's begin. ``single``, of a table of two
    dimensions: for every i, the entry in row of[i] and place at[i] // hi stands nowhere else in the table; the others may
    (the page that a sequence's token is written to is its own, those that are read may be shared).
    """

    kind: Literal[
        "within", "nondecreasing", "increasing", "partition", "distinct", "histogram", "offsets", "grouping",
        "ends", "single",
    ]
    lo: Expr = field(default_factory=lambda: Sum(0))
    hi: Expr = field(default_factory=lambda: Sum(0))
    of: str = ""
    at: str = ""


@dataclass(frozen=True)
class Tensor:
    """A named array of symbolic shape.

    Roles: *input*, given for every step; *weight*, constant, laid out as `layout` says; *state*, kept from step to step
    (KV caches, token histories); *scratch*, alive inside one step, in the shared arena; *output*, kept for the host.
    """

    name: str
    shape: tuple[Expr, ...]
    dtype: str
    role: Role = "scratch"
    layout: str = "plain"
    invariants: tuple[Invariant, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ProgramError(f"tensor '{self.name}': role must be one of {', '.join(ROLES)}, got '{self.role}'")

    @property
    def ndim(self) -> int:
        return len(self.shape)


# ------------------------------------------------------------------------------------------------------ index sets


@dataclass(frozen=True)
class Span:
    """The indices lo <= i < hi."""

    lo: Expr
    hi: Expr

    @staticmethod
    def at(index: IntLike) -> Span:
        i = wrap(index)
        return Span(i, i + 1)

    @staticmethod
    def of(lo: IntLike, hi: IntLike) -> Span:
        return Span(wrap(lo), wrap(hi))

    @property
    def single(self) -> Expr | None:
        """The one index, when the set has exactly one by construction."""
        return self.lo if as_int(self.hi - self.lo) == 1 else None


@dataclass(frozen=True)
class Via:
    """Indices looked up in a run-time table, for lo <= i < hi.

    ``table[*prefix, i]``, or with ``block`` > 1 the paged address ``table[*prefix, i // block] * block + i % block``.
    """

    table: str
    prefix: tuple[Expr, ...]
    lo: Expr
    hi: Expr
    block: int = 1


IndexSet = Union[Span, Via]  # noqa: UP007
Region = tuple[IndexSet, ...]


def exprs_of(region: Region) -> list[Expr]:
    out: list[Expr] = []
    for s in region:
        out += [s.lo, s.hi] if isinstance(s, Span) else [*s.prefix, s.lo, s.hi]
    return out


def tables_of(region: Region) -> set[str]:
    names = {s.table for s in region if isinstance(s, Via)}
    return names.union(*(e.table_names for e in exprs_of(region)))


# ---------------------------------------------------------------------------------------------------- events, edges


def cell_var(dim: int) -> Var:
    """The variable that stands for a cell's coordinate in an event tensor's `needed`."""
    return Var(f"c{dim}")


@dataclass(frozen=True)
class EventTensor:
    """A tensor of events. `needed` is an expression over symbols, the cell's coordinates c0, c1, ... and run-time
    tables; None asks the events pass to count the notifications."""

    name: str
    shape: tuple[Expr, ...]
    needed: Expr | None = None

    @property
    def size(self) -> Expr:
        return product(self.shape)


@dataclass(frozen=True)
class Edge:
    """Cells of one event tensor: all of them are waited for, or each of them is notified once."""

    event: str
    cells: Region


@dataclass(frozen=True)
class Access:
    """What one task of a grid does to one operand. ``update`` reads and writes the region."""

    operand: str
    tensor: str
    region: Region
    mode: Mode = "read"

    @property
    def writes(self) -> bool:
        return self.mode != "read"

    @property
    def reads(self) -> bool:
        return self.mode != "write"


@dataclass(frozen=True)
class TaskGrid:
    """All tasks of one operator call. Axes are (name, extent), the last one fastest; an extent may use earlier axes'
    coordinates (ragged) and run-time tables. `enter` lists the edges that must be triggered before the grid's
    extents, maps and needed counts may be evaluated at all (tables that the same step computes)."""

    name: str
    op: str
    axes: tuple[tuple[str, Expr], ...]
    accesses: tuple[Access, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    waits: tuple[Edge, ...] = ()
    notifies: tuple[Edge, ...] = ()
    enter: tuple[Edge, ...] = ()
    manual: bool = False  # waits written by hand: the events pass adds none
    source: str = ""

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def axis_names(self) -> tuple[str, ...]:
        return tuple(a for a, _ in self.axes)

    @property
    def num_tasks(self) -> Expr:
        return product(e for _, e in self.axes)

    def access(self, operand: str) -> Access | None:
        return next((a for a in self.accesses if a.operand == operand), None)


# ------------------------------------------------------------------------------------------------- schedule and plan


@dataclass(frozen=True)
class Segment:
    """The tasks of one grid, spread over the workers when the step runs.

    ``block``: worker w takes a contiguous share of the tasks, shares differing by at most one task; ``rotate``
    shifts which workers get the larger shares, so that remainders even out from grid to grid. ``even``: the same with the
    larger shares spread out, so that shares end where a whole part of the workers' number does. ``cyclic``: worker w
    takes tasks w, w + W, ... With ``barrier`` every task of earlier segments ends before one of this begins.
    """

    grid: str
    distribution: Literal["block", "even", "cyclic"] = "block"
    rotate: Expr = field(default_factory=lambda: Sum(0))
    barrier: bool = False

    def tasks(self, worker: int, num_workers: int, num_tasks: int, rotate: int) -> range:
        """The linear task indices of one worker, ascending."""
        w = (worker - rotate) % num_workers
        if self.distribution == "cyclic":
            return range(w, num_tasks, num_workers)
        if self.distribution == "even":
            return range(w * num_tasks // num_workers, (w + 1) * num_tasks // num_workers)
        base, extra = divmod(num_tasks, num_workers)
        start = w * base + min(w, extra)
        return range(start, start + base + (w < extra))


@dataclass(frozen=True)
class Schedule:
    kind: Literal["static", "per_op"]
    num_workers: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Plan:
    name: str
    target: str
    symbols: Mapping[str, tuple[int, int]]
    tensors: Mapping[str, Tensor]
    events: Mapping[str, EventTensor]
    grids: tuple[TaskGrid, ...]
    schedule: Schedule | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)  # scratch tensor -> byte offset in the arena
    arena_bytes: int = 0
    requires: tuple[Expr, ...] = ()  # each is >= 0 in every step; checked before a step runs

    def grid(self, name: str) -> TaskGrid:
        for g in self.grids:
            if g.name == name:
                return g
        raise ProgramError(f"the plan '{self.name}' has no task grid '{name}'")

    def __str__(self) -> str:
        from .printer import print_plan

        return print_plan(self)
