"""fuse, tile, coarsen, memory: before and after, on the smallest programs that show them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventide.errors import ProgramError, UsageError
from eventide.ir.expr import bounds, product, wrap
from eventide.ir.nodes import Invariant, Plan
from eventide.ir.ordering import Ordering
from eventide.ops.program import Program, TensorRef
from eventide.passes.coarsen import coarsen
from eventide.passes.events import infer_events
from eventide.passes.fuse import fuse
from eventide.passes.memory import ALIGN, place
from eventide.passes.pipeline import PASSES, check_pass_name, compile_plan
from eventide.passes.sampling import sample_symbols, sample_views
from eventide.passes.tile import tile
from eventide.passes.verify import verify
from tests.programs import LIMITS, SMALL_CPU, SMALL_GPU, decoder, experts, mlp


def layer() -> Program:
    p = Program("layer")
    t = p.symbol("num_tokens", 1, 9)
    x = p.input("x", (t, 16), "float32")
    h = p.call("rms_norm", name="norm", x=x, w=p.weight("g", (16,), "float32"), eps=1e-6)
    u = p.call("linear", name="gate_up", x=h, w=p.weight("w1", (32, 16), "float32"))
    m = p.call("silu_mul", name="act", x=u)
    d = p.call("linear", name="down", x=m, w=p.weight("w2", (16, 16), "float32"))
    p.output(p.call("add", name="sum", a=x, b=d), "y")
    return p


def test_fuse() -> None:
    """norm, gate_up, act, down, sum  →  gate_up = linear(norm_weight, silu_mul), down = linear(residual)."""
    fused = fuse(layer())
    assert [(c.name, c.op) for c in fused.calls] == [("gate_up", "linear"), ("down", "linear")]
    act, total = fused.calls
    assert act.operands["norm_weight"] == "g" and act.attrs["activation"] == "silu_mul" and act.attrs["eps"] == 1e-6
    assert total.operands["residual"] == "x" and total.operands["y"] == "y"
    assert set(fused.tensors) == {"x", "g", "w1", "act", "w2", "y"}


def test_fuse_leaves_a_norm_that_is_an_output() -> None:
    p = Program("p")
    x = p.input("x", (4, 8), "float32")
    p.output(p.call("rms_norm", name="norm", x=x, w=p.weight("g", (8,), "float32"), eps=1e-6), "y")
    assert [c.name for c in fuse(p).calls] == ["norm"]


def test_fuse_leaves_what_others_read() -> None:
    p = layer()
    extra = p.call("silu_mul", name="again", x=ref(p, "gate_up"))
    p.output(extra, "z")
    assert [c.name for c in fuse(p).calls] == ["gate_up", "act", "down", "again"]


@pytest.mark.parametrize(("of_product", "of_sum", "order", "fused"), [
    (True, True, "ab", True), (True, True, "ba", False), (True, False, "ab", False), (False, True, "ab", False),
])  # fmt: skip
def test_fuse_takes_the_residual_by_the_products_rows(of_product: bool, of_sum: bool, order: str, fused: bool) -> None:
    p = Program("p")
    t = p.symbol("num_tokens", 1, 9)
    # as many rows as tokens, so that sizes fit whoever takes rows
    rows = p.input("rows", (t,), "int32", [Invariant("within", wrap(0), wrap(t))])
    x, h = p.input("x", (t, 16), "float32"), p.input("h", (t, 8), "float32")
    d = p.call("linear", name="down", x=h, w=p.weight("w", (16, 8), "float32"), rows=rows if of_product else None)
    p.output(p.call("add", name="sum", **dict(zip(order, (x, d))), rows=rows if of_sum else None), "y")
    calls = fuse(p).calls
    assert len(calls) == (1 if fused else 2)
    if fused:
        assert calls[0].operands == {"x": "h", "w": "w", "rows": "rows", "residual": "x", "y": "y"}


def test_the_last_layer_computes_what_has_logits() -> None:
    """Attention's keys and values need every token, what comes after them only those that are asked for."""
    plan = compile_plan(decoder(2), SMALL_CPU)
    tokens = {t.name: str(t.shape[0]) for t in plan.tensors.values() if t.role == "scratch"}
    assert tokens["layers.0.x2"] == tokens["layers.1.attn"] == "num_tokens"
    assert tokens["layers.1.x1"] == tokens["layers.1.act"] == tokens["layers.1.x2"] == "num_rows"


def ref(p: Program, name: str) -> TensorRef:
    return TensorRef(p.tensors[name])


def test_tile() -> None:
    plan = tile(fuse(layer()), SMALL_CPU)
    text = str(plan)
    assert "gate_up = linear[m < (num_tokens + 3) // 4, n < 4]" in text
    assert "reads    w = w1[8*n : 8*n + 8, 0 : 16]" in text
    assert "writes   y = act[4*m : min(4*m + 4, num_tokens), 4*n : 4*n + 4]" in text
    assert not plan.events and plan.schedule is None


def test_tile_refuses_an_axis_named_as_a_symbol() -> None:
    p = Program("p")
    m = p.symbol("m", 1, 9)
    p.call("linear", name="a", x=p.input("x", (m, 8), "float32"), w=p.weight("w", (8, 8), "float32"))
    with pytest.raises(ProgramError, match="axis 'm' of operator 'linear' has the name of a symbol"):
        tile(p, SMALL_CPU)


def test_coarsen() -> None:
    """e.up[m, n] needed 1, waited for by whole rows  →  e.up[m] needed 4."""
    before = infer_events(tile(mlp(), SMALL_CPU))
    after = coarsen(before)
    assert [len(g.waits) for g in before.grids] == [0, 2, 1]
    assert [len(g.waits) for g in after.grids] == [0, 1, 1]
    assert [str(e.needed) for e in after.events.values()] == ["4", "2"]
    assert [len(e.shape) for e in after.events.values()] == [1, 1]


def test_coarsen_merges_tiles() -> None:
    """Heads of 4 columns, tiles of 2: what a head waits for begins and ends at every second tile, so two share a cell."""
    before = infer_events(tile(fuse(decoder(1)), replace(SMALL_CPU, tile_rows=2)))
    after = coarsen(before)
    was, now = (p.events["e.layers.0.qkv"] for p in (before, after))
    assert (str(was.shape[1]), str(was.needed)) == ("16", "1")
    assert (str(now.shape[1]), str(now.needed)) == ("8", "2")
    assert [str(e.cells[1].lo) for e in after.grid("layers.0.rope").waits] == ["2*h", "h + 4", "h + 6"]
    assert [str(e.cells[1].lo) for e in after.grid("layers.0.qkv").notifies] == ["n // 2"]


@pytest.mark.parametrize("target", [SMALL_CPU, SMALL_GPU], ids=lambda t: t.kind)
@pytest.mark.parametrize("program", [mlp, layer, decoder, experts])
def test_coarsening_loses_no_order(program, target) -> None:  # type: ignore[no-untyped-def]
    """Whatever was ordered before is ordered after."""
    before = infer_events(tile(fuse(program()), target))
    after = coarsen(before)
    for old, new in zip(sample_views(before), sample_views(after)):
        a, b = Ordering(old), Ordering(new)
        for g in before.grids:
            for h in before.grids:
                was = a.order_matrix(g.name, h.name)[a.classes[g.name].ids][:, a.classes[h.name].ids]
                now = b.order_matrix(g.name, h.name)[b.classes[g.name].ids][:, b.classes[h.name].ids]
                assert (was <= now).all(), f"{g.name} before {h.name}"


def sizes(plan: Plan) -> dict[str, int]:
    return {n: bounds(product(plan.tensors[n].shape), plan.symbols)[1] * 4 for n in plan.offsets}


def test_memory_is_shared() -> None:
    """Deep models reuse the bytes of early layers; nothing leaves the arena."""
    shallow, deep = (place(coarsen(infer_events(tile(fuse(decoder(n)), SMALL_CPU)))) for n in (2, 8))
    for plan in (shallow, deep):
        assert all(plan.offsets[n] + size <= plan.arena_bytes for n, size in sizes(plan).items())
        assert all(o % ALIGN == 0 for o in plan.offsets.values())
    assert deep.arena_bytes < 1.3 * shallow.arena_bytes < sum(sizes(deep).values())


def test_tables_that_maps_look_up_share_with_nobody() -> None:
    plan = compile_plan(experts(), SMALL_CPU)
    placed = {n: (plan.offsets[n], plan.offsets[n] + s) for n, s in sizes(plan).items()}
    for table in ("topk", "counts", "indptr", "perm"):
        lo, hi = placed[table]
        assert all(b <= lo or hi <= a for n, (a, b) in placed.items() if n != table)


def test_every_pass_is_observed_in_order() -> None:
    seen: list[str] = []
    compile_plan(layer(), SMALL_CPU, observe=lambda r: seen.append(r.name))
    assert tuple(seen) == PASSES
    assert check_pass_name("tile") == "tile"
    with pytest.raises(UsageError, match="unknown pass 'tiles'; the passes are: fuse, tile"):
        check_pass_name("tiles")


def test_sample_steps_keep_what_the_plan_requires() -> None:
    plan = compile_plan(decoder(1), SMALL_CPU, verify=False)
    steps = list(sample_symbols(plan))
    assert len(steps) > 3
    for s in steps:
        assert 0 <= s["num_samples"] <= s["num_rows"] <= s["num_tokens"] <= LIMITS.max_tokens
    assert verify(plan).proven
