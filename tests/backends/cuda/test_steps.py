"""`tools/engine_checks.py` in little on a GPU: any composition of steps gives each request what it gets alone, by the rule for
bfloat16 that the tool states, and the same composition the same bits."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.backends.cuda.gpu import need_gpu
from tests.scripts import load_tool

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    need_gpu()
    return load_tool("engine_checks")


def test_one_artefact_serves_all_batches_and_lengths(checks: ModuleType, tmp_path: Path) -> None:
    with checks.open_model(tmp_path, 24, 1000, "cuda") as llm:
        steps = checks.run_steps(llm, 40, 1, 128)
        churn = checks.run_churn(llm, 60, 2, 2000, 64)
    assert steps.problems == [] and churn.problems == []
    assert steps.figures["compiled"] == churn.figures["compiled"] == 0 and steps.figures["mixed_steps"] >= 40
    assert 0 < steps.figures["logprobs_differ_by"] <= checks.BOUND
    assert churn.figures["cancelled"] > 0 and churn.figures["preemptions"] > 0
