"""Half of an RMS norm: h = x · norm_weight, and the sums of squares of x, block by block; see `linear_residual`, which ends in it.

x and h [tokens, n], squares [n / block, tokens] float32. For rows that no product has made.
"""

from pathlib import Path

from ..declaration import Attr, Op, Operand, Tiling, full, tiled
from ..linear_residual import check_blocks


def outputs(call):  # type: ignore[no-untyped-def]
    rows, n = call["x"].shape
    return [((rows, n), call["x"].dtype), ((n // call.attrs["block"], rows), "float32")]


def tile(call, target):  # type: ignore[no-untyped-def]
    tokens, n = call["x"].shape
    m = tiled("m", 1 if target.wide else target.tile_tokens, tokens)
    row = (m.span, full(n))
    regions = {"x": row, "norm_weight": (full(n),), "h": row, "squares": (full(n // call.attrs["block"]), m.span)}
    return Tiling(axes=[m.axis], regions=regions, attrs={"tile_m": m.tile})


OP = Op(
    "half_norm",
    operands=[Operand("x"), Operand("norm_weight"), Operand("h", "write", tiles=True), Operand("squares", "write")],
    attrs=[Attr("block", int, doc="columns whose squares are added")],
    outputs_of=outputs,
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    check=lambda call: check_blocks(call, call["x"].shape[1]),
    folder=Path(__file__).parent,
    doc=__doc__,
)
