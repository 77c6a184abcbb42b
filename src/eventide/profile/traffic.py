"""How many bytes the tasks of each grid read and write in one step, from their regions alone.

    traffic(plan, step.symbols, step.inputs)     {"layers.0.qkv": Traffic("linear", 128, 8_392_704, 8_192), ...}

A region that several tasks of a grid read (a row of activations, a panel of weights for two tiles of tokens) counts
once: it comes from memory once and from a cache then. Regions are declared no smaller than what a task touches; where
a whole table is declared because the task looks rows up in it (embeddings, RoPE, token histories), at most as many
bytes as the task writes are counted. Weights count as the plan's layout says: a CPU's plan says two bytes for a bfloat16 one,
also where the workers hold it in 12 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.cuda.layout import SLAB, TIGHT, slab_bytes
from ..dtypes import itemsize
from ..ir.expr import evaluate
from ..ir.instance import StepView
from ..ir.nodes import Access, Plan, Span, TaskGrid
from ..ops.registry import get_op

__all__ = ["Traffic", "traffic"]


@dataclass(frozen=True)
class Traffic:
    """One grid's part of a step. `weight_bytes` are those of `read_bytes` that are weights."""

    op: str
    num_tasks: int
    read_bytes: int
    written_bytes: int
    weight_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.read_bytes + self.written_bytes


def traffic(plan: Plan, symbols: Mapping[str, int], inputs: Mapping[str, Any]) -> dict[str, Traffic]:
    """The traffic of every grid of a step, in the plan's order."""
    view = StepView(plan, symbols, inputs)
    return {grid.name: _grid_traffic(view, grid) for grid in plan.grids}


def _grid_traffic(view: StepView, grid: TaskGrid) -> Traffic:
    coords = view.coords(grid)
    written = sum(_bytes(view, grid, access, coords) for access in grid.accesses if access.mode == "write")
    written += sum(_bytes(view, grid, access, coords) for access in grid.accesses if access.mode == "update")
    read = weights = 0
    for access in grid.accesses:
        if access.mode != "read":
            continue
        num_bytes = _bytes(view, grid, access, coords)
        if _looked_up(view, grid, access):
            num_bytes = min(num_bytes, written)
        read += num_bytes
        if view.plan.tensors[access.tensor].role == "weight":
            weights += num_bytes
    return Traffic(grid.op, len(coords), read, written, weights)


def _looked_up(view: StepView, grid: TaskGrid, access: Access) -> bool:
    """Whether every task declares a whole stored tensor that isn't streamed."""
    tensor = view.plan.tensors[access.tensor]
    if tensor.role not in ("weight", "state") or get_op(grid.op).operand(access.operand).streamed:
        return False
    return all(
        isinstance(part, Span) and str(part.lo) == "0" and part.hi == extent
        for part, extent in zip(access.region, tensor.shape, strict=True)
    )


def _bytes(view: StepView, grid: TaskGrid, access: Access, coords: npt.NDArray[np.int64]) -> int:
    """Bytes of the distinct regions that the tasks of a grid name for one operand."""
    env = {**view.symbols, **{name: coords[:, d] for d, name in enumerate(grid.axis_names)}}
    columns, lengths = [], []
    for part in access.region:
        bounds = [part.lo, part.hi] if isinstance(part, Span) else [*part.prefix, part.lo, part.hi]
        values = [np.broadcast_to(evaluate(e, env, view.tables), (len(coords),)) for e in bounds]
        columns += values
        lengths.append(np.maximum(values[-1] - values[-2], 0))
    if not len(coords) or not columns:
        return len(coords) * itemsize(view.plan.tensors[access.tensor].dtype)
    _, first = np.unique(np.stack(columns, axis=1), axis=0, return_index=True)
    elements = int(np.prod(np.stack(lengths, axis=1)[first], axis=1).sum())
    tensor = view.plan.tensors[access.tensor]
    return elements * slab_bytes(TIGHT) // (8 * SLAB) if tensor.layout == TIGHT else elements * itemsize(tensor.dtype)
