"""`tools/engine_checks.py` in little: any composition of steps gives each request what it gets alone, bit for bit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_tool

pytestmark = pytest.mark.untraced  # repeats itself: counting lines would take longer than the tests


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    return load_tool("engine_checks")


@pytest.mark.parametrize(("steps", "seqs", "length"), [(30, 8, 400), pytest.param(50, 64, 600, marks=pytest.mark.slow)])
def test_one_plan_serves_all_batches_and_lengths(checks: ModuleType, tmp_path: Path, steps: int, seqs: int, length: int) -> None:
    with checks.open_model(tmp_path, seqs, length) as llm:
        report = checks.run_steps(llm, steps, 1, 96)
    assert report.problems == []
    f = report.figures
    assert f["mixed_steps"] >= steps and f["compiled"] == 0 and f["batches"][1] > seqs // 2


@pytest.mark.parametrize("requests", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_requests_that_come_and_go_in_a_small_cache(checks: ModuleType, tmp_path: Path, requests: int) -> None:
    with checks.open_model(tmp_path, 16, 512) as llm:
        report = checks.run_churn(llm, requests, 2, 1024, 64)
    assert report.problems == []
    f = report.figures
    assert f["preemptions"] > 0 and f["cancelled"] > 0 and f["tokens_from_cache"] > 0 and f["pages_lost"] == 0


def test_what_went_wrong_is_told(checks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool itself: a token that isn't the one drawn alone, a page that doesn't come back, a plan compiled meanwhile."""
    from eventide.engine import plans
    from eventide.engine.generation import Generation
    from eventide.engine.pool import Pool

    take, close = Generation.take, Pool.close
    calls = [0, 0]

    def taking(self: Generation, outputs: dict, row: int) -> int:  # type: ignore[type-arg]
        n = take(self, outputs, row)
        calls[0] += 1
        if calls[0] == 40:
            self.fresh[-1] ^= 1
        return n

    def closing(self: Pool, place) -> None:  # type: ignore[no-untyped-def]
        calls[1] += 1
        if calls[1] == 3:
            place.pages.pop()
            plans.compile_plan(*compiled)
        close(self, place)

    with checks.open_model(tmp_path, 8, 200) as llm:
        from eventide.models.decoder import build_decoder
        from eventide.target import cpu

        compiled = (build_decoder(llm.config, llm.limits, "float32"), cpu(1), "static")
        monkeypatch.setattr(Generation, "take", taking)
        monkeypatch.setattr(Pool, "close", closing)
        report = checks.run_steps(llm, 6, 1, 96)
    told = " ".join(report.problems)
    for words in ("got other tokens or log-probabilities than alone", "loaded something: {'plan': 1}", "1 pages are lost"):
        assert words in told, told
