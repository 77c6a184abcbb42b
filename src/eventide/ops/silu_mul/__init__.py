"""y[:, i] = silu(x[:, 2i]) * x[:, 2i + 1]: the gated activation on interleaved gate and up columns."""

from pathlib import Path

from ..declaration import Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    rows, cols = call["y"].shape
    m = tiled("m", target.tile_tokens, rows)
    return Tiling(axes=[m.axis], regions={"x": (m.span, full(2 * cols)), "y": (m.span, full(cols))}, attrs={"tile_m": m.tile})


OP = Op(
    "silu_mul",
    operands=[Operand("x"), Operand("y", "write", tiles=True)],
    outputs_of=lambda call: [((call["x"].shape[0], call["x"].shape[1] // 2), call["x"].dtype)],
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
