"""Sampling values out of range, and how a request's join with the model's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from eventide import SamplingParams
from eventide.engine.sampling import DEFAULT_MAX_NEW_TOKENS
from eventide.errors import SamplingError, UsageError
from eventide.models.generation import GenerationConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_new_tokens", 0, "max_new_tokens must be an integer of at least 1, got 0"),
        ("max_new_tokens", 2.5, "got 2.5"),
        ("max_new_tokens", True, "got True"),
        ("temperature", -0.1, r"temperature must be a finite number of at least 0 \(0 is greedy\), got -0.1"),
        ("temperature", float("nan"), "got nan"),
        ("temperature", float("inf"), "got inf"),
        ("temperature", "hot", "got 'hot'"),
        ("temperature", [1], r"got \[1\]"),
        ("top_k", -1, r"top_k must be an integer from 0 to 2147483647 \(0 keeps all tokens\), got -1"),
        ("top_k", "5", "got '5'"),
        ("top_p", 0, "top_p must be a number above 0 and at most 1, got 0"),
        ("top_p", 1.01, "got 1.01"),
        ("seed", -1, "seed must be an integer from 0"),
        ("seed", 2**63, "got 9223372036854775808"),
        ("stop", "", "stop must be non-empty strings"),
        ("stop", ["a", 3], "got 3"),
        ("stop", 3, "stop must be non-empty strings, got 3"),
        ("ignore_eos", 1, "ignore_eos must be True or False, got 1"),
        ("logprobs", 21, "logprobs must be an integer from 0 to 20, got 21"),
        ("logprobs", -1, "got -1"),
    ],
)
def test_out_of_range(field: str, value: Any, message: str) -> None:
    with pytest.raises(SamplingError, match=message) as error:
        SamplingParams(**{field: value})
    assert isinstance(error.value, (UsageError, ValueError)) and error.value.exit_code == 2


def test_numpy_numbers_are_numbers() -> None:
    params = SamplingParams(max_new_tokens=np.int64(3), temperature=np.float32(0.5), top_p=1)  # type: ignore[arg-type]
    assert params.resolve(GenerationConfig()).max_new_tokens == 3


def test_greedy_where_nobody_asks_otherwise() -> None:
    resolved = SamplingParams().resolve(GenerationConfig(eos_token_ids=(2,)))
    assert resolved.sampling.temperature == 0 and resolved.sampling.top_k == 0 and resolved.sampling.top_p == 1
    assert resolved.max_new_tokens == DEFAULT_MAX_NEW_TOKENS and resolved.eos_token_ids == {2}
    assert not resolved.wants_logprobs


def test_the_models_values_fill_the_gaps() -> None:
    authors = GenerationConfig((7,), do_sample=True, temperature=0.6, top_k=20, top_p=0.9, max_new_tokens=99)
    resolved = SamplingParams(top_k=0, seed=5, stop="x", ignore_eos=True, logprobs=0).resolve(authors)
    assert resolved.sampling.temperature == 0.6 and resolved.sampling.top_p == 0.9 and resolved.sampling.top_k == 0
    assert resolved.max_new_tokens == 99 and resolved.sampling.seed == 5 and resolved.stop == ("x",)
    assert resolved.eos_token_ids == frozenset() and resolved.wants_logprobs
    assert SamplingParams(temperature=0).resolve(authors).sampling.temperature == 0
    # values that its authors give for sampling rest while it doesn't sample
    quiet = dataclasses.replace(authors, do_sample=False)
    assert SamplingParams(temperature=1.0).resolve(quiet).sampling.top_k == 0


def test_temperatures_that_would_overflow_are_greedy() -> None:
    """logit / 1e-40 is infinite in float32, for the best token and for others; the limit of cold is greedy."""
    for temperature in (1e-320, 1e-40, 1e-9):
        assert SamplingParams(temperature=temperature).resolve(GenerationConfig()).sampling.temperature == 0
    assert SamplingParams(temperature=1e-3).resolve(GenerationConfig()).sampling.temperature == 1e-3


def test_a_missing_seed_is_fresh() -> None:
    seeds = {SamplingParams().resolve(GenerationConfig()).sampling.seed for _ in range(20)}
    assert len(seeds) == 20
