"""The plan of an 8B model, verified, in under five seconds of one core (processor time: a busy machine changes nothing)."""

from __future__ import annotations

import time

import pytest

from eventide.models.decoder import Limits, build_decoder
from eventide.passes.pipeline import compile_plan
from eventide.target import cpu, h200
from tests.programs import config


@pytest.mark.slow
@pytest.mark.parametrize("target", [cpu(2), h200()], ids=lambda t: t.name)
def test_an_8b_plan_compiles_in_five_seconds(target) -> None:  # type: ignore[no-untyped-def]
    big = config(36, hidden_size=4096, intermediate_size=12288, num_heads=32, num_kv_heads=8, head_dim=128, vocab_size=151936)
    start = time.process_time()
    plan = compile_plan(build_decoder(big, Limits(), "bfloat16"), target)
    seconds = time.process_time() - start
    assert len(plan.grids) > 36 * 6
    assert seconds < 5, f"{seconds:.1f} s"
