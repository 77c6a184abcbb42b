"""y = x / sqrt(mean(x²) + eps) · w, row by row (Zhang and Sennrich, 2019); with `rows`, y[r] is made of x[rows[r]]."""

from pathlib import Path

from ...ir.nodes import Region, Span, Via
from ..declaration import Attr, Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    rows, cols = call["y"].shape
    # many tokens a linear on a GPU: a task for every one or few, so that most workers are at work
    few = 1 if target.tile_tokens <= 64 else target.tile_tokens // 16
    m = tiled("m", few if target.wide else target.tile_tokens, rows)
    regions: dict[str, Region] = {"x": (m.span, full(cols)), "w": (full(cols),), "y": (m.span, full(cols))}
    if "rows" in call:
        regions["x"] = (Via(call["rows"].name, (), m.span.lo, m.span.hi), full(cols))
        regions["rows"] = (Span(m.span.lo, m.span.hi),)
    return Tiling(axes=[m.axis], regions=regions, attrs={"tile_m": m.tile})


OP = Op(
    "rms_norm",
    operands=[Operand("x"), Operand("w"), Operand("rows", optional=True), Operand("y", "write", tiles=True)],
    attrs=[Attr("eps", float, doc="added to the mean square")],
    outputs_of=lambda call: [
        (((call["rows"] if "rows" in call else call["x"]).shape[0], call["x"].shape[1]), call["x"].dtype)
    ],
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
