"""y = a + b, element by element; [tokens, columns]. With `rows`, row r of y is a[rows[r]] + b[r]."""

from pathlib import Path

from ...errors import ProgramError
from ...ir.nodes import Region, Via
from ..declaration import Call, Op, Operand, Tiling, full, tiled


def check(call: Call) -> None:
    rows = call["rows" if "rows" in call else "a"].shape[0]
    if (rows, call["a"].shape[1]) != call["b"].shape:
        have = " and ".join(f"{name} [{', '.join(map(str, call[name].shape))}]" for name in call.tensors if name != "y")
        raise ProgramError(f"call '{call.name}': an add needs as many rows and columns on both sides, got {have}")


def tile(call, target):  # type: ignore[no-untyped-def]
    rows, cols = call["y"].shape
    m = tiled("m", target.tile_tokens, rows)
    regions: dict[str, Region] = {k: (m.span, full(cols)) for k in ("a", "b", "y")}
    if "rows" in call:
        regions["a"] = (Via(call["rows"].name, (), m.span.lo, m.span.hi), full(cols))
        regions["rows"] = (m.span,)
    return Tiling(axes=[m.axis], regions=regions, attrs={"tile_m": m.tile})


OP = Op(
    "add",
    operands=[Operand("a"), Operand("b"), Operand("rows", optional=True), Operand("y", "write")],
    outputs_of=lambda call: [(call["b"].shape, call["a"].dtype)],
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    check=check,
    folder=Path(__file__).parent,
    doc=__doc__,
)
