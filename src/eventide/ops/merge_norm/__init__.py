"""y = residual + Σ_s part[s], and h = y / sqrt(mean(y²) + eps) · norm_weight: ends a `linear_part`, begins what reads it.

part [splits, tokens, n] float32, added in ascending order of s; residual, y and h [tokens, n]; y is rounded before its norm
is taken. One token a task on a GPU, a few where linears take more than 64.
"""

from pathlib import Path

from ..declaration import Attr, Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    splits, tokens, n = call["part"].shape
    few = target.tile_tokens // 32 if target.tile_tokens > 64 else 1
    m = tiled("m", few if target.kind == "cuda" else target.tile_tokens, tokens)
    row = (m.span, full(n))
    regions = {"part": (full(splits), *row), "residual": row, "norm_weight": (full(n),), "y": row, "h": row}
    return Tiling(axes=[m.axis], regions=regions, attrs={"tile_m": m.tile})


OP = Op(
    "merge_norm",
    operands=[
        Operand("part"),
        Operand("residual"),
        Operand("norm_weight"),
        Operand("y", "write"),
        Operand("h", "write", tiles=True),
    ],
    attrs=[Attr("eps", float, doc="added to the mean square")],
    outputs_of=lambda call: [(call["residual"].shape, call["residual"].dtype)] * 2,
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
