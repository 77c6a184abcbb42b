"""The steps at which a part of a plan is looked at, and why they speak for all others.

A *scope* is a set of expressions: those of one event, one grid, or the grids of one window. For each symbol of a scope:

*all*       its range is short: every value is looked at.
*periodic*  moving the symbol by a period L (a multiple of every tile size that cuts it) moves each tiled axis by whole
            tiles and each index by a constant, or leaves it. Then a fault at a large value also shows at a smaller one:
            a fault involves two tasks, which touch at most two blocks of L elements; cut any other whole block out, and
            the tasks left are exactly those of the plan at the value smaller by L, with every event edge between them
            kept or gained. So the values below PERIODS · L suffice; and of these the ones beside a tile boundary, since by
            the same argument an element of a cut tile that is not the fault's own can go. Counts are quasi-polynomials
            in the symbol, equal everywhere once they are equal on these values.
*boundaries* no period was found: every value beside a tile boundary of the whole range.
*sampled*   that would be too many: some of them, drawn. The report says so, and the argument is then only a test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...ir.expr import (
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
    evaluate,
    linear,
    maximum,
    minimum,
    tables,
    variables,
    walk,
    wrap,
)  # fmt: skip
from ...ir.nodes import Plan, Region, Span, TaskGrid, cell_var
from ..sampling import mend

PERIODS = 3
BESIDE = (0, 1, 2)  # elements of a cut tile: two may be the fault's own, a third could go
EVERY = 8  # a range this short is looked at whole
MANY = 4000  # more steps than this are drawn from, not walked through
DRAWN = 400


@dataclass
class Scope:
    """Expressions by what they do: `axes` extents of task grids, `shapes` of tensors and events, `bounds` of regions
    and cells, each with the axes of its grid, `counts` needed counts."""

    plan: Plan
    axes: list[tuple[TaskGrid, str, Expr]] = field(default_factory=list)
    shapes: list[Expr] = field(default_factory=list)
    ends: list[tuple[TaskGrid, Expr, Expr, Expr]] = field(default_factory=list)  # lo, hi, extent of the dimension
    counts: list[Expr] = field(default_factory=list)
    cells: tuple[Expr, ...] = ()  # the shape of the event whose cells the counts are of

    def add_grid(self, grid: TaskGrid) -> Scope:
        self.axes += [(grid, a, e) for a, e in grid.axes]
        return self

    def add_region(self, grid: TaskGrid, region: Region, shape: Iterable[Expr]) -> Scope:
        shape = list(shape)
        self.shapes += shape
        for s, extent in zip(region, shape):
            if isinstance(s, Span):
                self.ends.append((grid, s.lo, s.hi, extent))
            elif s.table in self.plan.tensors:
                own = self.plan.tensors[s.table].shape
                self.ends += [(grid, p, p + 1, n) for p, n in zip(s.prefix, own)]
                self.ends.append((grid, s.lo, s.hi, own[-1] * s.block))
                self._table(s.table)
            for e in (s.lo, s.hi):
                for x in walk(e):
                    if isinstance(x, Load):
                        self._table(x.table)
        return self

    def _table(self, name: str) -> None:
        t = self.plan.tensors.get(name)
        if t is not None:
            self.shapes += [*t.shape, *(e for i in t.invariants for e in (i.lo, i.hi))]

    @property
    def symbols(self) -> list[str]:
        used: set[str] = set()
        for e in self._all():
            used |= variables(e)
        return [s for s in self.plan.symbols if s in used]

    def simplified(self) -> Scope:
        """Quotients that are the same for every task and symbol become numbers."""
        plan, memo = self.plan, dict[tuple[str, str], Expr]()

        def plain(grid: TaskGrid, e: Expr) -> Expr:
            if not any(isinstance(x, FloorDiv) for x in walk(e)):
                return e
            if (grid.name, e.text) not in memo:
                memo[grid.name, e.text] = _fold(e, _ranges(plan, grid))
            return memo[grid.name, e.text]

        ends = {(g.name, lo.text, hi.text, n.text): (g, plain(g, lo), plain(g, hi), n) for g, lo, hi, n in self.ends}
        shapes = {e.text: e for e in self.shapes}
        return Scope(plan, self.axes, list(shapes.values()), list(ends.values()), self.counts, self.cells)

    def _all(self) -> Iterator[Expr]:
        yield from (e for _, _, e in self.axes)
        yield from self.shapes
        yield from self.counts
        for _, lo, hi, _ in self.ends:
            yield lo
            yield hi


@dataclass(frozen=True)
class Values:
    """The values of one symbol that a scope looks at."""

    values: tuple[int, ...]
    method: str  # "all", "periodic", "boundaries"
    period: int = 0


def symbol_values(scope: Scope, symbol: str, exhaustive: bool = False) -> Values:
    lo, hi = scope.plan.symbols[symbol]
    if hi - lo < EVERY:
        return Values(tuple(range(lo, hi + 1)), "all")
    tiles = _tiles(scope, symbol)
    larger = _linked(scope, symbol)
    smaller = {s for s in scope.symbols if symbol in _linked(scope, s)}
    for other in larger | smaller:
        tiles |= _tiles(scope, other)
    free = not exhaustive and _plain_requirements(scope.plan, symbol)
    period = None if not free else _period(scope, {symbol} | larger | smaller, tiles)
    # where one symbol ends inside the other's range, a third block cannot go
    blocks = PERIODS + bool(larger | smaller)
    beside = range(5) if smaller else BESIDE
    top = hi if period is None else min(hi, max(blocks * period - 1, lo + period + 1))
    if _offset(scope, symbol):
        values = set(range(lo, top + 1))
    else:
        values = {lo, lo + 1, lo + 2, top}
        for t in tiles - {1} or {hi + 1}:
            values |= {k + d for k in range(0, top + 1, t) for d in beside}
        if tiles == {1} and period is None:
            values = set(range(lo, top + 1))
    kept = tuple(sorted(v for v in values if lo <= v <= top))
    return Values(kept, "boundaries" if period is None else "periodic", period or 0)


def steps(scope: Scope, exhaustive: bool = False) -> tuple[list[dict[str, int]], dict[str, Values], bool]:
    """(the steps to look at, each a value for every symbol of the plan; how each symbol was treated; whether the steps
    were drawn from too many). Symbols outside the scope stay as low as the plan's requirements allow."""
    plan = scope.plan
    names = scope.symbols
    how = {s: symbol_values(scope, s, exhaustive) for s in names}
    total = math.prod(len(v.values) for v in how.values())
    lists = [how[s].values for s in names]
    drawn = total > MANY and not exhaustive
    combos: Iterable[tuple[int, ...]]
    if drawn:
        rng = np.random.default_rng(total)
        combos = [tuple(int(rng.choice(v)) for v in lists) for _ in range(DRAWN)]
    else:
        combos = itertools.product(*lists)
    points, seen = [], set()
    fixed = set(names)
    for combo in combos:
        point = complete(plan, dict(zip(names, combo)), fixed)
        key = tuple(point[s] for s in names) if point else None
        if point is not None and key not in seen:
            seen.add(key)
            points.append(point)
    return points, how, drawn


def complete(plan: Plan, given: dict[str, int], fixed: set[str]) -> dict[str, int] | None:
    """Values for the other symbols that keep what the plan requires; None if the given ones cannot."""
    point = {k: given.get(k, lo) for k, (lo, _) in plan.symbols.items()}
    if all(evaluate(e, point) >= 0 for e in plan.requires):
        return point
    free = {k: ((point[k], point[k]) if k in fixed else r) for k, r in plan.symbols.items()}
    point = mend(plan, point, free)
    return point if all(evaluate(e, point) >= 0 for e in plan.requires) else None


# ------------------------------------------------------------------------------------------------- tiles and periods


def _tiles(scope: Scope, symbol: str) -> set[int]:
    """How many elements of the symbol make a tile, for every tiling of it that the scope knows."""
    sizes: set[int] = set()
    per_axis: dict[tuple[str, str], int] = {}
    for grid, axis, e in scope.axes:
        for x in walk(e):
            if symbol in variables(x):
                size = 1
                if isinstance(x, FloorDiv) and (d := as_int(x.b)) is not None:
                    size = d // math.gcd(abs(linear(x.a)[1].get(Var(symbol), 1)), d)
                per_axis[grid.name, axis] = max(size, per_axis.get((grid.name, axis), 1))
    sizes |= set(per_axis.values())
    cells = [(g.name, e) for g, lo, hi, _ in scope.ends for e in (lo, hi)]
    for name, e in [*cells, *(("", e) for e in (*scope.shapes, *scope.counts))]:
        for x in walk(e):
            if not isinstance(x, (FloorDiv, Mod)) or (d := as_int(x.b)) is None:
                continue
            for atom, c in linear(x.a)[1].items():
                if isinstance(atom, Var) and (atom.name == symbol or (name, atom.name) in per_axis):
                    sizes.add(per_axis.get((name, atom.name), 1) * (d // math.gcd(abs(c), d)))
    return sizes or {1}


def _linked(scope: Scope, symbol: str) -> set[str]:
    """Other symbols whose dimensions the symbol's axes index: `logits[r]` of num_rows rows, r < num_samples. An element
    below both is taken out of both, so the tiles of either matter to each."""
    found: set[str] = set()
    for g, lo, _, extent in scope.ends:
        own = {a for h, a, e in scope.axes if h.name == g.name and symbol in variables(e)}
        if variables(lo) & own and not tables(lo):
            found |= variables(extent) & set(scope.plan.symbols)
    return found - {symbol}


def _plain_requirements(plan: Plan, symbol: str) -> bool:
    """Whether what the plan requires of the symbol is that it be no larger, or no smaller, than another: then taking the
    same from both, or less from the larger, keeps it."""
    for e in plan.requires:
        const, terms = linear(e)
        plain = not const and len(terms) == 2 and sorted(terms.values()) == [-1, 1] and all(isinstance(a, Var) for a in terms)
        if symbol in variables(e) and not plain:
            return False
    return True


def _offset(scope: Scope, symbol: str) -> bool:
    """Whether a region or a cell that moves with the symbol starts elsewhere than at a tile."""
    own = {(g.name, a) for g, a, e in scope.axes if symbol in variables(e)}
    for grid, lo, _, _ in scope.ends:
        mine = {symbol} | {a for g, a in own if g == grid.name}
        if not any(isinstance(x, Load) for x in walk(lo)) and variables(lo) & mine and linear(lo)[0] != 0:
            return True
    return any(linear(e)[0] and not isinstance(e, FloorDiv) for _, _, e in scope.axes if symbol in variables(e))


class _Irregular(Exception):
    pass


def _period(scope: Scope, symbols: set[str], tiles: set[int]) -> int | None:
    """The smallest found L under which the scope moves by whole tiles when the symbols move together; None if it does
    not."""
    divisors = {d for e in scope._all() for x in walk(e) if isinstance(x, (FloorDiv, Mod)) and (d := as_int(x.b))}
    period = math.lcm(*tiles)
    for _ in range(3):
        if _moves(scope, dict.fromkeys(symbols, period)):
            return period
        period *= math.lcm(*divisors) if divisors else 1
        if period > max(scope.plan.symbols[s][1] for s in symbols):
            return None
    return None


def _moves(scope: Scope, still: dict[str, int]) -> bool:
    shift: dict[str, dict[str, int]] = {}
    try:
        for grid, axis, extent in scope.axes:
            if variables(extent) & set(grid.axis_names):
                if still.keys() & {v for _, e in grid.axes for v in variables(e)}:
                    return False
                continue
            shift.setdefault(grid.name, {})[axis] = _delta(extent, still)
        for e in scope.shapes:
            _delta(e, still)
        for grid, lo, hi, extent in scope.ends:
            moved = {**still, **shift.get(grid.name, {})}
            a, b, size = _delta(lo, moved), _delta(hi, moved), _delta(extent, still)
            if tables(lo) or tables(hi):
                continue  # compared by place, whose movement the tables' own dimensions check, or as all it may hold
            if a == b == 0:
                # the same place for every task: in a dimension that does not grow, or in its first block
                if size and _highest(scope, grid, hi) > max(still.values()):
                    return False
            elif not (b == size and (a == size or as_int(lo) == 0)):
                return False
            if _delta(lo, still) != 0:
                return False
            _reaches(hi, still, {size})
        for e in scope.counts:
            places = {cell_var(d).name: _delta(n, still) for d, n in enumerate(scope.cells)}
            _polynomial(e, {**still, **places})
    except _Irregular:
        return False
    return True


def _ranges(plan: Plan, grid: TaskGrid) -> dict[str, tuple[int, int]]:
    """The values of symbols and coordinates; coordinates whose extents come from tables are left out."""
    ranges = dict(plan.symbols)
    for a, extent in grid.axes:
        if variables(extent) <= set(ranges) and not tables(extent):
            ranges[a] = (0, max(0, bounds(extent, ranges)[1] - 1))
    return ranges


def _fold(e: Expr, ranges: dict[str, tuple[int, int]]) -> Expr:
    if isinstance(e, FloorDiv) and variables(e) <= set(ranges) and not tables(e):
        lo, hi = bounds(e, ranges)
        if lo == hi:
            return wrap(lo)
    if isinstance(e, Sum):
        out: Expr = wrap(e.const)
        for c, a in e.terms:
            out = out + c * _fold(a, ranges)
        return out
    if isinstance(e, Min):
        return minimum(_fold(e.a, ranges), _fold(e.b, ranges))
    if isinstance(e, Max):
        return maximum(_fold(e.a, ranges), _fold(e.b, ranges))
    return e


def _highest(scope: Scope, grid: TaskGrid, e: Expr) -> int:
    ranges = _ranges(scope.plan, grid)
    return bounds(e, ranges)[1] if variables(e) <= set(ranges) else 2**62


def _delta(e: Expr, moved: dict[str, int]) -> int:
    """By how much an expression moves when variables move; _Irregular if that differs from place to place."""
    if isinstance(e, Var):
        return moved.get(e.name, 0)
    if isinstance(e, Sum):
        return sum(c * _delta(a, moved) for c, a in e.terms)
    if isinstance(e, Load):  # compared by where it is looked up, or as the whole range of its values
        for i in e.index:
            _delta(i, moved)
        return 0
    a, b = (_delta(c, moved) for c in e.children)
    if isinstance(e, (FloorDiv, Mod)):
        d = as_int(e.b)
        if d is None:
            if a or b:
                raise _Irregular
            return 0
        if a % d:
            raise _Irregular
        return a // d if isinstance(e, FloorDiv) else 0
    if isinstance(e, (Min, Max)):
        if a != b:
            raise _Irregular
        return a
    assert isinstance(e, Product)
    if a or b:
        raise _Irregular
    return 0


def _reaches(hi: Expr, still: dict[str, int], sizes: set[int]) -> None:
    """An end that stays with its task, is cut where its dimension ends, or is that end."""
    arms = [hi]
    while any(isinstance(x, Min) for x in arms):
        arms = [y for x in arms for y in ((x.a, x.b) if isinstance(x, Min) else (x,))]
    for x in arms:
        if _delta(x, still) not in sizes | {0}:
            raise _Irregular


def _polynomial(e: Expr, moved: dict[str, int]) -> None:
    """Counts may multiply what moves; a minimum must keep its side, and quotients move by whole numbers."""
    if isinstance(e, (FloorDiv, Mod, Min, Max)):
        _delta(e, moved)
        return
    for x in e.children:
        _polynomial(x, moved)


def inside(plan: Plan, grid: TaskGrid, region: Region, shape: Iterable[Expr]) -> bool:
    """Whether every task's region is plain to lie inside a shape: an end that is cut at the extent, is the last
    coordinate + 1 of an axis of that extent, or is bounded by a constant."""
    ranges = _ranges(plan, grid)

    def below(hi: Expr, extent: Expr) -> bool:
        if isinstance(hi, Min):
            return below(hi.a, extent) or below(hi.b, extent)
        if hi == extent or any(hi == Var(a) + 1 and (e == extent or extent - e in plan.requires) for a, e in grid.axes):
            return True
        gap = extent - hi
        return variables(gap) <= set(ranges) and not tables(gap) and bounds(gap, ranges)[0] >= 0

    return all(
        isinstance(s, Span) and variables(s.lo) <= set(ranges) and not tables(s.lo) and bounds(s.lo, ranges)[0] >= 0
        and below(s.hi, extent)
        for s, extent in zip(region, shape)
    )  # fmt: skip
