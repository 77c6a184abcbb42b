"""What a launch is given: steps packed one by one and as a loop, outputs taken apart, tables of the decode program."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest

from eventide import target
from eventide.backends.cuda.codegen import DEVICE
from eventide.backends.cuda.launch import LaunchBlock, Packer
from eventide.backends.cuda.layout import lay_out
from eventide.engine.steps import (
    Chunk,
    Step,
    decode_steps,
    decode_tables,
    default_block_table,
    make_step,
    split_step,
    split_tables,
)
from eventide.errors import ProgramError
from eventide.models.decoder import build_decoder
from eventide.ops.program import Program
from eventide.passes.pipeline import compile_plan
from tests.backends.cuda.gpu import LIMITS, config, plan_of, prompt_steps


@pytest.fixture(scope="module")
def mixed() -> Packer:
    plan = plan_of(config())
    return Packer(plan, lay_out(plan))


def test_the_parameter_block_is_that_of_the_device() -> None:
    text = (DEVICE / "runtime.cuh").read_text()
    body = re.search(r"struct Launch \{(.*?)\n\};", text, re.S)
    assert body is not None
    sizes = {"i64": 8, "u64": 8, "u32": 4, "int": 4}
    wanted = []
    for line in body[1].splitlines():
        declaration = line.split("//")[0].strip().rstrip(";")
        if not declaration:
            continue
        pointer = "*" in declaration
        kind, names = declaration.replace("const ", "").replace("*", "").split(None, 1)
        wanted += [(name.strip(), 8 if pointer else sizes[kind]) for name in names.split(",")]
    found = [(name, ctypes.sizeof(kind)) for name, kind in LaunchBlock._fields_]
    assert found == wanted


def test_a_loop_is_its_steps(mixed: Packer) -> None:
    chunks, table = [Chunk(0, 4, 1), Chunk(2, 30, 1)], default_block_table(LIMITS)
    symbols, inputs, stacked = decode_tables(LIMITS, chunks, 20, table)
    one_by_one = mixed.steps(decode_steps(LIMITS, chunks, 20, table))
    at_once = mixed.loop(symbols, inputs, 20, stacked)
    assert np.array_equal(one_by_one.symbols, at_once.symbols) and np.array_equal(one_by_one.inputs, at_once.inputs)
    assert at_once.tables.shape == (1, mixed.layout.table_bytes) and at_once.num_steps == 20
    offset = mixed.layout.input_offsets["pos"]
    assert at_once.inputs[3, offset : offset + 8].view(np.int32).tolist() == [7, 33]


def test_steps_of_different_sizes(mixed: Packer) -> None:
    steps = prompt_steps([np.arange(5), np.arange(11)])
    packed = mixed.steps(steps)
    names = mixed.layout.symbols
    assert [dict(zip(names, row.tolist())) for row in packed.symbols] == [s.symbols for s in steps]
    assert packed.inputs.shape == (3, mixed.layout.input_bytes)


def test_a_prompts_steps_share_the_block_table() -> None:
    limits = replace(LIMITS, max_tokens=4096, max_seq_len=4096)
    program = build_decoder(config(max_position_embeddings=4096), replace(limits, max_tokens=2048), "bfloat16", splits=2)
    plan = compile_plan(program, replace(target.h200(tile_tokens=128), tile_queries=32), verify=False)
    packer = Packer(plan, lay_out(plan))
    assert set(packer.layout.table_offsets) == {"block_table"}
    whole = make_step(limits, [Chunk(0, 0, 4096)], 1)
    packed = packer.steps(split_step(whole, 2048, 32))
    assert len(packed.inputs) == 2 and packed.tables.shape == (1, packer.layout.table_bytes)
    at = packer.layout.input_offsets["tile_indptr"]
    assert [row[at : at + 260].view(np.int32).tolist() for row in packed.inputs] == [list(range(0, 2049, 32))] * 2


def test_a_large_table_stands_once() -> None:
    limits = replace(LIMITS, max_seq_len=4096)
    plan = plan_of(config(max_position_embeddings=4096), limits)
    packer = Packer(plan, lay_out(plan))
    assert set(packer.layout.table_offsets) == {"block_table"} and "block_table" not in packer.layout.input_offsets
    table = default_block_table(limits)
    symbols, inputs, stacked = decode_tables(limits, [Chunk(0, 4, 1)], 30, table)
    packed = packer.loop(symbols, inputs, 30, stacked)
    assert packed.tables.shape == (1, packer.layout.table_bytes)
    assert np.array_equal(packed.tables[0, : table.nbytes].view(np.int32), table.reshape(-1))
    steps = decode_steps(limits, [Chunk(0, 4, 1)], 3, table)
    assert len(packer.steps(steps).tables) == 1
    other = Step(steps[2].symbols, {**steps[2].inputs, "block_table": np.flip(table).copy()})
    apart = packer.steps([*steps[:2], other])
    assert len(apart.tables) == 3 and np.array_equal(apart.tables[2, : table.nbytes].view(np.int32), table.reshape(-1)[::-1])


def test_outputs_are_taken_out_of_rows(mixed: Packer) -> None:
    rows = np.zeros((7, mixed.layout.output_bytes), np.uint8)
    at = mixed.layout.output_offsets["next_token"]
    rows[:, at : at + 8] = np.arange(14, dtype=np.int32).reshape(7, 2).view(np.uint8)
    symbols = {"num_tokens": 2, "num_tiles": 2, "num_rows": 2, "num_samples": 2}
    found = mixed.small(symbols, rows)
    assert found["next_token"].tolist() == np.arange(14).reshape(7, 2).tolist()
    assert found["top_ids"].shape == (7, 2, 20)
    assert mixed.small(symbols, rows[:0])["next_token"].shape == (0, 2)


def test_what_a_launch_refuses(mixed: Packer) -> None:
    symbols, inputs, stacked = decode_tables(LIMITS, [Chunk(0, 4, 1)], 8, default_block_table(LIMITS))
    with pytest.raises(ProgramError, match=r"input 'seq' of plan '.*' was not given"):
        mixed.loop(symbols, {k: v for k, v in inputs.items() if k != "seq"}, 8, stacked)
    with pytest.raises(ProgramError, match="no input 'sequence' to be stacked"):
        mixed.loop(symbols, inputs, 8, stacked | {"sequence"})
    with pytest.raises(ProgramError, match="symbol 'num_tokens' must be in"):
        mixed.loop({**symbols, "num_tokens": 9}, inputs, 8, stacked)
    with pytest.raises(ProgramError, match=r"input 'pos': expected shape \(9, 1\), got \(8, 1\)"):
        mixed.loop(symbols, inputs, 9, stacked)
    with pytest.raises(ProgramError, match="run-time table 'slot' breaks its invariant 'within'"):
        mixed.loop(symbols, {**inputs, "slot": inputs["slot"] + 10**6}, 8, stacked)
    step = Step(symbols, {k: v[0] if k in stacked else v for k, v in inputs.items()})
    with pytest.raises(ProgramError, match="'seq'"):
        mixed.steps([Step(step.symbols, {**step.inputs, "seq": np.array([7], np.int32)})])


def test_decode_tables_of_pages_that_are_shared() -> None:
    """Two sequences begin with page 7 and go on with their own; what nobody uses is page 0."""
    limits = replace(LIMITS, max_tokens=2, max_rows=2)
    table = np.zeros((limits.max_seqs, limits.pages_per_seq), np.int32)
    table[:2, :3] = [[7, 2, 9], [7, 3, 4]]
    plan = compile_plan(build_decoder(config(), limits, "bfloat16", decode=True), target.h200())
    chunks = [Chunk(0, 20, 1), Chunk(1, 18, 1)]
    symbols, inputs, stacked = decode_tables(limits, chunks, 20, table)
    inputs |= split_tables(limits, 40, 8)
    symbols["num_splits"] = len(inputs["split_begin"])
    packer = Packer(plan, lay_out(plan))
    packed = packer.loop(symbols, inputs, 20, stacked - {"slot"})
    assert packed.symbols.shape == (20, len(plan.symbols))
    with pytest.raises(ProgramError, match="'block_table' breaks its invariant 'single': 7, which is written"):
        packer.loop(symbols, {**inputs, "pos": inputs["pos"] - 6}, 20, stacked - {"slot"})


def test_what_is_staged_can_be_read_there() -> None:
    """Tables and small numbers go to shared memory; norms don't, which some operators copy from global memory."""
    p = Program("given norms")
    t = p.symbol("num_tokens", 1, 8)
    x, norm = p.input("x", (t, 64), "bfloat16"), p.input("norm", (64,), "bfloat16")
    h = p.call("rms_norm", x=x, w=norm, eps=1e-6, name="h")
    p.output(p.call("linear", x=h, w=p.weight("w", (16, 64), "bfloat16"), name="y"), "out")
    layout = lay_out(compile_plan(p, target.h200()))
    assert layout.staged_bytes == 0 and set(layout.input_offsets) == {"x", "norm"}
    plan = compile_plan(build_decoder(config(), LIMITS, "bfloat16"), target.h200())
    layout = lay_out(plan)
    staged = {name for name, at in layout.input_offsets.items() if at < layout.staged_bytes}
    assert {"pos", "block_table", "temperature"} <= staged
