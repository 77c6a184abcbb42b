"""What the sampler needs of a row of logits, piece by piece, so that all workers read it and not one.

best [rows, pieces] int64: of the piece's logits the largest, as (order-preserving 32-bit key << 32 | ~index) - 2^63, so
that the largest number belongs to the largest logit and, among equals, to the lowest index. sums [rows, pieces, 2]
float32: the largest logit, and the sum of exp(logit - largest).
"""

from pathlib import Path

from ...ir.expr import ceildiv
from ..declaration import Op, Operand, Tiling, full, tiled

PIECE = 1152
ROWS = 8  # of a task at most: a run of them waits for few columns of the logits, and asks seldom


def outputs(call):  # type: ignore[no-untyped-def]
    rows, pieces = call["row_seq"].shape[0], ceildiv(call["logits"].shape[1], PIECE)
    return [((rows, pieces), "int64"), ((rows, pieces, 2), "float32")]


def tile(call, target):  # type: ignore[no-untyped-def]
    r, v = tiled("r", ROWS, call["row_seq"].shape[0]), tiled("v", PIECE, call["logits"].shape[1])
    piece = tiled("v", 1, call["best"].shape[1]).span
    regions = {
        "logits": (r.span, v.span),
        "row_seq": (r.span,),
        "best": (r.span, piece),
        "sums": (r.span, piece, full(2)),
    }
    # a worker has one piece of all rows rather than all pieces of some
    return Tiling(axes=[v.axis, r.axis], regions=regions, attrs={"piece": PIECE, "tile_r": ROWS})


OP = Op(
    "sample_stats",
    operands=[Operand("logits"), Operand("row_seq"), Operand("best", "write"), Operand("sums", "write")],
    outputs_of=outputs,
    tile=tile,
    axes=["v", "r"],
    tile_attrs=["piece", "tile_r"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
