"""Joins the splits of `attention_decode`, one head a task. y [tokens, heads·head_dim]:

y = Σ_j e^(top_j - top)·part_j / Σ_j e^(top_j - top)·sum_j
"""

from pathlib import Path

from ..declaration import Attr, Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    tokens, heads, splits, d = call["part"].shape
    t, h = tiled("t", 1, tokens), tiled("h", 1, heads)
    cells = (t.span, h.span, full(splits))
    regions = {
        "part": (*cells, full(d)),
        "stats": (*cells, full(2)),
        "y": (t.span, h.scaled(call.attrs["head_dim"])),
    }
    return Tiling(axes=[t.axis, h.axis], regions=regions)


OP = Op(
    "attention_merge",
    operands=[Operand("part"), Operand("stats"), Operand("y", "write", tiles=True)],
    attrs=[Attr("num_heads", int), Attr("head_dim", int), Attr("dtype", str)],
    outputs_of=lambda call: [
        ((call["part"].shape[0], call.attrs["num_heads"] * call.attrs["head_dim"]), call.attrs["dtype"])
    ],
    tile=tile,
    axes=["t", "h"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
