"""y[t] = w[tokens[seq[t], pos[t]]]: embeds, for each token of the step, what its sequence's history holds at its place.

The history is state: prompts are written there by the host, sampled tokens by the sampler, so a step needs no copying.
"""

from pathlib import Path

from ..declaration import Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    rows, cols = call["y"].shape
    m = tiled("m", 1 if target.kind == "cuda" else target.tile_tokens, rows)
    return Tiling(
        axes=[m.axis],
        regions={
            "seq": (m.span,),
            "pos": (m.span,),
            "tokens": tuple(full(e) for e in call["tokens"].shape),
            "w": tuple(full(e) for e in call["w"].shape),
            "y": (m.span, full(cols)),
        },
        attrs={"tile_m": m.tile},
    )


OP = Op(
    "embed",
    operands=[Operand("seq"), Operand("pos"), Operand("tokens"), Operand("w"), Operand("y", "write")],
    outputs_of=lambda call: [((call["seq"].shape[0], call["w"].shape[1]), call["w"].dtype)],
    tile=tile,
    axes=["m"],
    tile_attrs=["tile_m"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
