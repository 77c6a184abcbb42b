"""The per_op schedule on a GPU: the static plan's tiles, one kernel an operator, with the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from eventide.backends.cpu import Stop
from eventide.backends.cuda.codegen import Config
from eventide.backends.cuda.fit import SHARED_LIMIT, divisions
from eventide.backends.cuda.kernel import CudaKernel
from eventide.engine.steps import Chunk, Sampling, decode_tables, default_block_table, split_tables
from tests.backends.cuda.gpu import (
    LIMITS,
    clear_caches,
    config,
    open_kernel,
    plan_of,
    plan_of_one,
    prompt_steps,
    write_tokens,
)


def test_kernels_of_one_operator_have_a_multiprocessor() -> None:
    one, *_ = divisions(plan_of_one(config(), schedule="per_op"))
    assert one.per_op == 1 and one.in_flight == one.slots and one.shared_bytes + 4096 <= SHARED_LIMIT
    assert {c.per_op for c in divisions(plan_of(config(), schedule="per_op"))} == {1}
    assert {c.per_op for c in divisions(plan_of(config()))} == {0}


def run_both(kernel: CudaKernel, one: CudaKernel, prompt: np.ndarray, num_steps: int, **options) -> list[dict]:
    """A prompt through `kernel`, a continuation through `one`."""
    write_tokens(kernel, [prompt])
    clear_caches(kernel)
    kernel.poison()
    one.poison()
    found = list(kernel.run(prompt_steps([prompt])))
    symbols, inputs, stacked = decode_tables(
        LIMITS,
        [Chunk(0, len(prompt), 1, sampling=Sampling(temperature=0.8, seed=9))],
        num_steps,
        default_block_table(LIMITS),
    )
    inputs |= split_tables(LIMITS, len(prompt) + num_steps, 4)
    symbols["num_splits"] = len(inputs["split_begin"])
    loop = one.run_loop(symbols, inputs, num_steps, stacked=stacked - {"slot"}, **options)
    return [*found, dict(loop.outputs)]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [{}, {"num_layers": 1, "hidden_size": 512, "vocab_size": 4001}])
def test_per_op_gives_the_bits_of_static(shape: dict) -> None:
    c = config(**shape)
    static = open_kernel(plan_of(c), c)
    static_one = open_kernel(plan_of_one(c), c, memory=static.memory)
    per_op = open_kernel(plan_of(c, schedule="per_op"), c, memory=static.memory)
    per_op_one = open_kernel(plan_of_one(c, schedule="per_op"), c, memory=static.memory)
    assert per_op_one.graph is not None and per_op_one.graph.num_kernels == len(per_op_one.plan.grids)
    for seed, length in enumerate((21, 5, 40)):
        prompt = np.random.default_rng(seed).integers(0, c.vocab_size, length)
        want = run_both(static, static_one, prompt, 60)
        got = run_both(per_op, per_op_one, prompt, 60)
        assert len(want) == len(got) and want[-1]["next_token"].shape == (60, 1)
        for a, b in zip(want, got):
            assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.gpu
def test_a_graph_ends_early_and_goes_on() -> None:
    c = config()
    mixed = open_kernel(plan_of(c, schedule="per_op"), c)
    one = open_kernel(plan_of_one(c, schedule="per_op"), c, memory=mixed.memory)
    prompt = np.random.default_rng(3).integers(0, c.vocab_size, 9)
    whole = run_both(mixed, one, prompt, 80)[-1]["next_token"][:, 0]
    at = next(i for i in range(20, 80) if whole[i] not in whole[:i])
    cut = run_both(mixed, one, prompt, 80, stop=Stop("next_token", [[int(whole[at]), -1]]))[-1]["next_token"][:, 0]
    assert np.array_equal(cut, whole[: at + 1])
    told: list[int] = []
    short = run_both(mixed, one, prompt, 80, on_progress=lambda done, _: told.append(done) or done >= 5)
    assert told[0] < 80 and 5 <= len(short[-1]["next_token"]) < 80
    again = run_both(mixed, one, prompt, 80)[-1]["next_token"][:, 0]
    assert np.array_equal(again, whole)


@pytest.mark.gpu
def test_two_blocks_on_a_multiprocessor_are_as_good() -> None:
    c = config()
    plan = plan_of_one(c, schedule="per_op")
    kernel = open_kernel(plan, c, config=Config(slots=8, in_flight=8, scratch=40 * 1024, per_op=2))
    prompt = np.random.default_rng(4).integers(0, c.vocab_size, 9)
    other = open_kernel(plan_of(c), c, memory=kernel.memory)
    got = run_both(other, kernel, prompt, 10)[-1]["next_token"]
    static = open_kernel(plan_of_one(c), c, memory=kernel.memory)
    assert np.array_equal(got, run_both(other, static, prompt, 10)[-1]["next_token"])
