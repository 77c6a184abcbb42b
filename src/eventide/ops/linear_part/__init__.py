"""part[s] = x[:, slab s] · w[:, slab s]ᵀ: a matrix product whose k is cut into `splits` slabs, tasks of their own.

x [tokens, k], w [n, k], part [splits, tokens, n] float32; whoever reads part adds the slabs, in ascending order.

With many tokens, every worker that makes some columns of a product gathers all of its input, and together they gather more
bytes than the weights have. Slabs make a task's input smaller and its columns more: at 64 tokens and k = 4096, 132 workers
gather 69 MB for 512 panels of 8 rows, and with 4 slabs 17 MB, while 4 MB of partial sums are written and read.
"""

from pathlib import Path

from ...errors import ProgramError
from ...ir.expr import as_int
from ..declaration import Attr, Call, Op, Operand, Tiling, full, tiled
from ..linear import check as check_linear

UNIT = 512  # a slab begins at a multiple of it, because packed weights are addressed so


def most_splits(k: int, most: int) -> int:
    """The most slabs, up to `most`, into which `k` can be cut."""
    return max(s for s in range(1, max(most, 1) + 1) if s == 1 or k % (s * UNIT) == 0)


def check(call: Call) -> None:
    check_linear(call)
    k, splits = call["x"].shape[1], call.attrs["splits"]
    if splits < 1 or (splits > 1 and int(str(k)) % (splits * UNIT)):
        raise ProgramError(f"call '{call.name}': {k} columns can't be cut into {splits} slabs of a multiple of {UNIT}")


def tile(call, target):  # type: ignore[no-untyped-def]
    _, tokens, n = call["part"].shape
    splits = call.attrs["splits"]
    slab = int(str(call["x"].shape[1])) // splits
    m, s = tiled("m", target.tile_tokens, tokens), tiled("s", 1, splits)
    cols = tiled("n", target.product_rows(as_int(n), 0 if slab % 256 else splits), n)
    k = s.scaled(slab)
    # of steps with several tiles of tokens a slab waits for the whole input, which is there at the same time anyway: all of a
    # layer then comes after all of the one before, and the verifier looks at equal layers once
    read = full(call["x"].shape[1]) if target.wide and target.tile_tokens > 64 else k
    regions = {"x": (m.span, read), "w": (cols.span, k), "part": (s.span, m.span, cols.span)}
    return Tiling(
        axes=[m.axis, s.axis, cols.axis],
        regions=regions,
        attrs={"tile_m": target.tile_tokens, "tile_n": cols.tile},
        layouts=target.product_layouts(call["w"].dtype),
    )


OP = Op(
    "linear_part",
    operands=[Operand("x", tiles=True), Operand("w", streamed=True), Operand("part", "write")],
    attrs=[Attr("splits", int)],
    outputs_of=lambda call: [((call.attrs["splits"], call["x"].shape[0], call["w"].shape[0]), "float32")],
    tile=tile,
    axes=["m", "s", "n"],
    tile_attrs=["tile_m", "tile_n"],
    check=check,
    folder=Path(__file__).parent,
    doc=__doc__,
)
