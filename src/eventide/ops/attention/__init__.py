"""Causal attention of query tiles over the paged cache: one KV head with its group of query heads a task.

q, y [tokens, heads·head_dim]; caches [kv_heads, slots, head_dim]. Tile i covers the tokens
tile_indptr[i] .. tile_indptr[i + 1] - 1, all of sequence tile_seq[i], at consecutive positions; position p of sequence s
lives in slot block_table[s, p // page_size] · page_size + p % page_size. A token at position p sees positions 0 .. p.
Scores are scaled by 1/sqrt(head_dim); the softmax is computed in float32, over blocks of positions in ascending order.
"""

from pathlib import Path

from ...ir.expr import load
from ...ir.nodes import Span, Via
from ..declaration import Attr, Op, Operand, Tiling, full, tiled


def tile(call, target):  # type: ignore[no-untyped-def]
    d, heads, kv_heads, page = (call.attrs[k] for k in ("head_dim", "num_heads", "num_kv_heads", "page_size"))
    i = tiled("i", 1, call["tile_seq"].shape[0])
    h = tiled("h", 1, kv_heads)
    start, stop = (load(call["tile_indptr"].name, i.var + k) for k in (0, 1))
    seq = load(call["tile_seq"].name, i.var)
    kv_len = load(call["pos"].name, stop - 1) + 1
    cols = h.scaled(heads // kv_heads * d)
    cache = (Span.at(h.var), Via(call["block_table"].name, (seq,), start * 0, kv_len, page), full(d))
    regions = {
        "q": (Span(start, stop), cols),
        "k_cache": cache,
        "v_cache": cache,
        "pos": (Span(start, stop),),
        "tile_indptr": (Span(i.var, i.var + 2),),
        "tile_seq": (i.span,),
        "block_table": (Span.at(seq), full(call["block_table"].shape[1])),
        "y": (Span(start, stop), cols),
    }
    return Tiling(axes=[i.axis, h.axis], regions=regions, attrs={"tile_queries": target.tile_queries})


OP = Op(
    "attention",
    operands=[
        Operand("q"),
        Operand("k_cache"),
        Operand("v_cache"),
        Operand("pos"),
        Operand("tile_indptr"),
        Operand("tile_seq"),
        Operand("block_table"),
        Operand("y", "write", tiles=True),
    ],
    attrs=[Attr("num_heads", int), Attr("num_kv_heads", int), Attr("head_dim", int), Attr("page_size", int)],
    outputs_of=lambda call: [(call["q"].shape, call["q"].dtype)],
    tile=tile,
    axes=["i", "h"],
    tile_attrs=["tile_queries"],
    # of a long prompt the last tiles see twice as much as the middle ones; tasks of few rows share the warps in runs
    uneven=lambda attrs: attrs["tile_queries"] * attrs["num_heads"] > 16 * attrs["num_kv_heads"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
