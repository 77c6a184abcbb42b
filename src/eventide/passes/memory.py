"""memory: places scratch tensors in one arena; tensors whose lives do not overlap share bytes.

Two tensors may share when, on every sample step, the events already order each task that touches the one before each
task that touches the other; so no edge has to be added, and sharing never slows a step down. The verifier treats
tensors that share bytes as one. Tables that maps look up share with nobody: a worker reads them whenever it comes to enter
a grid, be it only to learn that none of the grid's tasks are its own.
"""

from __future__ import annotations

from dataclasses import replace

from ..dtypes import itemsize
from ..ir.expr import bounds, product
from ..ir.nodes import Plan
from ..ir.ordering import Ordering
from .sampling import map_tables, sample_views

ALIGN = 256


def place(plan: Plan) -> Plan:
    orderings = [Ordering(v) for v in sample_views(plan)]
    users: dict[str, list[str]] = {}
    for g in plan.grids:
        for a in g.accesses:
            if plan.tensors[a.tensor].role == "scratch":
                names = users.setdefault(a.tensor, [])
                if g.name not in names:
                    names.append(g.name)
    tables = map_tables(plan)
    sizes = {}
    for name in users:
        t = plan.tensors[name]
        nbytes = bounds(product(t.shape), plan.symbols)[1] * itemsize(t.dtype)
        sizes[name] = -(-nbytes // ALIGN) * ALIGN
    blocks: list[tuple[int, int, str]] = []  # (offset, bytes, the tensor that holds it last)
    offsets: dict[str, int] = {}
    top = 0
    for name in users:  # in order of first use
        fits = [
            (size, i)
            for i, (_, size, holder) in enumerate(blocks)
            if size >= sizes[name] and not tables & {name, holder} and _dead(orderings, users[holder], users[name])
        ]
        if fits:
            size, i = min(fits)
            offsets[name] = blocks[i][0]
            blocks[i] = (blocks[i][0], size, name)
        else:
            offsets[name] = top
            blocks.append((top, sizes[name], name))
            top += sizes[name]
    return replace(plan, offsets=offsets, arena_bytes=top)


def _dead(orderings: list[Ordering], earlier: list[str], later: list[str]) -> bool:
    return all(o.all_before(a, b) for o in orderings for a in earlier for b in later)
