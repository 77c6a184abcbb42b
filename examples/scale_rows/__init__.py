"""y[i] = x[i] / max |x[i]|: every row scaled by its largest magnitude."""

from pathlib import Path

from eventide.ops import Op, Operand, Tiling
from eventide.ops.declaration import full, tiled

ROWS = 16  # rows that one task handles


def tile(call, target):
    """How a call becomes tasks: one for each 16 rows, reading and writing exactly these."""
    num_rows, num_cols = call["y"].shape
    m = tiled("m", ROWS, num_rows)
    region = (m.span, full(num_cols))
    return Tiling(axes=[m.axis], regions={"x": region, "y": region}, attrs={"tile_m": ROWS})


OP = Op(
    "scale_rows",
    operands=[Operand("x"), Operand("y", "write")],
    axes=["m"],
    tile_attrs=["tile_m"],
    outputs_of=lambda call: [(call["x"].shape, call["x"].dtype)],
    tile=tile,
    folder=Path(__file__).parent,
    doc=__doc__,
)
