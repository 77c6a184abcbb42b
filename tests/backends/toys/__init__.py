"""Operators from outside the package: each is a folder with reference.py and cpu.h, and a declaration here.

scale   y = factor · x
tally   sorts tokens by expert: tables that other grids of the same step look things up in
pick    y[t] = x[t] · (e + 1) for the j-th token t of expert e: a ragged grid over tables of the step
broken  a cpu.h that does not compile
"""

from __future__ import annotations

from pathlib import Path

from eventide.ir.expr import load
from eventide.ir.nodes import Span
from eventide.ops import Attr, Op, Operand, Tiling, list_ops, register
from eventide.ops.declaration import Call, full, tiled
from eventide.target import Target

HERE = Path(__file__).parent


def _rows(call: Call, target: Target) -> Tiling:
    rows, cols = call["y"].shape
    m = tiled("m", 4, rows)
    return Tiling(
        axes=[m.axis], regions={"x": (m.span, full(cols)), "y": (m.span, full(cols))}, attrs={"tile_m": m.tile}
    )


def _same(call: Call):  # type: ignore[no-untyped-def]
    return [(call["x"].shape, call["x"].dtype)]


def _scale(name: str) -> Op:
    return Op(
        name,
        operands=[Operand("x"), Operand("y", "write")],
        attrs=[
            Attr("factor", float),
            Attr("mode", str, "times", choices=("times", "plus")),
            Attr("twice", bool, False),
        ],
        outputs_of=_same,
        tile=_rows,
        axes=["m"],
        tile_attrs=["tile_m"],
        folder=HERE / name,
    )


def _tally(call: Call, target: Target) -> Tiling:
    regions = {o: (full(call[o].shape[0]),) for o in ("expert", "counts", "indptr", "order")}
    return Tiling(axes=[], regions=regions)


TALLY = Op(
    "tally",
    operands=[Operand("expert"), *(Operand(n, "write") for n in ("counts", "indptr", "order"))],
    attrs=[Attr("num_experts", int)],
    outputs_of=lambda call: [
        ((call.attrs["num_experts"],), "int32"),
        ((call.attrs["num_experts"] + 1,), "int32"),
        (call["expert"].shape, "int32"),
    ],
    tile=_tally,
    axes=[],
    folder=HERE / "tally",
)


def _pick(call: Call, target: Target) -> Tiling:
    e = tiled("e", 1, call["counts"].shape[0])
    j = tiled("j", 1, load(call["counts"].name, e.var))
    token = load(call["order"].name, load(call["indptr"].name, e.var) + j.var)
    row = (Span.at(token), full(call["x"].shape[1]))
    regions = {
        "x": row,
        "y": row,
        "counts": (e.span,),
        "indptr": (e.span,),
        "order": (Span.at(load(call["indptr"].name, e.var) + j.var),),
    }
    return Tiling(axes=[e.axis, j.axis], regions=regions)


PICK = Op(
    "pick",
    operands=[*(Operand(n) for n in ("x", "counts", "indptr", "order")), Operand("y", "write")],
    outputs_of=_same,
    tile=_pick,
    axes=["e", "j"],
    folder=HERE / "pick",
)

SCALE, BROKEN = _scale("scale"), _scale("broken")
for op in (SCALE, BROKEN, TALLY, PICK):
    if op.name not in list_ops():
        register(op)
