"""y = residual + x · wᵀ, and half of the norm after it: h = y · norm_weight, and the sums of squares of y, block by block.

x [tokens, k], w [n, k], residual, y and h [tokens, n], squares [n / block, tokens] float32: of the columns of each block. Who
multiplies h takes 1 / sqrt(Σ squares / n + eps) of its sums (the operand `squares` of `linear`), so that no task sees whole rows
and nobody waits between this product and the next. y is rounded before it is weighed and squared.

A task is a block of columns. On a GPU a block is 16 or 32 rows of the weight: with 132 workers 4,096 columns are 128 tasks of 32,
1,024 columns 64 tasks of 16.
"""

from pathlib import Path

from ...errors import ProgramError
from ...ir.expr import Expr
from ..declaration import Attr, Call, Op, Operand, Tiling, full, tiled
from ..linear import check as check_linear


def block_of(n: int, workers: int) -> int:
    """Columns of a block, 16 or 32: those with which the busiest of so many workers has fewest, and of equals the larger one."""
    busiest = {block: -(-(n // block) // workers) * block for block in (32, 16) if n % block == 0}
    if not busiest:
        raise ProgramError(f"{n} columns can't be cut into blocks of 16; linear_residual needs a multiple of it")
    return min(busiest, key=lambda block: busiest[block])


def check_blocks(call: Call, n: Expr) -> None:
    """Of both operators whose squares are of blocks of `n` columns."""
    block = call.attrs["block"]
    if block < 1 or int(str(n)) % block:
        raise ProgramError(f"call '{call.name}': {n} columns can't be cut into blocks of {block}")


def check(call: Call) -> None:
    check_linear(call)
    check_blocks(call, call["w"].shape[0])


def outputs(call):  # type: ignore[no-untyped-def]
    rows, n = call["residual"].shape
    same = ((rows, n), call["residual"].dtype)
    return [same, same, ((n // call.attrs["block"], rows), "float32")]


def tile(call, target):  # type: ignore[no-untyped-def]
    tokens, n = call["y"].shape
    _, k = call["w"].shape
    m, cols = tiled("m", target.tile_tokens, tokens), tiled("n", call.attrs["block"], n)
    part = (m.span, cols.span)
    regions = {
        "x": (m.span, full(k)),
        "w": (cols.span, full(k)),
        "norm_weight": (cols.span,),
        "squares": (tiled("n", 1, n // call.attrs["block"]).span, m.span),
        **dict.fromkeys(("residual", "y", "h"), part),
    }
    return Tiling(
        axes=[m.axis, cols.axis],
        regions=regions,
        attrs={"tile_m": target.tile_tokens},
        layouts=target.product_layouts(call["w"].dtype),
    )


OP = Op(
    "linear_residual",
    operands=[
        Operand("x", tiles=True),
        Operand("w", streamed=True),
        Operand("residual"),
        Operand("norm_weight"),
        Operand("y", "write"),
        Operand("h", "write", tiles=True),
        Operand("squares", "write"),
    ],
    attrs=[Attr("block", int, doc="columns of a task")],
    outputs_of=outputs,
    tile=tile,
    axes=["m", "n"],
    tile_attrs=["tile_m"],
    check=check,
    folder=Path(__file__).parent,
    doc=__doc__,
)
