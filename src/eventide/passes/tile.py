"""tile: operator calls become task grids, cut as the operator's declaration says for this target.

    up = linear(x, w1)   →   up[m < ceildiv(num_tokens, 128), n < 16]
                               reads  x[128*m : min(128*m + 128, num_tokens), 0 : 256], w1[32*n : 32*n + 32, 0 : 256]
                               writes h[128*m : min(128*m + 128, num_tokens), 32*n : 32*n + 32]

Waits and notifies written by hand are evaluated here, on the task coordinates that the tiling has defined.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

from ..dtypes import itemsize
from ..errors import ProgramError
from ..ir.expr import Var, bounds, product
from ..ir.nodes import Access, Edge, Plan, TaskGrid, Tensor
from ..ops.declaration import Call
from ..ops.program import OpCall, Program
from ..ops.registry import get_op
from ..target import TILES, Target


def tile(program: Program, target: Target) -> Plan:
    tensors = dict(program.tensors)
    grids = [_grid(call, program, tensors, target) for call in program.calls]
    _loosen(tensors, target)
    _keep_plain(tensors, grids)
    used = {a.tensor for g in grids for a in g.accesses}
    return Plan(
        name=program.name,
        target=target.name,
        symbols=dict(program.symbols),
        tensors={k: t for k, t in tensors.items() if k in used or t.role != "scratch"},
        events=dict(program.events),
        grids=tuple(grids),
        requires=tuple(program.requires),
    )


def _loosen(tensors: dict[str, Tensor], target: Target) -> None:
    """Where most weights are small, the small ones stand as they are: tasks so short wait for each other and not for the memory,
    and 12 bits take longer to read."""
    tight = {n: t for n, t in tensors.items() if t.layout.startswith("tight")}
    sizes = {n: bounds(product(t.shape), {})[1] * itemsize(t.dtype) for n, t in tight.items()}
    if sizes and median(sizes.values()) < target.tight_bytes:
        for name, size in sizes.items():
            if size < target.tight_bytes:
                tensors[name] = replace(tight[name], layout=tight[name].layout.replace("tight", "panel"))


def _keep_plain(tensors: dict[str, Tensor], grids: list[TaskGrid]) -> None:
    """Activations that some operator can't take in tiles stand as they are."""
    for g in grids:
        for a in g.accesses:
            t = tensors[a.tensor]
            if t.layout == TILES and not get_op(g.op).operand(a.operand).tiles:
                tensors[a.tensor] = replace(t, layout="plain")


def _grid(call: OpCall, program: Program, tensors: dict[str, Tensor], target: Target) -> TaskGrid:
    op = get_op(call.op)
    bound = Call(call.name, {k: program.tensors[v] for k, v in call.operands.items()}, call.attrs)
    tiling = op.tile(bound, target)
    accesses = []
    for operand in op.operands:
        if operand.name not in call.operands:
            continue
        tensor = bound[operand.name]
        region = tiling.regions.get(operand.name)
        if region is None or len(region) != tensor.ndim:
            raise ProgramError(
                f"operator '{op.name}' declares {'no region' if region is None else f'{len(region)} dimensions'} for "
                f"operand '{operand.name}', whose tensor '{tensor.name}' has {tensor.ndim}"
            )
        accesses.append(Access(operand.name, tensor.name, tuple(region), operand.mode))
    for operand_name, layout in tiling.layouts.items():
        t = bound[operand_name]
        if t.role in ("weight", "scratch"):
            if t.layout not in ("plain", layout):
                raise ProgramError(f"{t.role} '{t.name}' is asked for in two layouts, {t.layout} and {layout}")
            tensors[t.name] = replace(t, layout=layout)
    for what, want, have in (("axes", op.axes, [a for a, _ in tiling.axes]), ("tile_attrs", op.tile_attrs, list(tiling.attrs))):
        if list(want) != have:
            raise ProgramError(f"operator '{op.name}' declares the {what} {list(want)}, but its tile function gave {have}")
    axes = tuple((name, extent) for name, extent in tiling.axes)
    if clash := {a for a, _ in axes} & set(program.symbols):
        raise ProgramError(f"axis '{min(clash)}' of operator '{op.name}' has the name of a symbol of '{program.name}'")
    coords = {a: Var(a) for a, _ in axes}
    return TaskGrid(
        name=call.name,
        op=call.op,
        axes=axes,
        accesses=tuple(accesses),
        attrs={**call.attrs, **tiling.attrs},
        waits=_edges(call, call.waits, coords),
        notifies=_edges(call, call.notifies, coords),
        manual=call.waits is not None,
        source=call.source,
    )


def _edges(call: OpCall, fn: Callable[..., Any] | None, coords: dict[str, Var]) -> tuple[Edge, ...]:
    if fn is None:
        return ()
    names = list(inspect.signature(fn).parameters)
    if unknown := [n for n in names if n not in coords]:
        raise ProgramError(
            f"call '{call.name}': its edges ask for the coordinate '{unknown[0]}'; its tasks have: {', '.join(coords)}"
        )
    edges = tuple(fn(**{n: coords[n] for n in names}))
    for e in edges:
        if not isinstance(e, Edge):
            raise ProgramError(f"call '{call.name}': an edge is written event[cells], got {e!r}")
    return edges
