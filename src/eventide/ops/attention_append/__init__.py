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
from ..attention_decode import check, own_token
from ..declaration import Attr, Op, Operand, Tiling, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    heads, kv_heads = call.attrs["num_heads"], call.attrs["num_kv_heads"]
    t, h = tiled("t", 1, call["seq"].shape[0]), tiled("h", 1, kv_heads)
    pos = load(call["pos"].name, t.var)
    y = (t.span, h.scaled(heads // kv_heads * call.attrs["head_dim"]))
    return Tiling(axes=[t.axis, h.axis], regions={**own_token(call, t, h, pos * 0, pos, 1), "y": y})


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
