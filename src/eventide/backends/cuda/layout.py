"""Where a plan's data stands on the GPU: counters, a step's inputs and outputs, weights' packed sizes.

Inputs of one step are one block of bytes, at offsets made for the largest shapes; a launch of many steps has one block a
step, so nothing is copied between steps. Small inputs come first, as many as `STAGED_LIMIT` bytes hold: every worker copies
those to its shared memory when a step begins. Inputs of several dimensions that take more than `LARGE_INPUT` bytes (a block table)
are a block of their own, of which a launch needs only one where all steps have the same; what has one dimension is of a step's
tokens. Small outputs likewise, in memory of the host that the kernel writes to; outputs larger than `SMALL_OUTPUT` bytes stay on
the GPU, one buffer for all steps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...dtypes import itemsize
from ...errors import DeviceError, PlanError
from ...ir.expr import Expr, Load, bounds, product
from ...ir.nodes import Plan, Tensor

SMALL_OUTPUT = 1 << 16
STAGED_LIMIT = 1280
TABLES = ("int32", "int64")
LARGE_INPUT = 2304  # bytes
ALIGN = 256


def _up(n: int, align: int = ALIGN) -> int:
    return -(-n // align) * align


def max_value(plan: Plan, expr: Expr) -> int:
    """The largest value over the symbols' ranges and the tables' declared bounds."""

    def table_bounds(load: Load) -> tuple[int, int]:
        for inv in plan.tensors[load.table].invariants:
            if inv.kind in ("within", "partition"):
                hi = bounds(inv.hi, plan.symbols, table_bounds)[1]
                return bounds(inv.lo, plan.symbols, table_bounds)[0], hi - (inv.kind == "within")
        raise PlanError(f"table '{load.table}' sizes a buffer but declares no bounds; give it a 'within' invariant")

    return bounds(expr, plan.symbols, table_bounds)[1]


def nbytes(plan: Plan, t: Tensor) -> int:
    """Bytes of a tensor at its largest."""
    return max_value(plan, product(t.shape)) * itemsize(t.dtype)


def untile(tiled: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A matrix [rows, columns] from one of the same size whose bytes are laid out as device/cuda/tiles.cuh says."""
    rows, columns = tiled.shape
    row, column = np.arange(rows)[:, None], np.arange(columns)[None, :]
    piece = (column >> 5 & 1) << 2 | (column >> 1 & 3)
    at = ((column >> 6) * rows + row) * 64 + ((piece ^ (row & 7)) << 3) + (column >> 3 & 3) * 2 + (column & 1)
    found: npt.NDArray[Any] = tiled.reshape(-1)[at]
    return found


TILE_ROOM = 1 << 15  # bytes behind tiled matrices that may be read, by tasks with fewer rows than they could have
SLAB, BLOCK, BLOCK_BYTES, TAIL = 512, 128, 1536, 64  # as in device/cuda/weights.cuh
PANEL, TIGHT = "panel8.cuda", "tight8.cuda"  # bfloat16 weights as they are, and in 12 bits


def slab_bytes(layout: str, k: int = SLAB) -> int:
    """Bytes of 8 rows x `k` columns, at most a slab: what the ring holds at once."""
    return k // BLOCK * BLOCK_BYTES + TAIL if layout == TIGHT else k * 16


def line_bytes(layout: str) -> int:
    """Bytes of 8 rows x 128 columns: what wide products have of a panel at once."""
    return BLOCK_BYTES if layout == TIGHT else BLOCK * 16


def packed_bytes(t: Tensor) -> int:
    """Bytes of a weight in the layout it asks for."""
    n, k = (max_value_const(e) for e in t.shape) if t.ndim == 2 else (0, 0)
    if t.layout in (PANEL, TIGHT):
        k = _up(k, BLOCK)
        panel = k // SLAB * slab_bytes(t.layout) + (slab_bytes(t.layout, k % SLAB) if k % SLAB else 0)
        return -(-n // 8) * panel
    if t.layout != "plain":
        raise DeviceError(f"weight '{t.name}' asks for the layout '{t.layout}', which the CUDA backend doesn't have")
    size = itemsize(t.dtype)
    for e in t.shape:
        size *= max_value_const(e)
    return size


def loosened(plan: Plan, names: Collection[str]) -> Plan:
    """The plan with these weights in 16 bits."""
    return replace(plan, tensors={n: replace(t, layout=PANEL) if n in names else t for n, t in plan.tensors.items()})


def max_value_const(e: Expr) -> int:
    return bounds(e, {})[1]


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes, and event tensors' first cells."""

    symbols: tuple[str, ...]
    input_offsets: dict[str, int]
    input_bytes: int
    staged_bytes: int  # of the inputs
    table_offsets: dict[str, int]  # large inputs
    table_bytes: int
    output_offsets: dict[str, int]  # small outputs only
    output_bytes: int
    event_base: dict[str, int]
    num_cells: int
    announced_offsets: dict[str, int] = field(default_factory=dict)  # in one bank, see `announce`
    announced_bytes: int = 0  # of one bank


def lay_out(plan: Plan, announced: Collection[str] = ()) -> Layout:
    inputs, tables, outputs, cells = {}, {}, {}, {}
    at = staged = table = out = cell = 0
    # operands of two dimensions, and norms, are read with instructions that want global memory, unless they are tables
    inputs_of = [t for t in plan.tensors.values() if t.role == "input"]
    stays = {t.name: t.dtype not in TABLES and (t.ndim > 1 or t.dtype == "bfloat16") for t in inputs_of}
    given = sorted((stays[t.name], _up(nbytes(plan, t), 16), t.name) for t in inputs_of)
    for wide, size, name in given:
        if size > LARGE_INPUT and plan.tensors[name].ndim > 1:
            tables[name] = table
            table += size
            continue
        inputs[name] = at
        at += size
        if at <= STAGED_LIMIT and not wide:
            staged = at
    for t in plan.tensors.values():
        if t.role == "output" and nbytes(plan, t) <= SMALL_OUTPUT:
            outputs[t.name] = out
            out += _up(nbytes(plan, t), 16)
    for e in plan.events.values():
        cells[e.name] = cell
        cell += max(1, max_value(plan, e.size))
    own, end = {}, 0
    for name in plan.tensors:
        if name in announced:
            own[name] = end
            end += _up(nbytes(plan, plan.tensors[name]))
    sizes = [_up(max(n, 1)) for n in (at, table, out)]
    return Layout(
        tuple(plan.symbols), inputs, sizes[0], staged, tables, sizes[1], outputs, sizes[2], cells, max(cell, 1), own, end
    )
