"""Sample steps of a plan: symbols at the low ends of their ranges and across a few tiles, with random tables that keep
their invariants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..ir.expr import Expr, FloorDiv, Var, as_int, evaluate, linear, tables, variables, walk
from ..ir.instance import StepView
from ..ir.nodes import Plan, Tensor, tables_of
from ..ir.tables import draw_all


def map_tables(plan: Plan) -> set[str]:
    """The run-time tables that extents, regions, edges or counts look up."""
    names: set[str] = set()
    for g in plan.grids:
        for _, extent in g.axes:
            names |= tables(extent)
        for region in (*(e.cells for e in (*g.waits, *g.notifies, *g.enter)), *(a.region for a in g.accesses)):
            names |= tables_of(region)
    for e in plan.events.values():
        for expr in (*e.shape, *((e.needed,) if e.needed is not None else ())):
            names |= tables(expr)
    return names


def tile_sizes(plan: Plan) -> dict[str, set[int]]:
    """For each symbol the tile sizes that extents cut it into."""
    sizes: dict[str, set[int]] = {name: set() for name in plan.symbols}
    for g in plan.grids:
        for _, extent in g.axes:
            for e in walk(extent):
                if isinstance(e, FloorDiv) and (d := as_int(e.b)) is not None:
                    for name in variables(e.a) & set(sizes):
                        sizes[name].add(d)
    return sizes


def sample_symbols(plan: Plan) -> Iterator[dict[str, int]]:
    """A few telling steps: every symbol at its low end; every symbol a little over two of its tiles; the same
    with each symbol alone at its low end."""
    lo = mend(plan, {k: r[0] for k, r in plan.symbols.items()})
    tiles = tile_sizes(plan)
    # a tile that holds the whole range makes no second one
    cut = {k: max((t for t in tiles[k] if t < b), default=1) for k, (_, b) in plan.symbols.items()}
    some = {k: min(b, max(a, 2 * cut[k] + 1)) for k, (a, b) in plan.symbols.items()}
    seen: list[dict[str, int]] = []
    for point in (lo, *(mend(plan, p) for p in (some, *({**some, k: lo[k]} for k in plan.symbols)))):
        if point not in seen:
            seen.append(point)
            yield point


def mend(plan: Plan, point: dict[str, int], ranges: Mapping[str, tuple[int, int]] | None = None) -> dict[str, int]:
    """The point, inside `ranges` (the plan's, unless given), with symbols lowered (or raised, where that cannot help) until
    it keeps what the plan requires."""
    point = dict(point)
    for e in (*plan.requires, *plan.requires):
        short = -int(evaluate(e, point))
        for coef, atom in _terms(e):
            if short <= 0:
                break
            lo, hi = (ranges or plan.symbols)[atom]
            move = -(-short // abs(coef))
            new = max(lo, point[atom] - move) if coef < 0 else min(hi, point[atom] + move)
            point[atom] = new
            short = -int(evaluate(e, point))
    return point


def _terms(e: Expr) -> list[tuple[int, str]]:
    """(coefficient, symbol) of the plain symbols of a sum, negative coefficients first."""
    found = [(c, a.name) for a, c in linear(e)[1].items() if isinstance(a, Var)]
    return sorted(found)


def view(
    plan: Plan, symbols: dict[str, int], seed: int = 0, spread: float = 1.0, names: set[str] | None = None
) -> StepView:
    """One step with drawn tables: those named, or all that maps look up."""
    rng = np.random.default_rng(seed)
    return StepView(plan, symbols, draw_all(with_sources(plan, map_tables(plan) if names is None else names), symbols, rng, spread))


def with_sources(plan: Plan, names: set[str]) -> list[Tensor]:
    """The named tables and those that they are derived from."""
    of = {name for n in names for i in plan.tensors[n].invariants for name in (i.of, i.at) if name}
    return [plan.tensors[n] for n in sorted(names | of) if n in plan.tensors]


def sample_views(plan: Plan) -> list[StepView]:
    names = map_tables(plan)
    return [view(plan, s, i, names=names) for i, s in enumerate(sample_symbols(plan))]
