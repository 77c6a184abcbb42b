"""Where a plan's data stands on the GPU: counters, a step's inputs and outputs, weights' packed sizes.

Inputs of one step are one block of bytes, at offsets made for the largest shapes; a launch of many steps has one block a
step, so nothing is copied between steps. Small outputs likewise, in memory of the host that the kernel writes to;
outputs larger than `SMALL_OUTPUT` bytes stay on the GPU, one buffer for all steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...dtypes import itemsize
from ...errors import DeviceError, PlanError
from ...ir.expr import Expr, Load, bounds, product
from ...ir.nodes import Plan, Tensor

SMALL_OUTPUT = 1 << 16
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


def pad_k(k: int) -> int:
    return _up(k, 32)


def packed_bytes(t: Tensor) -> int:
    """Bytes of a weight in the layout it asks for."""
    n, k = (max_value_const(e) for e in t.shape) if t.ndim == 2 else (0, 0)
    if t.layout == "panel8.cuda":
        return _up(n, 8) * pad_k(k) * itemsize(t.dtype)
    if t.layout != "plain":
        raise DeviceError(f"weight '{t.name}' asks for the layout '{t.layout}', which the CUDA backend doesn't have")
    size = itemsize(t.dtype)
    for e in t.shape:
        size *= max_value_const(e)
    return size


def max_value_const(e: Expr) -> int:
    return bounds(e, {})[1]


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes, and event tensors' first cells."""

    symbols: tuple[str, ...]
    input_offsets: dict[str, int]
    input_bytes: int
    output_offsets: dict[str, int]  # small outputs only
    output_bytes: int
    event_base: dict[str, int]
    num_cells: int


def lay_out(plan: Plan) -> Layout:
    inputs, outputs, cells = {}, {}, {}
    at = out = cell = 0
    for t in plan.tensors.values():
        if t.role == "input":
            inputs[t.name] = at
            at += _up(nbytes(plan, t), 16)
        elif t.role == "output" and nbytes(plan, t) <= SMALL_OUTPUT:
            outputs[t.name] = out
            out += _up(nbytes(plan, t), 16)
    for e in plan.events.values():
        cells[e.name] = cell
        cell += max(1, max_value(plan, e.size))
    return Layout(tuple(plan.symbols), inputs, _up(max(at, 1)), outputs, _up(max(out, 1)), cells, max(cell, 1))
