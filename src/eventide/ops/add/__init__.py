"""y = a + b, element by element; [tokens, columns]."""

from pathlib import Path

from ..declaration import Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    rows, cols = call["y"].shape
    m = tiled("m", target.tile_tokens, rows)
    return Tiling(axes=[m.axis], regions={k: (m.span, full(cols)) for k in ("a", "b", "y")}, attrs={"tile_m": m.tile})


OP = Op(
    "add",
    operands=[Operand("a"), Operand("b"), Operand("y", "write")],
    outputs_of=lambda call: [(call["a"].shape, call["a"].dtype)],
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
