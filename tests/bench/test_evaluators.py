"""Evaluators: what passes, what fails, and why."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from eventide.bench import Definition
from eventide.bench.evaluators import (
    BaseEvaluator,
    Case,
    Tolerance,
    Verdict,
    compare,
    evaluator_for,
    register,
    registered,
    unregister,
)
from eventide.bench.evaluators.sampling import filtered
from eventide.bench.evaluators.topk import deepseek_scores
from eventide.errors import UsageError

from .runner_kit import SCALE

EXACT = Tolerance()


def compared(actual: Any, expected: Any, dtype: str = "float32", ratio: float = 1.0, **limits: float) -> Verdict:
    wide = np.dtype(getattr(ml_dtypes, dtype)) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)
    return compare("y", dtype, np.asarray(actual, wide), np.asarray(expected, wide), Tolerance(**limits), ratio)


def test_an_element_fails_only_beyond_both_limits() -> None:
    assert compared([100.5], [100.0]).ok  # 0.5 absolute, but 0.5 % relative
    assert compared([0.009], [0.0]).ok  # infinitely many per cent, but 0.009 absolute
    verdict = compared([1.02, 1.0], [1.0, 1.0])
    assert not verdict.ok and "1 of 2 elements" in verdict.reason
    assert verdict.max_absolute_error == pytest.approx(0.02, rel=1e-3)


def test_errors_are_the_largest_over_all_elements() -> None:
    verdict = compared([1.0, 2.005, 0.0], [1.0, 2.0, 0.0])
    assert verdict.ok and verdict.max_absolute_error == pytest.approx(0.005, rel=1e-3)
    assert verdict.max_relative_error == pytest.approx(0.0025, rel=1e-3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_non_finite_values_match_only_their_own_kind(value: float) -> None:
    assert compared([value, 1.0], [value, 1.0]).ok
    assert not compared([value, 1.0], [0.0, 1.0]).ok
    assert not compared([0.0, 1.0], [value, 1.0]).ok
    assert not compared([-value, 1.0], [value, 1.0]).ok or np.isnan(value)
    # no share of elements that may miss excuses them
    assert not compared([value] + [1.0] * 99, [1.0] * 100, ratio=0.5).ok


def test_integers_are_exact_and_quantised_ones_are_not() -> None:
    assert not compared([100_000, 5], [100_001, 5], "int32").ok
    assert not compared([True, False], [True, True], "bool").ok
    assert compared([1, -1], [1, -1], "int64").ok
    assert compared([100], [100], "int8").ok and not compared([100], [102], "int8").ok


def test_matched_ratio() -> None:
    expected = np.ones(100)
    actual = expected.copy()
    actual[:4] = 2
    assert compared(actual, expected, ratio=0.95).ok
    actual[:6] = 2
    verdict = compared(actual, expected, ratio=0.95)
    assert not verdict.ok and verdict.extra["matched_ratio"] == pytest.approx(0.94)


def test_honest_bfloat16_passes() -> None:
    exact = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    rounded = exact.astype(ml_dtypes.bfloat16)
    assert compared(rounded, (exact * (1 + 2**-9)).astype(ml_dtypes.bfloat16), "bfloat16").ok


def test_packed_float4_is_unpacked() -> None:
    assert compare("y", "float4_e2m1", np.uint8([0x21]), np.uint8([0x21]), EXACT).ok
    verdict = compare("y", "float4_e2m1", np.uint8([0x21]), np.uint8([0x71]), EXACT)
    assert not verdict.ok and verdict.max_absolute_error == 5.0  # 1 against 6


def definition(name: str, op_type: str, outputs: dict[str, Any], inputs: dict[str, Any], **more: Any) -> Definition:
    axes = {"rows": {"type": "var"}, "k": {"type": "var"}, "vocab_size": {"type": "const", "value": 16}}
    record = {"name": name, "op_type": op_type, "axes": axes, "inputs": inputs, "outputs": outputs}
    return Definition.model_validate({**record, "reference": "def run(*a):\n    return a\n", **more})


PROBS = {"probs": {"shape": ["rows", "vocab_size"], "dtype": "float32"}, "top_k": {"shape": ["rows"], "dtype": "int32"}}
SAMPLES = {"samples": {"shape": ["rows"], "dtype": "int64"}}
SAMPLING = definition("top_k_sampling", "sampling", SAMPLES, PROBS)
SPARSE = definition(
    "dsa_sparse_attention",
    "dsa_paged",
    {"output": {"shape": ["rows"], "dtype": "float32"}, "lse": {"shape": ["rows"], "dtype": "float32"}},
    {"q": {"shape": ["rows"], "dtype": "float32"}},
)
INDEXER = definition(
    "dsa_topk_indexer",
    "dsa_paged",
    {"topk_indices": {"shape": ["rows", "k"], "dtype": "int32"}},
    {"q": {"shape": ["rows"], "dtype": "float32"}},
)


def case(of: Definition, expected: dict[str, Any], actual: dict[str, Any], inputs: Any = None, **more: Any) -> Case:
    return Case(of, {}, EXACT, expected, actual, inputs or {}, **more)


@pytest.mark.parametrize(
    ("of", "name"),
    [(SCALE, "default"), (SAMPLING, "sampling"), (SPARSE, "sparse-attention"), (INDEXER, "topk-indexer")],
)
def test_which_evaluator(of: Definition, name: str) -> None:
    assert evaluator_for(of).name == name


def test_low_bit_mixture_of_experts() -> None:
    weights = {"w": {"shape": ["rows"], "dtype": "float8_e4m3fn"}}
    of = definition("moe_fp8", "moe", {"y": {"shape": ["rows"], "dtype": "float32"}}, weights)
    evaluator = evaluator_for(of)
    assert evaluator.name == "low-bit"
    expected, actual = np.ones(100, np.float32), np.ones(100, np.float32)
    actual[:5] = 3
    assert evaluator.check(case(of, {"y": expected}, {"y": actual})).ok
    actual[:6] = 3
    assert not evaluator.check(case(of, {"y": expected}, {"y": actual})).ok


def test_a_definition_may_name_its_evaluator() -> None:
    assert (
        evaluator_for(definition("x", "moe", SAMPLES, PROBS, eventide={"version": 1, "evaluator": "low-bit"})).name
        == "low-bit"
    )
    with pytest.raises(UsageError, match="no evaluator is called 'absent'"):
        evaluator_for(definition("x", "moe", SAMPLES, PROBS, eventide={"version": 1, "evaluator": "absent"}))


def test_register_and_unregister() -> None:
    class Lenient(BaseEvaluator):
        name = "lenient"

        def accepts(self, definition: Definition) -> bool:
            return definition.name == SCALE.name

    register(Lenient())
    try:
        assert evaluator_for(SCALE).name == "lenient"
        with pytest.raises(UsageError, match="registered already"):
            register(Lenient())
    finally:
        unregister("lenient")
    assert "lenient" not in [e.name for e in registered()]


def test_sparse_attention_may_leave_the_log_sum_exp_out() -> None:
    evaluator = evaluator_for(SPARSE)
    expected = {"output": np.ones(2, np.float32), "lse": np.float32([-np.inf, 1])}
    assert evaluator.check(case(SPARSE, expected, expected)).ok  # a row without tokens
    actual = {"output": expected["output"], "lse": np.full(2, 7, np.float32)}
    assert evaluator.check(case(SPARSE, expected, actual, untouched=frozenset({"lse"}))).ok
    assert not evaluator.check(case(SPARSE, expected, actual)).ok
    verdict = evaluator.check(case(SPARSE, expected, expected, untouched=frozenset({"output"})))
    assert not verdict.ok and "not written" in verdict.reason


def test_samples_must_be_possible() -> None:
    evaluator = evaluator_for(SAMPLING)
    probs = np.float32([[0.4, 0.3, 0.2, 0.1] + [0] * 12])

    def check(token: int, **filters: Any) -> Verdict:
        given = {"probs": probs, **filters}
        return evaluator.check(case(SAMPLING, {}, {"samples": np.asarray([token])}, given))

    assert check(2, top_k=np.int32([3])).ok
    assert "top_k is 2" in check(2, top_k=np.int32([2])).reason
    assert "probability is 0" in check(7, top_k=np.int32([16])).reason
    assert "not in [0, 16)" in check(16, top_k=np.int32([16])).reason
    assert check(1, top_p=np.float32([0.5])).ok  # the token that crosses top_p is kept
    assert "top_p is 0.5" in check(2, top_p=np.float32([0.5])).reason
    # 0.4 / 0.7 of the mass lies above token 1 once top_k has cut
    assert "top_p is 0.5" in check(1, top_k=np.int32([2]), top_p=np.float32([0.5])).reason


@pytest.mark.parametrize(("sampler", "ok"), [("honest", True), ("argmax", False), ("uniform", False)])
def test_samples_must_follow_the_distribution(sampler: str, ok: bool) -> None:
    evaluator, rng = evaluator_for(SAMPLING), np.random.default_rng(5)
    inputs = {"probs": np.full((64, 16), 1 / 16, np.float32), "top_k": np.full(64, 16, np.int32)}
    [trial] = evaluator.trials(SAMPLING, inputs, rng)
    row = filtered(trial.inputs["probs"][0], float(trial.inputs["top_k"][0]), None)
    chosen = {"honest": row, "argmax": np.eye(16)[row.argmax()], "uniform": (row > 0) / (row > 0).sum()}[sampler]
    outputs = [{"samples": rng.choice(16, size=64, p=chosen)} for _ in range(trial.calls)]
    assert trial.judge(outputs).ok is ok


def test_filtered_matches_the_official_references() -> None:
    row = np.float32([0.1, 0.4, 0.2, 0.3])
    np.testing.assert_allclose(filtered(row, 2, None), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(filtered(row, None, 0.5), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(filtered(row, None, 0.0), [0, 1, 0, 0])
    np.testing.assert_allclose(filtered(row, 9, 1.0), row, rtol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ([3, 1, 2, -1], ""),
        ([1, 1, 2, -1], "twice"),
        ([1, 2, 3, 4], "expected 3 indices"),
        ([1, 2, -1, 3], "expected 3 indices"),
        ([7, 8, 9, -1], "were found"),
    ],
)
def test_indices_as_a_set(chosen: list[int], why: str) -> None:
    evaluator = evaluator_for(INDEXER)
    expected = {"topk_indices": np.int32([[1, 2, 3, -1]])}
    verdict = evaluator.check(case(INDEXER, expected, {"topk_indices": np.int32([chosen])}))
    assert verdict.ok is (why == "") and why in verdict.reason


def indexer_inputs(rng: np.random.Generator) -> dict[str, Any]:
    """One sequence of 100 tokens on pages 3 and 1 of 4, 64 tokens a page, 8 dimensions, 2 heads."""
    values = rng.standard_normal((4, 64, 8)).astype(ml_dtypes.float8_e4m3fn).view(np.int8).reshape(4, -1)
    scales = rng.uniform(0.5, 2, (4, 64)).astype(np.float32).view(np.int8).reshape(4, -1)
    return {
        "q_index_fp8": rng.standard_normal((1, 2, 8)).astype(ml_dtypes.float8_e4m3fn),
        "k_index_cache_fp8": np.concatenate([values, scales], axis=1).reshape(4, 64, 1, 12),
        "weights": rng.uniform(0.5, 1, (1, 2)).astype(np.float32),
        "seq_lens": np.int32([100]),
        "block_table": np.int32([[3, 1]]),
    }


def test_indices_by_score() -> None:
    inputs = indexer_inputs(np.random.default_rng(1))
    tokens, scores = deepseek_scores(inputs, 0)
    assert tokens[:2].tolist() == [192, 193] and tokens[64:66].tolist() == [64, 65] and len(tokens) == 100
    best = tokens[np.argsort(-scores)]
    evaluator = evaluator_for(INDEXER)
    wanted = {"topk_indices": best[:8].astype(np.int32)[None]}

    def check(picked: Any) -> Verdict:
        return evaluator.check(case(INDEXER, wanted, {"topk_indices": np.int32(picked)[None]}, inputs))

    assert check(best[:8][::-1]).ok
    assert not check(best[-8:]).ok
    assert "no token of the row's pages" in check([*best[:7], 5]).reason
