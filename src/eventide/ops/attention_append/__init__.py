"""One new token of each sequence attends to its past and to itself: rotation, cache append and attention in one task.

For steps in which a sequence has one token at most (`seq` is declared distinct) and sequences are many enough that a task has the
whole past of one: a task is token t with KV head h and its group of query heads. It normalises and rotates queries and key as
`rope_append` does, appends key and value to the cache, and attends as `attention` does.

q_in, k_in, v_in name one tensor [tokens, (heads + 2·kv_heads)·head_dim]; y [tokens, heads·head_dim]; caches [kv_heads, slots,
head_dim]. Position p of sequence s lives in slot block_table[s, p // page_size] · page_size + p % page_size; the past is read from
pages that no task of the step writes but in the token's own place.
"""

from pathlib import Path

from ...ir.expr import load
from ...ir.nodes import Span, Via
from ..attention_decode import check
from ..declaration import Attr, Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    d, heads, kv_heads, page = (call.attrs[k] for k in ("head_dim", "num_heads", "num_kv_heads", "page_size"))
    group = heads // kv_heads
    t, h = tiled("t", 1, call["seq"].shape[0]), tiled("h", 1, kv_heads)
    seq, pos = (load(call[k].name, t.var) for k in ("seq", "pos"))
    table = call["block_table"].name
    past = (Span.at(h.var), Via(table, (seq,), pos * 0, pos, page), full(d))
    new = (Span.at(h.var), Via(table, (seq,), pos, pos + 1, page), full(d))
    head_k, head_v = heads * d + h.var * d, (heads + kv_heads) * d + h.var * d
    regions = {
        "q_in": (t.span, h.scaled(group * d)),
        "k_in": (t.span, Span(head_k, head_k + d)),
        "v_in": (t.span, Span(head_v, head_v + d)),
        "seq": (t.span,),
        "pos": (t.span,),
        "block_table": (Span.at(seq), full(call["block_table"].shape[1])),
        "rope": tuple(full(e) for e in call["rope"].shape),
        "k_past": past,
        "v_past": past,
        "k_new": new,
        "v_new": new,
        "y": (t.span, h.scaled(group * d)),
    }
    for norm in ("q_norm", "k_norm"):
        if norm in call:
            regions[norm] = (full(d),)
    return Tiling(axes=[t.axis, h.axis], regions=regions)


OP = Op(
    "attention_append",
    operands=[
        Operand("q_in"),
        Operand("k_in"),
        Operand("v_in"),
        Operand("seq"),
        Operand("pos"),
        Operand("block_table"),
        Operand("rope"),
        Operand("q_norm", optional=True),
        Operand("k_norm", optional=True),
        Operand("k_past"),
        Operand("v_past"),
        Operand("k_new", "update"),
        Operand("v_new", "update"),
        Operand("y", "write", tiles=True),
    ],
    attrs=[
        Attr("num_heads", int),
        Attr("num_kv_heads", int),
        Attr("head_dim", int),
        Attr("page_size", int),
        Attr("eps", float, 0.0, doc="of q_norm and k_norm"),
    ],
    outputs_of=lambda call: [((call["q_in"].shape[0], call.attrs["num_heads"] * call.attrs["head_dim"]), call["q_in"].dtype)],
    tile=tile,
    axes=["t", "h"],
    check=check,
    folder=Path(__file__).parent,
    doc=__doc__,
)
