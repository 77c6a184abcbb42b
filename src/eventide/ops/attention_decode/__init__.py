"""One new token of each sequence attends to its past: rotation, cache append and a share of the past in one task.

For steps in which a sequence has one token at most (`seq` is declared distinct). A task is token t, KV head h and split j
of the past; it normalises and rotates the group's queries, scores the positions j·split_len .. (j + 1)·split_len - 1 and
leaves unnormalised sums for `attention_merge`. The split that holds the token's own position also rotates its key, uses
it, and appends key and value to the cache.

q_in, k_in, v_in name one tensor [tokens, (heads + 2·kv_heads)·head_dim]. part [tokens, heads, num_splits, head_dim]
float32: Σ exp(score - top)·value; stats [tokens, heads, num_splits, 2]: top and Σ exp(score - top); a split beyond a
sequence's end leaves top = -1e30 and zeros. The past is read from pages that no task of the step writes.
"""

from pathlib import Path

from ...errors import ProgramError
from ...ir.expr import Expr, load, maximum, minimum
from ...ir.nodes import Region, Span, Via
from ..declaration import Attr, Call, Op, Operand, Tiled, Tiling, full, tiled


def check(call):  # type: ignore[no-untyped-def]
    if not any(i.kind == "distinct" for i in call["seq"].invariants):
        raise ProgramError(
            f"call '{call.name}': table '{call['seq'].name}' must be declared distinct, since attention_decode appends one "
            "token of each sequence while others read"
        )


def outputs(call):  # type: ignore[no-untyped-def]
    tokens, heads, splits = call["q_in"].shape[0], call.attrs["num_heads"], call["split_begin"].shape[0]
    return [((tokens, heads, splits, call.attrs["head_dim"]), "float32"), ((tokens, heads, splits, 2), "float32")]


def own_token(call: Call, t: Tiled, h: Tiled, begin: Expr, end: Expr, new: Expr | int) -> dict[str, Region]:
    """Regions of a task of token t with KV head h that rotates and appends the token, so many `new` positions from its own on, and
    reads positions begin .. end - 1 of its past."""
    d, heads, kv_heads, page = (call.attrs[k] for k in ("head_dim", "num_heads", "num_kv_heads", "page_size"))
    seq, pos = (load(call[k].name, t.var) for k in ("seq", "pos"))

    def cache(lo: Expr, hi: Expr) -> Region:
        return Span.at(h.var), Via(call["block_table"].name, (seq,), lo, hi, page), full(d)

    head_k, head_v = heads * d + h.var * d, (heads + kv_heads) * d + h.var * d
    regions: dict[str, Region] = {
        "q_in": (t.span, h.scaled(heads // kv_heads * d)),
        "k_in": (t.span, Span(head_k, head_k + d)),
        "v_in": (t.span, Span(head_v, head_v + d)),
        "seq": (t.span,),
        "pos": (t.span,),
        "block_table": (Span.at(seq), full(call["block_table"].shape[1])),
        "rope": tuple(full(e) for e in call["rope"].shape),
        **dict.fromkeys(("k_past", "v_past"), cache(begin, end)),
        **dict.fromkeys(("k_new", "v_new"), cache(pos, pos + new)),
    }
    return regions | {norm: (full(d),) for norm in ("q_norm", "k_norm") if norm in call}


def tile(call, target):  # type: ignore[no-untyped-def]
    heads, kv_heads = call.attrs["num_heads"], call.attrs["num_kv_heads"]
    t, h = tiled("t", 1, call["seq"].shape[0]), tiled("h", 1, kv_heads)
    j = tiled("j", 1, call["split_begin"].shape[0])
    pos = load(call["pos"].name, t.var)
    begin = load(call["split_begin"].name, j.var)
    end = load(call["split_end"].name, j.var)
    # one cell for the split that holds the token's position, none for the others
    mine = maximum(0, minimum(1, minimum(pos - begin + 1, end - pos)))
    cells = (t.span, h.scaled(heads // kv_heads), j.span)
    regions = {
        **own_token(call, t, h, begin, maximum(begin, minimum(end, pos)), mine),
        "split_begin": (j.span,),
        "split_end": (j.span,),
        "part": (*cells, full(call.attrs["head_dim"])),
        "stats": (*cells, full(2)),
    }
    return Tiling(axes=[t.axis, h.axis, j.axis], regions=regions)


OP = Op(
    "attention_decode",
    operands=[
        Operand("q_in"),
        Operand("k_in"),
        Operand("v_in"),
        Operand("seq"),
        Operand("pos"),
        Operand("split_begin", doc="first position of each split"),
        Operand("split_end", doc="one past the last position of each split"),
        Operand("block_table"),
        Operand("rope"),
        Operand("q_norm", optional=True),
        Operand("k_norm", optional=True),
        Operand("k_past", streamed=True),
        Operand("v_past", streamed=True),
        Operand("k_new", "update"),
        Operand("v_new", "update"),
        Operand("part", "write"),
        Operand("stats", "write"),
    ],
    attrs=[
        Attr("num_heads", int),
        Attr("num_kv_heads", int),
        Attr("head_dim", int),
        Attr("page_size", int),
        Attr("eps", float, 0.0, doc="of q_norm and k_norm"),
    ],
    outputs_of=outputs,
    tile=tile,
    axes=["t", "h", "j"],
    check=check,
    folder=Path(__file__).parent,
    doc=__doc__,
)
