"""Printed plans are golden texts; `pytest --update-golden` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventide.passes.pipeline import compile_plan
from tests.programs import SMALL_CPU, SMALL_GPU, decoder, experts, heads_by_hand, mlp

GOLDEN = Path(__file__).parent / "golden"
PLANS = {
    "mlp": lambda: compile_plan(mlp(), SMALL_CPU),
    "heads": lambda: compile_plan(heads_by_hand(), SMALL_CPU),
    "experts": lambda: compile_plan(experts(), SMALL_CPU, "per_op"),
    "decoder": lambda: compile_plan(decoder(1), SMALL_GPU),
}


def without_lines(text: str) -> str:
    """Source lines move whenever a file is edited."""
    return "\n".join(line.split("    # ")[0] for line in text.splitlines()) + "\n"


@pytest.mark.parametrize("name", PLANS)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    text = without_lines(str(PLANS[name]()))
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "the printed plan changed; look at it and run pytest --update-golden"


def test_programs_print() -> None:
    text = str(mlp())
    assert "up = linear(x=x, w=w1, y=up) activation=silu_mul" in text
    assert "symbol    num_tokens" in text
