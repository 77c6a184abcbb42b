"""The sampler on a GPU against its reference, on rows as long as a model's vocabulary: in most of them few tokens matter, and
which path finds these depends on the row."""

from __future__ import annotations

import numpy as np
import pytest

import eventide
from eventide import target
from eventide.compile import CompiledKernel
from eventide.ops.program import Program
from eventide.ops.sample.reference import choose
from tests.backends.cuda.gpu import need_gpu

pytestmark = pytest.mark.gpu
ROWS = 16
LENGTH = 32
TOP = 20


def program(vocab: int, stats: bool) -> Program:
    p = Program("sampling")
    n = p.symbol("rows", 1, ROWS)
    logits = p.input("logits", (n, vocab), "float32")
    row_seq = p.input("row_seq", (n,), "int32")
    best, sums = p.call("sample_stats", name="stats", logits=logits, row_seq=row_seq) if stats else (None, None)
    tables = {"row_pos": "int32", "temperature": "float32", "top_k": "int32", "top_p": "float32", "seed": "int64"}
    given = {name: p.input(name, (n,), dtype) for name, dtype in (tables | {"num_logprobs": "int32"}).items()}
    tokens = p.state("tokens", (ROWS, LENGTH), "int32")
    made = p.call("sample", name="sample", logits=logits, best=best, sums=sums, row_seq=row_seq, tokens=tokens, **given)
    for ref, name in zip(made, ("next_token", "logprob", "top_ids", "top_logprobs"), strict=True):
        p.output(ref, name)
    return p


def rows_of(kind: str, vocab: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((ROWS, vocab)).astype(np.float32)
    if kind == "like a model's":
        return x * np.float32(3)
    if kind == "sharp, the best side by side":
        x[:, 700:760] += np.linspace(8, 20, 60, dtype=np.float32)
        return x * np.float32(2)
    if kind == "among equals":
        return np.round(x)
    assert kind == "flat"
    return x * np.float32(0.1)


@pytest.fixture(scope="module")
def kernels() -> dict[tuple[int, bool], CompiledKernel]:
    need_gpu()
    sizes = [(151936, True), (151936, False), (3001, True)]
    return {size: eventide.compile(program(*size), target=target.h200(), verify=False) for size in sizes}


@pytest.mark.parametrize("kind", ["like a model's", "sharp, the best side by side", "among equals", "flat"])
@pytest.mark.parametrize(("vocab", "stats"), [(151936, True), (151936, False), (3001, True)])
def test_draws_are_those_of_the_reference(
    kernels: dict[tuple[int, bool], CompiledKernel], vocab: int, stats: bool, kind: str
) -> None:
    rng = np.random.default_rng([len(kind), vocab, stats])
    logits = rows_of(kind, vocab, rng)
    inputs = {
        "row_seq": rng.permutation(ROWS).astype(np.int32),
        "row_pos": rng.integers(0, LENGTH - 1, ROWS).astype(np.int32),
        "temperature": np.array([0, 0.3, 1, 1, 1, 1, 0.7, 0.7, 0.7, 1, 1, 1, 50, 50, 1, 0], np.float32),
        "top_k": np.array([0, 0, 0, 20, 1, 132, 133, 20, 2000, 0, 0, 50, 0, 30, vocab - 1, 7], np.int32),
        "top_p": np.array([1, 1, 1, 1, 1, 1, 1, 0.9, 0.8, 0.95, 1e-6, 0.999, 1, 0.5, 1, 1], np.float32),
        "seed": rng.integers(-(2**62), 2**62, ROWS),
        "num_logprobs": np.array([0, 0, 5, 0] * 3 + [TOP, 0, 0, TOP], np.int32),
    }
    kernel = kernels[vocab, stats]
    found = kernel(logits=logits, **inputs)
    again = kernel(logits=logits, **inputs)
    for name, array in found.items():
        assert np.array_equal(array, again[name]), name
    for r in range(ROWS):
        wanted = (float(inputs["temperature"][r]), int(inputs["top_k"][r]), float(inputs["top_p"][r]))
        token = choose(logits[r], *wanted, int(inputs["seed"][r]), int(inputs["row_pos"][r]) + 1)
        assert found["next_token"][r] == token, f"row {r}: temperature, top_k, top_p {wanted}"
        assert kernel.states["tokens"][inputs["row_seq"][r], inputs["row_pos"][r] + 1] == token
        x = logits[r].astype(np.float64)
        logprobs = x - x.max() - np.log(np.exp(x - x.max()).sum())
        assert abs(found["logprob"][r] - logprobs[token]) < 1e-4
        n = int(inputs["num_logprobs"][r])
        best = np.argsort(-logits[r], kind="stable")[:n]
        assert np.array_equal(found["top_ids"][r], [*best, *[0] * (TOP - n)])
        assert np.abs(found["top_logprobs"][r, :n] - logprobs[best]).max(initial=0) < 1e-4


def test_rows_without_a_distribution(kernels: dict[tuple[int, bool], CompiledKernel]) -> None:
    for (vocab, _), kernel in kernels.items():
        logits = np.zeros((4, vocab), np.float32)
        logits[0, vocab // 2] = np.nan
        logits[1] = -np.inf
        logits[2, 5] = np.inf
        logits[3, vocab - 1] = 3
        ones = np.ones(4, np.int32)
        found = kernel(
            logits=logits, row_seq=np.arange(4, dtype=np.int32), row_pos=ones, temperature=ones.astype(np.float32), top_k=ones,
            top_p=ones.astype(np.float32), seed=ones.astype(np.int64), num_logprobs=0 * ones,
        )  # fmt: skip
        assert found["next_token"].tolist() == [-1, -1, -1, vocab - 1]
