"""Small programs and plans that the tests of IR, passes and interpreter share."""

from __future__ import annotations

from typing import Any

import numpy as np

from eventide.ir.expr import Sum, load, wrap
from eventide.ir.nodes import Invariant, Plan, Span, Via, cell_var
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.ops.declaration import Attr, Op, Operand, Tiling, full, tiled
from eventide.ops.program import Program
from eventide.ops.registry import list_ops, register
from eventide.passes.pipeline import compile_plan
from eventide.target import Target

SMALL_CPU = Target("cpu", 2, tile_rows=8, tile_tokens=4, tile_queries=2)
SMALL_GPU = Target("cuda", 5, tile_rows=4, tile_tokens=2, tile_queries=1, split_kv=4, arch="sm_90a")
LIMITS = Limits(max_tokens=9, max_rows=2, max_seqs=2, max_seq_len=8, page_size=4, max_splits=3)


def config(layers: int = 2, **changes: Any) -> ModelConfig:
    facts: dict[str, Any] = {
        "architecture": "Qwen3ForCausalLM", "hidden_size": 16, "intermediate_size": 16, "num_layers": layers,
        "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "vocab_size": 24, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "rope_scaling": None, "qkv_bias": False, "qk_norm": True, "tie_word_embeddings": False,
        "max_position_embeddings": 64, "dtype": "float32",
    }  # fmt: skip
    return ModelConfig(**{**facts, **changes})


def decoder(layers: int = 2, decode: bool = False, limits: Limits = LIMITS) -> Program:
    return build_decoder(config(layers), limits, "float32", decode=decode)


def mlp(max_tokens: int = 11) -> Program:
    p = Program("mlp")
    t = p.symbol("num_tokens", 1, max_tokens)
    x = p.input("x", (t, 16), "float32")
    h = p.call("linear", name="up", x=x, w=p.weight("w1", (32, 16), "float32"), activation="silu_mul")
    h = p.call("linear", name="mid", x=h, w=p.weight("w2", (16, 16), "float32"), residual=h)
    y = p.call("linear", name="down", x=h, w=p.weight("w3", (16, 16), "float32"))
    p.output(y, "y")
    return p


def heads_by_hand() -> Program:
    """An event a head, written by hand: `mix` of head h waits for the columns of head h alone."""
    p = Program("heads")
    t = p.symbol("num_tokens", 1, 7)
    x = p.input("x", (t, 8), "float32")
    done = p.event("done", (4,))
    last = p.event("last", (), needed=4)
    q = p.call(
        "test_columns", name="project", x=x, width=4, heads=4, parts=2,
        waits=lambda: [], notifies=lambda h, c: [done[h]],
    )  # fmt: skip
    y = p.call("test_heads", name="mix", x=q, heads=4, waits=lambda h: [done[h]], notifies=lambda h: [last[()]])
    z = p.call("test_heads", name="out", x=y, heads=1, waits=lambda h: [last[()]])
    p.output(z, "z")
    return p


# ----------------------------------------------------------------------------- operators that the library has no need of


def _columns_tile(call, target):  # type: ignore[no-untyped-def]
    rows, _ = call["y"].shape
    width, parts = call.attrs["width"], call.attrs["parts"]
    h, c = tiled("h", 1, call.attrs["heads"]), tiled("c", 1, parts)
    lo = h.var * (width * parts) + c.var * width
    return Tiling([h.axis, c.axis], {"x": (full(rows), full(call["x"].shape[1])), "y": (full(rows), Span(lo, lo + width))})


def _columns(t):  # type: ignore[no-untyped-def]
    t.y[...] = t.x.sum(1, keepdims=True) + t.coord["h"] * 10 + t.coord["c"]


def _heads_tile(call, target):  # type: ignore[no-untyped-def]
    rows, cols = call["x"].shape
    h = tiled("h", 1, call.attrs["heads"])
    n = int(str(cols)) // call.attrs["heads"]
    span = Span(h.var * n, h.var * n + n)
    return Tiling([h.axis], {"x": (full(rows), span), "y": (full(rows), span)})


def _route_tile(call, target):  # type: ignore[no-untyped-def]
    i = tiled("i", 1, call["x"].shape[0])
    return Tiling([i.axis], {"x": (i.span, full(call["x"].shape[1])), "topk": (i.span, full(call["topk"].shape[1]))})


def _route(t):  # type: ignore[no-untyped-def]
    t.topk[0] = np.argsort(-t.x[0, : t.attrs["experts"]], kind="stable")[: t.topk.shape[1]]


def _group_tile(call, target):  # type: ignore[no-untyped-def]
    u = tiled("u", 1, 1)
    return Tiling([u.axis], {k: tuple(full(e) for e in call[k].shape) for k in ("topk", "counts", "indptr", "perm")})


def _group(t):  # type: ignore[no-untyped-def]
    flat = t.topk.reshape(-1)
    t.counts[...] = np.bincount(flat, minlength=len(t.counts))
    t.indptr[...] = np.concatenate([[0], np.cumsum(t.counts)])
    t.perm[...] = np.argsort(flat, kind="stable")


def _prepare_tile(call, target):  # type: ignore[no-untyped-def]
    i = tiled("i", 1, call["x"].shape[0])
    cols = full(call["x"].shape[1])
    return Tiling([i.axis], {"x": (i.span, cols), "h": (i.span, cols)})


def _prepare(t):  # type: ignore[no-untyped-def]
    t.h[...] = t.x * 2 + 1


def _expert_tile(call, target):  # type: ignore[no-untyped-def]
    experts, cols = call["w"].shape
    k = call.attrs["k"]
    e, j = tiled("e", 1, experts), ("j", load(call["counts"].name, tiled("e", 1, experts).var))
    place = load(call["indptr"].name, e.var) + tiled("j", 1, 1).var
    entry = load(call["perm"].name, place)
    return Tiling(
        [e.axis, j],
        {
            "h": (Span.at(entry // k), full(cols)), "w": (e.span, full(cols)), "counts": (e.span,),
            "indptr": (e.span,), "perm": (Span.at(place),), "y": (Via(call["perm"].name, (), place, place + 1), full(cols)),
        },
    )  # fmt: skip


def _expert(t):  # type: ignore[no-untyped-def]
    t.y[...] = t.h * t.w


def _combine_tile(call, target):  # type: ignore[no-untyped-def]
    i = tiled("i", 1, call["out"].shape[0])
    k, cols = call.attrs["k"], full(call["out"].shape[1])
    return Tiling([i.axis], {"y": (Span(i.var * k, i.var * k + k), cols), "out": (i.span, cols)})


def _combine(t):  # type: ignore[no-untyped-def]
    t.out[...] = t.y.sum(0, keepdims=True)


def _same(key):  # type: ignore[no-untyped-def]
    return lambda call: [(call[key].shape, "float32")]


_OPS = [
    Op("test_columns", [Operand("x"), Operand("y", "write")],
       lambda c: [((c["x"].shape[0], wrap(c.attrs["width"] * c.attrs["heads"] * c.attrs["parts"])), "float32")],
       _columns_tile, ["h", "c"], [Attr("width", int), Attr("heads", int), Attr("parts", int)], reference_tile=_columns),
    Op("test_heads", [Operand("x"), Operand("y", "write")], _same("x"), _heads_tile, ["h"], [Attr("heads", int)],
       reference_tile=lambda t: t.y.__setitem__(..., t.x * 3 + t.coord["h"])),
    Op("test_route", [Operand("x"), Operand("topk", "write")], lambda c: [((c["x"].shape[0], wrap(2)), "int32")],
       _route_tile, ["i"], [Attr("experts", int)], reference_tile=_route),
    Op("test_group", [Operand("topk"), *(Operand(k, "write") for k in ("counts", "indptr", "perm"))],
       lambda c: [((wrap(4),), "int32")] * 3, _group_tile, ["u"], reference_tile=_group),
    Op("test_prepare", [Operand("x"), Operand("h", "write")], _same("x"), _prepare_tile, ["i"], reference_tile=_prepare),
    Op("test_expert", [*(Operand(k) for k in ("h", "w", "counts", "indptr", "perm")), Operand("y", "write")],
       lambda c: [((c["perm"].shape[0], c["h"].shape[1]), "float32")], _expert_tile, ["e", "j"], [Attr("k", int)],
       reference_tile=_expert),
    Op("test_combine", [Operand("y"), Operand("out", "write")],
       lambda c: [((c["y"].shape[0] // c.attrs["k"], c["y"].shape[1]), "float32")], _combine_tile, ["i"], [Attr("k", int)],
       reference_tile=_combine),
]  # fmt: skip
for _op in _OPS:
    if _op.name not in list_ops():
        register(_op)


def experts(num_experts: int = 4, k: int = 2, max_tokens: int = 5, routed_here: bool = True) -> Program:
    """Routing by data: an expert starts when its own tokens are prepared. With `routed_here` the step computes who goes
    where (topk, counts, indptr, perm); else the host gives these tables."""
    p = Program("experts")
    t = p.symbol("num_tokens", 1, max_tokens)
    width = 4
    x = p.input("x", (t, width), "float32")
    w = p.weight("w", (num_experts, width), "float32")
    tables = {
        "topk": ((t, wrap(k)), [Invariant("within", Sum(0), Sum(num_experts))]),
        "counts": ((num_experts,), [Invariant("histogram", of="topk")]),
        "indptr": ((num_experts + 1,), [Invariant("offsets", of="topk")]),
        "perm": ((t * k,), [Invariant("grouping", of="topk")]),
    }
    role = "scratch" if routed_here else "input"
    refs = {n: p.tensor(n, shape, "int32", role, inv) for n, (shape, inv) in tables.items()}
    topk, counts, perm, indptr = (refs[n] for n in ("topk", "counts", "perm", "indptr"))
    ready = p.event("ready", (num_experts,), needed=counts[cell_var(0)])
    done = p.event("done", (t,), needed=k)
    if routed_here:
        p.call("test_route", name="route", x=x, topk=topk, experts=num_experts)
        p.call("test_group", name="group", topk=topk, counts=counts, indptr=indptr, perm=perm)
    h = p.call("test_prepare", name="prepare", x=x, waits=lambda: [], notifies=lambda i: [ready[topk[i, :]]])
    y = p.call(
        "test_expert", name="expert", h=h, w=w, counts=counts, indptr=indptr, perm=perm, k=k,
        waits=lambda e: [ready[e]], notifies=lambda e, j: [done[perm[indptr[e] + j] // k]],
    )  # fmt: skip
    out = p.call("test_combine", name="combine", y=y, k=k, waits=lambda i: [done[i]])
    p.output(out, "out")
    return p


def plans(**options: Any) -> dict[str, Plan]:
    """A plan of every kind, small enough for brute force."""
    made = {
        "decoder-cpu": compile_plan(decoder(), SMALL_CPU, **options),
        "decoder-gpu": compile_plan(decoder(), SMALL_GPU, **options),
        "decode-gpu": compile_plan(decoder(1, decode=True), SMALL_GPU, **options),
        "mlp": compile_plan(mlp(), SMALL_CPU, **options),
        "mlp-per_op": compile_plan(mlp(), SMALL_GPU, "per_op", **options),
        "mlp-gpu": compile_plan(mlp(), SMALL_GPU, **options),
        "heads": compile_plan(heads_by_hand(), SMALL_CPU, **options),
        "heads-gpu": compile_plan(heads_by_hand(), SMALL_GPU, **options),
        "experts": compile_plan(experts(), SMALL_CPU, **options),
        "experts-given": compile_plan(experts(routed_here=False), SMALL_GPU, **options),
    }
    return made
