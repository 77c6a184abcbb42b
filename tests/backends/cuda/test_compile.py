"""What is generated compiles for sm_90a, within registers and shared memory; no GPU is needed.

Every compilation takes seconds of one core: each is made once, several at a time, and kept for the session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventide import target
from eventide.backends.cuda import nvrtc
from eventide.backends.cuda.codegen import DEVICE, Config, Source, generate, stages
from eventide.backends.cuda.fit import (
    IN_FLIGHT,
    SHARED_LIMIT,
    UnfitPlanError,
    compile_plan_source,
    divisions,
)
from eventide.backends.cuda.nvrtc import Binary, compile_source
from eventide.engine.sizes import Size, direct, slabs
from eventide.errors import DeviceError, EventideError, MissingDependencyError
from eventide.ir.expr import Var
from eventide.ir.nodes import Plan
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.ops.program import Program
from eventide.ops.registry import list_ops
from eventide.passes.events import infer_events
from eventide.passes.memory import place
from eventide.passes.pipeline import compile_plan
from eventide.passes.tile import tile
from eventide.schedule import schedule
from tests.backends.cuda.gpu import LIMITS, SHAPES, config, plan_of, plan_of_one

pytest.importorskip("cuda.bindings.nvrtc", reason="compiling for a GPU needs cuda-bindings; install the extra 'cuda'")
GOLDEN = Path(__file__).parent / "golden" / "tiny_decoder.cu"
REGISTERS = 168  # 65,536 of a multiprocessor over 384 threads, in steps of 8

_QWEN3 = {"rope_theta": 1e6, "vocab_size": 151936, "head_dim": 128, "num_kv_heads": 8, "max_position_embeddings": 40960}
_LLAMA = {**_QWEN3, "rope_theta": 5e5, "vocab_size": 128256, "head_dim": 64, "qk_norm": False}
MODELS: dict[str, ModelConfig] = {
    "Qwen3-0.6B": config(**_QWEN3, hidden_size=1024, intermediate_size=3072, num_layers=28, num_heads=16),
    "Llama-3.2-1B": config(**_LLAMA, hidden_size=2048, intermediate_size=8192, num_layers=16, num_heads=32),
    "Qwen3-8B": config(
        **_QWEN3, hidden_size=4096, intermediate_size=12288, num_layers=36, num_heads=32, tie_word_embeddings=False
    ),
}
BIG = Limits(max_tokens=8, max_rows=8, max_seqs=8, max_seq_len=4096, page_size=64)


def whole(name: str, entry: str) -> Plan:
    if entry == "mixed":
        return compile_plan(build_decoder(MODELS[name], BIG, "bfloat16"), target.h200(), verify=False)
    one, schedule = replace(BIG, max_tokens=1, max_rows=1), "per_op" if entry == "per_op" else "static"
    program = build_decoder(MODELS[name], one, "bfloat16", decode=True)
    return compile_plan(program, target.h200(tile_tokens=1), schedule, verify=False)


def many(name: str, tokens: int, tight: bool, decode: bool = False) -> Plan:
    """Steps of up to `tokens` tokens, as the engine's kernels for batches; `decode`: of one token each of as many sequences."""
    limits = replace(BIG, max_tokens=tokens, max_rows=tokens, max_seqs=tokens)
    splits = slabs(MODELS[name], tokens)
    program = build_decoder(MODELS[name], limits, "bfloat16", decode=decode, splits=splits)
    size = Size(tokens, tokens, decode=decode, splits=splits, direct=decode and direct(MODELS[name], tokens))
    made_for = size.target_of(target.h200(tight=tight))
    return compile_plan(program, made_for, verify=False)


def unsampled(plan: Plan) -> Plan:
    """The plan without the operator that draws. It takes as long to compile as all others of a kernel together, and knows of
    a model no more than its vocabulary's size."""
    assert plan.schedule is not None
    grids = tuple(g for g in plan.grids if g.op != "sample")
    segments = tuple(s for s in plan.schedule.segments if s.grid != "sample")
    return replace(plan, grids=grids, schedule=replace(plan.schedule, segments=segments))


# the longest first; the smallest model's kernel of mixed steps is the largest's but for the numbers
PLANS: dict[str, Any] = {f"Qwen3-8B {tokens} tokens": (many, "Qwen3-8B", tokens, True) for tokens in (64, 16)}
PLANS["Qwen3-0.6B 16 sequences"] = (many, "Qwen3-0.6B", 16, True, True)
PLANS |= {f"{name} decode": (whole, name, "decode") for name in MODELS}
PLANS |= {f"{name} mixed": (whole, name, "mixed") for name in ("Llama-3.2-1B", "Qwen3-8B")}
PLANS |= {f"{name} per_op": (whole, name, "per_op") for name in ("Llama-3.2-1B", "Qwen3-8B")}
PLANS["qwen2 mixed per_op"] = (partial(plan_of, schedule="per_op"), config(**SHAPES["qwen2"]))
PLANS["qwen2 one"] = (plan_of_one, config(**SHAPES["qwen2"]))
PLANS["long one"] = (plan_of_one, config(**SHAPES["long"]))
PLANS["qwen2 mixed"] = (plan_of, config(**SHAPES["qwen2"]))
PLANS["qwen2 mixed, 16 tokens"] = (plan_of, config(**SHAPES["qwen2"]), replace(LIMITS, max_tokens=16))
# beside the others' operators the draw stands in kernels of each kind for the largest model, and in one of an odd vocabulary;
# for every vocabulary in a kernel of its own (per_op)
UNSAMPLED = {"Qwen3-8B 16 tokens", "Qwen3-0.6B 16 sequences", "Qwen3-0.6B decode", "Llama-3.2-1B decode"}
UNSAMPLED |= {"Llama-3.2-1B mixed", "long one", "qwen2 mixed", "qwen2 mixed, 16 tokens"}


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[str, Future[tuple[Source, Binary]]]]:
    """All compilations, under way; NVRTC gives up the interpreter's lock."""

    def make(name: str) -> tuple[Source, Binary]:
        fn, *args = PLANS[name]
        plan = fn(*args)
        return compile_plan_source(unsampled(plan) if name in UNSAMPLED else plan)

    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
        yield {name: pool.submit(make, name) for name in PLANS}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVENTIDE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_whole_models_fit(name: str, compiled: dict[str, Future[tuple[Source, Binary]]]) -> None:
    source, binary = compiled[name].result()
    used = binary.resources
    assert binary.cubin[:4] == b"\x7fELF"
    found = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", binary.log, re.S)
    assert len(found) == (len(source.threads) if source.config.per_op else 1)
    for kernel, registers in found:
        # one kernel an operator: 256 threads, and a warp that loads where operands stream
        threads = source.threads[int(kernel.split("_")[1])] if source.config.per_op else 0
        assert 0 < int(registers) <= (65536 // threads // 8 * 8 if threads else REGISTERS), kernel
    assert used["shared_bytes"] > 0 and source.config.shared_bytes + used["shared_bytes"] <= SHARED_LIMIT
    if PLANS[name][0] is many:  # state of a worker that lives across the loops over k may spill, and no product waits for another
        assert used["spill_bytes"] <= 256 and "wgmma" not in binary.log, f"{name} spills {used}: {binary.log}"
    else:
        assert used["spill_bytes"] == 0 and used["stack_bytes"] == 0, f"{name} spills {used}"
    # one class for all layers: a model of 36 layers has as much code as one of 2
    assert source.text.count("\nstruct C") < 30


def test_per_op_has_a_kernel_for_each_class() -> None:
    one, all_in_one = generate(plan_of_one(config(), schedule="per_op"), Config(per_op=1)), generate(plan_of_one(config()))
    assert one.text.count('extern "C" __global__') == len(re.findall(r"\nstruct C\d", one.text)) > 8
    assert all_in_one.text.count('extern "C" __global__') == 1 and len(one.segments) == len(all_in_one.segments)


@pytest.mark.slow
def test_every_operator_compiles(compiled: dict[str, Future[tuple[Source, Binary]]]) -> None:
    """Each operator stands in one of the plans above; one that is added must stand in one too."""
    texts = [future.result()[0].text for future in compiled.values()]
    ours = {name for name in list_ops() if (DEVICE.parents[1] / "ops" / name).is_dir()}
    for op in ours:
        assert (DEVICE.parents[1] / "ops" / op / "cuda.cuh").exists(), f"operator '{op}' has no cuda.cuh"
    used = {op for op in ours if any(f"// ---- ops/{op}/cuda.cuh" in text for text in texts)}
    alone = {"add", "rms_norm", "silu_mul"}  # the passes fuse them into linears
    assert used | alone == ours


@pytest.mark.slow
def test_the_draw_compiles_for_every_vocabulary(compiled: dict[str, Future[tuple[Source, Binary]]]) -> None:
    """Kernels that are compiled without it leave no size of it out."""
    drawn, without = (
        {
            size
            for name, future in compiled.items()
            if (name in UNSAMPLED) == left_out
            for size in re.findall(r"struct logits_t {.*? dim1 = (\d+);", future.result()[0].text)
        }
        for left_out in (False, True)
    )
    assert without and without <= drawn


@pytest.mark.parametrize(
    "op",
    ["rms_norm", "silu_mul", "add"],
)
def test_operators_that_passes_fuse_compile_alone(op: str) -> None:
    p = Program("alone")
    t = p.symbol("num_tokens", 1, 8)
    x, y = p.input("x", (t, 64), "bfloat16"), p.input("y", (t, 64), "bfloat16")
    more: dict[str, Any] = {
        "rms_norm": lambda: {"x": x, "w": p.weight("w", (64,), "bfloat16"), "eps": 1e-6},
        "silu_mul": lambda: {"x": x},
        "add": lambda: {"a": x, "b": y},
    }[op]()
    p.output(p.call(op, name="alone", **more), "out")
    # all passes but the one that fuses
    plan = schedule(place(infer_events(tile(p, target.h200()))), "static", 132)
    source, binary = compile_plan_source(plan)
    assert f"// ---- ops/{op}/cuda.cuh" in source.text
    assert binary.resources["spill_bytes"] == 0


@pytest.mark.parametrize("columns", [1024, 2048])
def test_a_norm_waits_for_what_announces_itself(columns: int) -> None:
    """Whether registers hold a row of its input or not."""
    p = Program("norm")
    t = p.symbol("num_tokens", 1, 8)
    x = p.input("x", (t, 256), "bfloat16")
    y = p.call("linear", name="y", x=x, w=p.weight("w", (columns, 256), "bfloat16"))
    p.output(p.call("rms_norm", name="norm", x=y, w=p.weight("g", (columns,), "bfloat16"), eps=1e-6), "out")
    plan = schedule(place(infer_events(tile(p, target.h200()))), "static", 132)
    source, _ = compile_plan_source(plan)
    norm = source.text[source.text.index("// C1: norm") :]
    assert "polled = true" in norm[: norm.index(" x;")]


def tiny_plan() -> Plan:
    c = config(num_layers=1, hidden_size=64, intermediate_size=64, num_heads=2, num_kv_heads=1, vocab_size=64)
    return compile_plan(build_decoder(c, Limits(8, 8, 2, 64, 16), "bfloat16"), replace(target.h200(), num_workers=4))


def test_generated_source_is_as_it_was(request: pytest.FixtureRequest) -> None:
    """What is generated from a tiny plan, without the files that are included word for word."""
    text = generate(tiny_plan()).text
    head, rest = text.split("// ---- device/cuda/ptx.cuh", 1)
    generated = rest.split("// ---- device/cuda/tasks.cuh", 1)[1].split("namespace ev {\n// C0:", 1)[1]
    found = head + "// C0:" + generated.split("// ---- device/cuda/main.cuh", 1)[0]
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), "run pytest with --update-golden if the change is meant, and read the difference"


def test_equal_plans_give_equal_source() -> None:
    assert generate(tiny_plan()).text == generate(tiny_plan()).text


def test_the_cache_is_used_and_half_files_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_CACHE_DIR", str(tmp_path))
    text = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.f; }'
    first = compile_source(text)
    (kept,) = (tmp_path / "cuda").glob("*.cubin")
    kept.write_bytes(b"from the cache")
    assert compile_source(text).cubin == b"from the cache"
    assert compile_source(text, cache=False).cubin == first.cubin
    assert compile_source(text + " ").key != first.key


# ----------------------------------------------------------------------------- what is refused


def test_shared_memory_is_divided_by_need() -> None:
    one, mixed = divisions(plan_of_one(config())), divisions(plan_of(config()))
    assert (one[0].slots, one[0].slot, one[0].scratch) == (30, 6208, 40 * 1024)
    assert (mixed[0].slots, mixed[0].slot, mixed[0].scratch) == (22, 6208, 88 * 1024)
    loose = divisions(compile_plan(build_decoder(config(), BIG, "bfloat16"), target.h200(tight=False), verify=False))[0]
    assert (loose.slots, loose.slot) == (17, 8192)
    assert all((c.in_flight - 1) * c.slot < IN_FLIGHT <= c.in_flight * c.slot for c in (one[0], mixed[0], loose))
    assert all(c.shared_bytes < SHARED_LIMIT and (c.slots % 8 == 0 or c.slots >= c.in_flight + 8) for c in one + mixed)


@pytest.mark.parametrize("tokens", [16, 32, 48, 64])
def test_warpgroups_never_share_a_stage_of_a_wide_products_input(tokens: int) -> None:
    """They take stages by turns, and so do eight warps up to 32 tokens: with an odd number each would wait at others' places."""
    found = [stages(tokens, kib * 1024) for kib in range(60, 184, 4)]
    assert found == sorted(found) and found[-1] == (16 if tokens <= 32 else 8)
    assert all(n % (4 if tokens <= 32 else 2) == 0 for n in found if n > 1)


def test_stages_of_prompts() -> None:
    assert [stages(256, kib * 1024) for kib in (145, 166)] == [4, 4] and stages(64, 100 * 1024) == 4


def wide(k: int) -> Plan:
    p = Program("wide")
    t = p.symbol("num_tokens", 1, 8)
    x = p.call("rms_norm", x=p.input("x", (t, k), "bfloat16"), w=p.weight("n", (k,), "bfloat16"), eps=1e-6, name="norm")
    p.output(p.call("linear", x=x, w=p.weight("w", (64, k), "bfloat16"), name="y"), "out")
    return compile_plan(p, target.h200())


def test_a_plan_that_needs_more_scratch_gets_it_or_is_refused() -> None:
    source, _ = compile_plan_source(wide(6144))
    assert source.config.scratch > 88 * 1024 and source.config.slots < 16
    with pytest.raises(UnfitPlanError, match=r"doesn't fit in the shared memory of a multiprocessor \(232448 bytes\): the norm"):
        compile_plan_source(wide(16384))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"head_dim": 32}, "can't run on the GPU: attention_decode needs a head size of 64, 128, 192 or 256; use device='cpu'"),
        ({"num_heads": 16, "num_kv_heads": 1}, "can't run on the GPU: attention_decode needs at most \\d query heads"),
    ],
)
def test_sizes_that_operators_do_not_take(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitPlanError, match=message):
        compile_plan_source(plan_of_one(config(**change)))


def product(tokens: int, k: int = 384, normed: bool = True, slim: bool = False, **attrs: Any) -> Plan:
    """A linear of 192 rows, for tasks of so many tokens and steps of up to 600."""
    p = Program("product")
    x = p.input("x", (p.symbol("num_tokens", 1, 600), k), "bfloat16")
    if normed:
        x = p.call("rms_norm", x=x, w=p.weight("n", (k,), "bfloat16"), eps=1e-6, name="norm")
    p.output(p.call("linear", x=x, w=p.weight("w", (192, k), "bfloat16"), name="y", **attrs), "out")
    return compile_plan(p, replace(target.h200(tile_tokens=tokens), slim=slim), verify=False)


@pytest.mark.parametrize("tokens, slim", [(n, False) for n in (16, 48, 80, 128, 144, 256)] + [(16, True), (32, True)])
def test_wide_products_of_any_16_tokens_compile(tokens: int, slim: bool) -> None:
    _, binary = compile_plan_source(product(tokens, slim=slim))
    # the code that slim products share is called, and a worker's state is put away meanwhile
    assert binary.resources["spill_bytes"] <= (64 if slim else 0) and "wgmma" not in binary.log


def test_a_wide_product_ends_a_norm_that_a_slim_one_began() -> None:
    """As gate and up of models so large that slim tasks would take their input too often."""
    c, limits = config(hidden_size=1024, intermediate_size=1536), replace(BIG, max_tokens=16, max_rows=16)
    made_for = replace(target.h200(7, tile_tokens=16), slim=True)
    source, binary = compile_plan_source(unsampled(compile_plan(build_decoder(c, limits, "bfloat16", splits=1), made_for)))
    ends = [s for s in source.text.split("\nstruct C") if "has_squares = true" in s]
    assert {re.findall(r"tile_n = (\d+)", s)[0] for s in ends} == {"16", "64"}
    assert binary.resources["spill_bytes"] <= 256 and "wgmma" not in binary.log


def test_a_wide_product_knows_its_weight_as_boxes() -> None:
    """A weight's tensor maps are an argument of its grid, beside its address; other grids have none."""
    source = generate(product(64), Config(scratch=100 * 1024))
    kinds = [[a.kind for a in row] for row in source.segments]
    assert [row.count("maps of 64") for row in kinds] == [0, 1]
    assert [a.value for a in source.segments[1] if a.kind == "maps of 64"] == ["w"]
    assert "struct w_t { const bf16* data; const u8* maps; " in source.text


@pytest.mark.parametrize(
    "plan, message",
    [
        ({"tokens": 24}, "a wide linear task holds 16 to 256 tokens"),
        ({"tokens": 64, "k": 320}, "a wide linear needs k to be a multiple of 128"),
        ({"tokens": 64, "normed": False}, "the input of a wide linear must be made by an operator that can tile it"),
        (
            {"tokens": 64, "activation": "silu_mul", "out_dtype": "float32"},
            "a wide linear with an activation needs an output in bfloat16",
        ),
        ({"tokens": 64, "slim": True}, "a slim linear task holds 16 or 32 tokens"),
        ({"tokens": 16, "slim": True, "k": 320}, "a slim linear needs k to be a multiple of 128"),
        ({"tokens": 16, "slim": True, "normed": False}, "the input of a slim linear must be made by an operator that can tile it"),
        (
            {"tokens": 16, "slim": True, "activation": "silu_mul", "out_dtype": "float32"},
            "a slim linear with an activation needs an output in bfloat16",
        ),
    ],
)
def test_wide_products_that_there_are_not(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitPlanError, match=f"can't run on the GPU: {message}"):
        compile_plan_source(product(**plan))


def test_dtypes_and_ragged_grids_are_refused() -> None:
    p = Program("halves")
    t = p.symbol("num_tokens", 1, 8)
    x = p.input("x", (t, 64), "float16")
    p.output(p.call("add", a=x, b=x, name="sum"), "y")
    with pytest.raises(DeviceError, match="tensor 'x' is float16; the CUDA backend has float32, bfloat16, int32, int64"):
        generate(compile_plan(p, target.h200(), verify=False))
    plan = tiny_plan()
    grid = next(g for g in plan.grids if len(g.axes) > 1)
    (first, _), *_ = grid.axes
    ragged = replace(grid, axes=(*grid.axes[:-1], (grid.axes[-1][0], Var(first) + 1)))
    plan = replace(plan, grids=tuple(ragged if g is grid else g for g in plan.grids))
    with pytest.raises(DeviceError, match=f"grid '{grid.name}' is ragged"):
        generate(plan, Config())


def test_source_that_does_not_compile_shows_the_log() -> None:
    with pytest.raises(DeviceError, match=r"does not compile; this is a bug(.|\n)*undefined_name"):
        compile_source("__global__ void broken() { undefined_name(); }", cache=False)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'eventide\[cuda\]'"):
        compile_source("")
    monkeypatch.undo()

    class WithoutLibrary:
        def nvrtcVersion(self) -> tuple[int, int, int]:
            raise RuntimeError("libnvrtc.so.13 was not found")

    # what the bindings do when the package with NVRTC itself is absent
    monkeypatch.setattr(nvrtc, "_nvrtc", WithoutLibrary)
    with pytest.raises(MissingDependencyError, match=r"NVRTC, whose library was not found .*pip install 'eventide\[cuda\]'"):
        compile_source("")


def test_no_driver_is_said_in_one_sentence() -> None:
    from eventide.backends.cuda.driver import Device

    try:
        Device()
    except EventideError as e:
        assert isinstance(e, DeviceError) and "no GPU can be used" in str(e) and "device='cpu'" in str(e) and "\n" not in str(e)
    else:
        pytest.skip("this machine has a GPU and its driver")
