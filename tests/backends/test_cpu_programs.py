"""Programs on the CPU workers: random ones, events by hand, routing by tables that the step computes, toy operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from eventide import Program
from eventide.backends.base import shape_of
from eventide.backends.cpu import CpuKernel
from eventide.backends.cpu_tiles import CpuTiles
from eventide.backends.interp import Interpreter
from eventide.backends.policies import Adversarial, Random
from eventide.errors import MissingDependencyError, PlanError, ProgramError, StuckError
from eventide.ir.expr import Sum
from eventide.ir.nodes import Invariant, Plan, cell_var
from eventide.ops import Op, Operand, get_op, register
from eventide.passes.pipeline import compile_plan
from eventide.target import cpu

from . import toys
from .decoders import same_bits

ATTRS = {"factor": 2.0}


@dataclass(frozen=True)
class Step:
    symbols: dict[str, int]
    inputs: dict[str, np.ndarray]


def random_inputs(plan: Plan, symbols: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        t.name: rng.standard_normal(shape_of(t, symbols)).astype(np.float32)
        for t in plan.tensors.values()
        if t.role == "input"
    }


def random_weights(plan: Plan) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    weights = [t for t in plan.tensors.values() if t.role == "weight"]
    return {t.name: rng.standard_normal(shape_of(t, {})).astype(np.float32) * 0.2 for t in weights}


def against_interpreter(plan: Plan, steps: list[Step], seeds: int = 3, **options: Any) -> list[dict[str, np.ndarray]]:
    weights = random_weights(plan)
    kernel = CpuKernel(plan, **{"poison": True, "check_counts": True, **options})
    for name, array in weights.items():
        kernel.bind_weights(name, array)
    real = kernel.run(steps)
    tiles = CpuTiles(kernel)
    interp = Interpreter(plan, weights, tile_fn=tiles)
    plain = Interpreter(plan, weights)
    tiles.arrays = interp.arrays
    for seed in range(seeds):
        for mine, step in zip(real, steps, strict=True):
            same_bits(mine, interp.run(step.symbols, step.inputs, Adversarial(seed) if seed % 2 else Random(seed)))
            for name, array in plain.run(step.symbols, step.inputs, Random(seed)).items():
                np.testing.assert_allclose(mine[name], array, rtol=2e-4, atol=2e-4)
    return real


def random_program(seed: int) -> Program:
    """A few operators that read whatever came before, several readers of one tensor among them."""
    rng = np.random.default_rng(seed)
    p = Program(f"random{seed}")
    t = p.symbol("num_tokens", 1, 300)
    made: dict[int, list[Any]] = {}

    def add(ref: Any, width: int) -> None:
        made.setdefault(width, []).append(ref)

    for width in (16, 40):
        add(p.input(f"x{width}", (t, width), "float32"), width)
    for i in range(int(rng.integers(3, 9))):
        width = int(rng.choice(list(made)))
        x = made[width][rng.integers(len(made[width]))]
        kind = rng.choice(["add", "linear", "rms_norm", "silu_mul", "scale"])
        if kind == "linear":
            out = int(rng.choice([16, 40, 72]))
            add(p.call("linear", name=f"c{i}", x=x, w=p.weight(f"w{i}", (out, width), "float32")), out)
        elif kind == "rms_norm":
            add(p.call("rms_norm", name=f"c{i}", x=x, w=p.weight(f"w{i}", (width,), "float32"), eps=1e-5), width)
        elif kind == "silu_mul":
            add(p.call("silu_mul", name=f"c{i}", x=x), width // 2)
        elif kind == "scale":
            add(
                p.call(
                    "scale", name=f"c{i}", x=x, factor=0.5, mode=str(rng.choice(["times", "plus"])), twice=bool(i % 2)
                ),
                width,
            )
        else:
            add(p.call("add", name=f"c{i}", a=x, b=made[width][rng.integers(len(made[width]))]), width)
    last = [refs[-1] for refs in made.values() if refs[-1].tensor.role == "scratch"]
    for i, ref in enumerate(last):
        p.output(ref, f"y{i}")
    return p


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@pytest.mark.parametrize("seed", range(8))
def test_random_programs(seed: int) -> None:
    program = random_program(seed)
    for schedule, workers in (("static", 3), ("per_op", 2)):
        plan = compile_plan(program, cpu(workers), schedule)
        steps = [Step({"num_tokens": n}, random_inputs(plan, {"num_tokens": n}, n)) for n in (1, 131, 7)]
        against_interpreter(plan, steps, seeds=2, delay_ns=10_000)


def test_events_by_hand() -> None:
    p = Program("hand")
    t = p.symbol("num_tokens", 1, 40)
    x = p.input("x", (t, 8), "float32")
    done = p.event("done", ((t + 7) // 8,))
    free = p.event("free", (), needed=(t + 3) // 4)
    y = p.call("scale", name="first", x=x, notifies=lambda m: [done[m // 2], free[()]], **ATTRS)
    z = p.call("scale", name="second", x=y, waits=lambda m: [done[m // 2 : m // 2 + 1], free[()]], mode="plus", **ATTRS)
    p.output(z, "z")
    plan = compile_plan(p, cpu(2))
    steps = [Step({"num_tokens": n}, random_inputs(plan, {"num_tokens": n}, n)) for n in (40, 3, 17, 1)]
    for out, step in zip(against_interpreter(plan, steps), steps, strict=True):
        np.testing.assert_array_equal(out["z"], step.inputs["x"] * 2 + 2)


def routed() -> Program:
    p = Program("routed")
    t = p.symbol("num_tokens", 1, 50)
    x = p.input("x", (t, 8), "float32")
    expert = p.input("expert", (t,), "int32", [Invariant("within", Sum(0), Sum(6))])
    counts, indptr, order = p.call("tally", name="tally", expert=expert, num_experts=6)
    y = p.call(
        "pick", name="pick", x=p.call("scale", name="before", x=x, **ATTRS), counts=counts, indptr=indptr, order=order
    )
    p.output(p.call("scale", name="after", x=y, **ATTRS), "z")
    return p


@pytest.mark.parametrize("schedule", ["static", "per_op"])
def test_grids_over_tables_that_the_step_computes(schedule: str) -> None:
    plan = compile_plan(routed(), cpu(3), schedule, verify=False)
    assert any(g.enter for g in plan.grids)
    rng = np.random.default_rng(0)
    steps = []
    for n in (1, 50, 13, 28):
        inputs = {"x": rng.standard_normal((n, 8)).astype(np.float32), "expert": rng.integers(0, 6, n).astype(np.int32)}
        steps.append(Step({"num_tokens": n}, inputs))
    for out, step in zip(against_interpreter(plan, steps, delay_ns=10_000), steps, strict=True):
        np.testing.assert_allclose(out["z"], step.inputs["x"] * (step.inputs["expert"][:, None] + 1) * 4, rtol=1e-6)


def looked_up() -> Program:
    """Tokens notify the cells of the experts that a table of the host gives them; experts wait for their own count.
    The counts promise nothing, so that tests can break them; the verifier would ask for a promise."""
    p = Program("lookup")
    t = p.symbol("num_tiles", 1, 9)
    x = p.input("x", (t * 4, 8), "float32")
    topk = p.input("topk", (t, 2), "int32", [Invariant("within", Sum(0), Sum(3))])
    counts = p.input("counts", (3,), "int32")
    ready = p.event("ready", (3,), needed=counts[cell_var(0)])
    y = p.call("scale", name="tokens", x=x, notifies=lambda m: [ready[topk[m, :]]], **ATTRS)
    z = p.call("scale", name="experts", x=y, waits=lambda m: [ready[0:3]], **ATTRS)
    p.output(z, "z")
    return p


def lookup_step(tiles: int, seed: int, off: int = 0) -> Step:
    rng = np.random.default_rng(seed)
    topk = np.stack([rng.permutation(3)[:2] for _ in range(tiles)]).astype(np.int32)
    inputs = {
        "x": rng.standard_normal((tiles * 4, 8)).astype(np.float32),
        "topk": topk,
        "counts": (np.bincount(topk.reshape(-1), minlength=3) + off).astype(np.int32),
    }
    return Step({"num_tiles": tiles}, inputs)


def test_edges_and_counts_from_tables_of_the_host() -> None:
    plan = compile_plan(looked_up(), cpu(3), verify=False)
    against_interpreter(plan, [lookup_step(n, n) for n in (9, 1, 4, 6)])


def test_a_stuck_step_is_reported_and_the_kernel_recovers() -> None:
    plan = compile_plan(looked_up(), cpu(2), verify=False)
    kernel = CpuKernel(plan)
    good = lookup_step(5, 1)
    expected = kernel.run([good])[0]["z"]
    with pytest.raises(StuckError, match=r"waits for event 'ready', cell \d, which has \d+ notifications"):
        kernel.run([good, lookup_step(5, 2, off=1)])
    assert kernel.steps_done == 1
    for _ in range(3):
        np.testing.assert_array_equal(kernel.run([good])[0]["z"], expected)


def test_a_broken_table_is_worded_by_its_declaration() -> None:
    kernel = CpuKernel(compile_plan(looked_up(), cpu(2), verify=False))
    step = lookup_step(5, 1)
    step.inputs["topk"][3, 1] = 3
    with pytest.raises(ProgramError, match=r"table 'topk' breaks its invariant 'within': value 3 is outside \[0, 3\)"):
        kernel.run([step])
    kernel.run([lookup_step(5, 1)])


def test_counts_are_checked_on_request() -> None:
    kernel = CpuKernel(compile_plan(looked_up(), cpu(2), verify=False), check_counts=True)
    with pytest.raises(PlanError, match=r"event 'ready', cell 0: \d+ notifications came where \d+ are needed"):
        kernel.run([lookup_step(5, 2, off=-1)])


def test_records_of_every_task() -> None:
    plan = compile_plan(looked_up(), cpu(2), verify=False)
    kernel = CpuKernel(plan)
    kernel.run([lookup_step(9, 1), lookup_step(4, 2)], profile=True)
    r = kernel.records
    seen = {(int(x["step"]), plan.grids[x["grid"]].name, int(x["task"])) for x in r}
    assert len(r) == len(seen) == 2 * 9 + 2 * 4
    assert seen == {(k, g, i) for k, n in ((0, 9), (1, 4)) for g in ("tokens", "experts") for i in range(n)}
    assert (r["free"] <= r["start"]).all() and (r["start"] <= r["end"]).all()
    for w in (0, 1):
        mine = r[r["worker"] == w]
        assert (mine["start"][1:] >= mine["end"][:-1]).all()
    kernel.run([lookup_step(3, 1)])
    assert len(kernel.records) == len(r)  # only asked for is recorded


def two_products() -> tuple[Program, dict[str, np.ndarray]]:
    p = Program("long")
    t = p.symbol("num_tokens", 1, 64)
    h = p.call("linear", name="up", x=p.input("x", (t, 32), "float32"), w=p.weight("w1", (2048, 32), "float32"))
    p.output(p.call("linear", name="down", x=h, w=p.weight("w2", (64, 2048), "float32")), "y")
    rng = np.random.default_rng(0)
    return p, {w: rng.standard_normal(shape).astype(np.float32) for w, shape in (("w1", (2048, 32)), ("w2", (64, 2048)))}


def products_step(tokens: int, seed: int) -> Step:
    x = np.random.default_rng(seed).standard_normal((tokens, 32)).astype(np.float32)
    return Step({"num_tokens": tokens}, {"x": x})


def bound(plan: Plan, weights: dict[str, np.ndarray], **options: Any) -> CpuKernel:
    kernel = CpuKernel(plan, **options)
    for name, w in weights.items():
        kernel.bind_weights(name, w)
    return kernel


@pytest.mark.parametrize("schedule", ["static", "per_op"])
def test_workers_take_over_what_a_late_one_has_left(schedule: str) -> None:
    p, weights = two_products()
    step = products_step(5, 1)
    [expected] = bound(compile_plan(p, cpu(1)), weights).run([step])
    late = bound(compile_plan(p, cpu(3), schedule=schedule), weights, delay_ns=300_000, check_counts=True)
    taken = 0
    for _ in range(5):
        [found] = late.run([step], profile=True)
        same_bits(found, expected)
        up = late.records[late.records["grid"] == 0]
        assert sorted(up["task"]) == list(range(64))  # panels, each by one worker; the schedule gives 22, 21 and 21 of them
        taken += int((up["worker"] != np.digitize(up["task"], [22, 43])).sum())
    assert taken > 0


@pytest.mark.parametrize("schedule", ["static", "per_op"])
@pytest.mark.parametrize("long_task_us", [0.0, 4.0, 1e6])
def test_steps_are_replayed_or_shared(long_task_us: float, schedule: str) -> None:
    """Shared always, as it comes, and replayed always: symbols stay for some steps, change, and come back."""
    p, weights = two_products()
    alone = bound(compile_plan(p, cpu(1)), weights)
    kernel = bound(compile_plan(p, cpu(3), schedule=schedule), weights, long_task_us=long_task_us, check_counts=True)
    for launch, tokens in enumerate((5, 5, 9, 5, 9, 9)):
        steps = [products_step(tokens, 10 * launch + k) for k in range(4)]
        for found, step in zip(kernel.run(steps), steps):
            same_bits(found, alone.run([step])[0])


# ------------------------------------------------------------------------------------------- operators from outside


def scaled(op: str) -> Plan:
    p = Program("toy")
    t = p.symbol("num_tokens", 1, 9)
    p.output(p.call(op, name="y", x=p.input("x", (t, 3), "float32"), factor=3.0), "z")
    return compile_plan(p, cpu(1))


def test_an_operator_is_compiled_once_and_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_CACHE_DIR", str(tmp_path))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(2):
        kernel = CpuKernel(scaled("scale"), isa="portable")
        np.testing.assert_array_equal(kernel.run([Step({"num_tokens": 2}, {"x": x})])[0]["z"], 3 * x)
        monkeypatch.setenv("PATH", "")  # the second time no compiler is needed but to know its version
        monkeypatch.setenv("CXX", "/usr/bin/c++")
    assert len(list((tmp_path / "cpu").glob("scale-portable-*.so"))) == 1


def test_no_compiler_is_one_sentence(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependencyError, match="a C\\+\\+ compiler is needed"):
        CpuKernel(scaled("scale"))


def test_code_that_does_not_compile(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_CACHE_DIR", str(tmp_path))
    with pytest.raises(ProgramError, match=r"the CPU code of operator 'broken' does not compile: .*error"):
        CpuKernel(scaled("broken"))


@pytest.fixture
def codeless() -> Iterator[Op]:
    from eventide.ops import registry

    op = register(
        Op("codeless", [Operand("x"), Operand("y", "write")], toys.SCALE.outputs_of, toys.SCALE.tile, ["m"],
           attrs=toys.SCALE.attrs, tile_attrs=["tile_m"])
    )  # fmt: skip
    yield op
    registry._registered.pop(op.name)


def test_an_operator_without_code(codeless: Op) -> None:
    assert get_op("codeless") is codeless
    with pytest.raises(ProgramError, match=r"operator 'codeless' has no CPU code: there is no cpu\.h"):
        CpuKernel(scaled("codeless"))


def test_an_operand_that_only_gpus_take() -> None:
    p = Program("halved")
    t = p.symbol("num_tokens", 1, 8)
    x, w = p.input("x", (t, 64), "float32"), p.weight("w", (64, 64), "float32")
    p.output(p.call("linear", name="y", x=x, w=w, squares=p.input("squares", (4, t), "float32"), eps=1e-6), "out")
    with pytest.raises(PlanError, match="grid 'y': the CPU's code of 'linear' takes no operand 'squares', only GPUs' code does"):
        CpuKernel(compile_plan(p, cpu(1)))
