"""Rotates queries and keys to their positions and appends keys and values to the cache, one KV head a task.

q_in, k_in, v_in name the same tensor [tokens, (heads + 2·kv_heads)·head_dim]: queries, then keys, then values.
With `q_norm` and `k_norm` each head is RMS-normalised first (Qwen3). rope [positions, head_dim]: cosines, then sines, of
the half-dimension frequencies (Su et al., 2021; the pairing of Hugging Face's models: i with i + head_dim/2).
Caches are [kv_heads, slots, head_dim]; token t goes to slot[t]. q [tokens, heads·head_dim].
"""

from pathlib import Path

from ...ir.nodes import Span, Via
from ..declaration import Attr, Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    d, heads, kv_heads = (call.attrs[k] for k in ("head_dim", "num_heads", "num_kv_heads"))
    group = heads // kv_heads
    # on a GPU a step of as many tokens as a linear takes at once is 16 tasks for each KV head, so that most workers have one
    tokens = max(1, target.tile_tokens // 16) if target.kind == "cuda" else target.tile_tokens
    m = tiled("m", tokens, call["q"].shape[0])
    h = tiled("h", 1, kv_heads)
    cache = (Span.at(h.var), Via(call["slot"].name, (), m.span.lo, m.span.hi), full(d))
    regions = {
        "q_in": (m.span, h.scaled(group * d)),
        "k_in": (m.span, Span(heads * d + h.var * d, heads * d + h.var * d + d)),
        "v_in": (m.span, Span((heads + kv_heads) * d + h.var * d, (heads + kv_heads) * d + h.var * d + d)),
        "pos": (m.span,),
        "slot": (m.span,),
        "rope": tuple(full(e) for e in call["rope"].shape),
        "q": (m.span, h.scaled(group * d)),
        "k_cache": cache,
        "v_cache": cache,
    }
    for norm in ("q_norm", "k_norm"):
        if norm in call:
            regions[norm] = (full(d),)
    return Tiling(axes=[m.axis, h.axis], regions=regions, attrs={"tile_m": m.tile})


OP = Op(
    "rope_append",
    operands=[
        Operand("q_in"),
        Operand("k_in"),
        Operand("v_in"),
        Operand("pos"),
        Operand("slot"),
        Operand("rope"),
        Operand("q_norm", optional=True),
        Operand("k_norm", optional=True),
        Operand("k_cache", "update"),
        Operand("v_cache", "update"),
        Operand("q", "write"),
    ],
    attrs=[
        Attr("num_heads", int),
        Attr("num_kv_heads", int),
        Attr("head_dim", int),
        Attr("eps", float, 0.0, doc="of q_norm and k_norm"),
    ],
    outputs_of=lambda call: [
        ((call["q_in"].shape[0], call.attrs["num_heads"] * call.attrs["head_dim"]), call["k_cache"].dtype)
    ],
    tile=tile,
    axes=["m", "h"],
    tile_attrs=["tile_m"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
