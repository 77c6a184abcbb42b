"""Which edges of a plan the data itself carries on a GPU, and which it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eventide import target
from eventide.backends.cuda.announce import MOST_WIDE, Announced, find_announced
from eventide.backends.cuda.codegen import Config, generate
from eventide.ir.nodes import Plan
from eventide.ops.program import Program
from eventide.ops.registry import get_op
from eventide.passes.pipeline import compile_plan
from eventide.target import TILES
from tests.backends.cuda.gpu import LIMITS, config, plan_of, plan_of_one


def _code(op: str) -> str:
    return (get_op(op).folder / "cuda.cuh").read_text()  # type: ignore[operator]


def announced(plan: Plan) -> Announced:
    return find_announced(plan, _code)


def carried_by(plan: Plan, grid: str) -> set[str]:
    return {event for name, event in announced(plan).carried if name == grid}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of_one(config())


def test_a_decode_step_needs_counters_at_its_ends_only(plan: Plan) -> None:
    found = announced(plan)
    for layer in ("layers.0", "layers.1"):
        for grid, event in (("attn", "qkv"), ("merge", "attn"), ("o", "merge"), ("gate_up", "o"), ("down", "gate_up")):
            assert (f"{layer}.{grid}", f"e.{layer}.{event}") in found.carried
        assert {f"{layer}.{t}" for t in ("qkv", "merge", "x1", "act", "attn.part", "attn.stats")} <= found.tensors
    # the head reads rows that a table names, so that the last layer's result would announce itself to nobody
    assert "layers.0.x2" in found.tensors and "layers.1.x2" not in found.tensors
    left = {(g.name, e.event) for g in plan.grids for e in g.waits} - found.carried
    assert {grid for grid, _ in left} == {"head", "stats", "sample"}


def test_the_generated_code_follows(plan: Plan) -> None:
    text = generate(plan, Config(slots=8)).text
    assert "polled = true" in text and "WAITS = false" in text
    plain = generate(plan, Config(slots=8, announce=0)).text
    assert "polled = true" not in plain and "WAITS = false" not in plain.replace("bool WAITS = false, NOTIFIES = true", "")


def test_an_edge_that_was_removed_is_not_made_up_for(plan: Plan) -> None:
    grids = tuple(replace(g, waits=()) if g.name == "layers.1.down" else g for g in plan.grids)
    cut = replace(plan, grids=grids)
    assert not carried_by(cut, "layers.1.down") and carried_by(cut, "layers.0.down")
    source = generate(cut, Config(slots=8)).text
    part = source[source.index(": layers.1.down") :]
    assert "x_t { const bf16* data; int dim0; static constexpr int dim1 = 512; static constexpr int layout = PLAIN; " in part
    assert "polled = true" not in part[: part.index("typedef")]


def test_an_edge_that_orders_more_than_its_data_is_kept() -> None:
    """Two linears of one input, whose readers wait for both: what the data of one says is less than the edge does."""
    p = Program("both")
    n = p.symbol("num_tokens", 1, 1)
    x = p.input("x", (n, 64), "bfloat16")
    a = p.call("linear", name="a", x=x, w=p.weight("wa", (64, 64), "bfloat16"))
    b = p.call("linear", name="b", x=a, w=p.weight("wb", (64, 64), "bfloat16"))
    p.output(p.call("linear", name="c", x=b, w=p.weight("wc", (64, 64), "bfloat16")), "y")
    plan = compile_plan(p, target.h200(tile_tokens=1))
    assert carried_by(plan, "b") == {"e.a"} and carried_by(plan, "c") == {"e.b"}
    # the same plan, where c's cell waits for a as well: b's data says nothing of a
    grids = tuple(
        replace(g, notifies=(*g.notifies, *plan.grid("b").notifies)) if g.name == "a" else g for g in plan.grids
    )
    assert carried_by(replace(plan, grids=grids), "c") == set()


def test_a_producer_with_other_results_keeps_its_counter(plan: Plan) -> None:
    """The key cache that attention appends to is its own; if another grid read it in the same step, the edge would stay."""
    attention = plan.grid("layers.0.attn")
    cache = next(a for a in attention.accesses if a.operand == "k_new")
    more = replace(cache, operand="residual")
    grids = tuple(replace(g, accesses=(*g.accesses, more)) if g.name == "layers.0.o" else g for g in plan.grids)
    assert carried_by(replace(plan, grids=grids), "layers.0.merge") == set()
    assert carried_by(plan, "layers.0.merge") == {"e.layers.0.attn"}


def test_data_that_is_not_announced_needs_a_chain_of_counters(plan: Plan) -> None:
    """The first layer's residual comes from the embedding; if that didn't announce itself, the task that adds it would start
    before it is known to be there."""
    silent = find_announced(plan, lambda op: _code(op).replace("ANNOUNCES = true", "") if op == "embed" else _code(op))
    assert silent == Announced()


@pytest.mark.parametrize("decode", [True, False])
def test_wide_products_announce_to_attention_alone(decode: bool) -> None:
    """Their own input is tiles, which can't be asked for; and what carries no edge isn't filled for nothing."""
    c = config(num_layers=2, hidden_size=1024, intermediate_size=3072, num_heads=16, num_kv_heads=8, head_dim=128)
    plan = plan_of(c, replace(LIMITS, max_tokens=64, max_rows=64), decode=decode, tile=64, splits=4)
    found = find_announced(plan, _code, MOST_WIDE)
    assert not {n for n in found.tensors if plan.tensors[n].layout == TILES}
    assert (("layers.1.attn", "e.layers.1.qkv") in found.carried) == decode
    if not decode:
        assert found.tensors == {"embed"} and found.carried == {("norm0", "e.embed")}


def test_large_activations_use_counters() -> None:
    found = announced(plan_of(config(hidden_size=256, intermediate_size=2 << 20), verify=False))
    assert "layers.0.act" not in found.tensors and "layers.0.x1" in found.tensors
