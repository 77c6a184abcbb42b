"""y = act(norm(x) · wᵀ + bias) + residual: a matrix product with what passes fuse around it.

x [tokens, k], w [n, k], y [tokens, n] (or n/2 columns after ``silu_mul``, whose gate and up rows alternate in w).
Prologue: with `norm_weight`, x is RMS-normalised first; with `rows`, row r of the input is x[rows[r]], and that of the residual
residual[rows[r]]. With `squares`
[blocks, tokens] float32, x is half normalised already (see `linear_residual`): sums are divided by sqrt(Σ squares / k + eps).
Accumulation is in float32, in an order that depends on k alone.
"""

from pathlib import Path

from ...errors import ProgramError
from ...ir.expr import as_int
from ...ir.nodes import Region, Via
from ..declaration import Attr, Call, Op, Operand, Tiling, full, tiled


def check(call: Call) -> None:
    """Of every matrix product."""
    k, kw = call["x"].shape[1], call["w"].shape[1]
    if k != kw:
        raise ProgramError(f"call '{call.name}': x has {k} columns but w has {kw}; a linear needs them equal")


def outputs(call):  # type: ignore[no-untyped-def]
    n = call["w"].shape[0]
    rows = (call["rows"] if "rows" in call else call["x"]).shape[0]
    dtype = call.attrs["out_dtype"] or call["x"].dtype
    return [((rows, n // 2 if call.attrs["activation"] == "silu_mul" else n), dtype)]


def tile(call, target):  # type: ignore[no-untyped-def]
    _, k = call["w"].shape
    gated = call.attrs["activation"] == "silu_mul"
    block = target.product_rows(as_int(call["w"].shape[0]))
    m = tiled("m", target.tile_tokens, call["y"].shape[0])
    cols = tiled("n", block // 2 if gated else block, call["y"].shape[1])
    w_rows = cols.scaled(2) if gated else cols.span
    taken = Via(call["rows"].name, (), m.span.lo, m.span.hi) if "rows" in call else m.span
    regions: dict[str, Region] = {"x": (taken, full(k)), "w": (w_rows, full(k)), "y": (m.span, cols.span)}
    if "rows" in call:
        regions["rows"] = (m.span,)
    if "norm_weight" in call:
        regions["norm_weight"] = (full(k),)
    if "squares" in call:
        regions["squares"] = (full(call["squares"].shape[0]), m.span)
    if "bias" in call:
        regions["bias"] = (w_rows,)
    if "residual" in call:
        regions["residual"] = (taken, cols.span)
    return Tiling(
        axes=[m.axis, cols.axis],
        regions=regions,
        attrs={"tile_m": target.tile_tokens, "tile_n": block},
        layouts=target.product_layouts(call["w"].dtype),
    )


OP = Op(
    "linear",
    operands=[
        Operand("x", tiles=True),
        Operand("w", streamed=True),
        Operand("norm_weight", optional=True),
        Operand("rows", optional=True),
        Operand("squares", optional=True, gpu=True),
        Operand("bias", optional=True),
        Operand("residual", optional=True),
        Operand("y", "write", tiles=True),
    ],
    attrs=[
        Attr("activation", str, "none", choices=("none", "silu_mul")),
        Attr("eps", float, 0.0, doc="of the norm in the prologue, or of the other half of one"),
        Attr("out_dtype", str, "", doc="dtype of y; empty: that of x"),
    ],
    outputs_of=outputs,
    tile=tile,
    axes=["m", "n"],
    tile_attrs=["tile_m", "tile_n"],
    check=check,
    folder=Path(__file__).parent,
    doc=__doc__,
)
