"""`eventide compile`: every pass prints what the golden files say. `pytest tests/cli --update-golden` writes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eventide.ir.serial import load
from eventide.passes.pipeline import PASSES
from tests.cli.conftest import Run

GOLDEN = Path(__file__).parent / "golden"


def _without_places(text: str) -> str:
    """Source lines move whenever a file is edited."""
    return re.sub(r" *# \S+\.py:\d+", "", text)


@pytest.mark.parametrize("name", PASSES)
def test_print_after(run: Run, name: str, request: pytest.FixtureRequest) -> None:
    found = run("compile", "eventide-tiny", "--layers", 1, "--threads", 2, "--print-after", name)
    assert found.code == 0 and found.out.startswith(f"# after {name}\n")
    text, path = _without_places(found.out), GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path} is out of date; if the change is meant, run with --update-golden"


def test_summary(run: Run) -> None:
    found = run("compile", "eventide-tiny")
    assert found.code == 0
    assert all(name in found.out for name in PASSES) and "tasks to decode one token" in found.out


def test_json(run: Run) -> None:
    arguments = ("--layers", 1, "--target", "h200", "--schedule", "per_op", "--print-after", "schedule", "--json")
    facts = json.loads(run("compile", "eventide-tiny", *arguments).out)
    assert facts["target"] == "cuda-sm_90a x132" and facts["schedule"] == "per_op"
    assert set(facts["passes_ms"]) == set(PASSES) and list(facts["printed"]) == ["schedule"]
    assert facts["tasks_of_a_decode_step"] > facts["num_grids"] > 8


def test_output(run: Run, tmp_path: Path) -> None:
    assert run("compile", "eventide-tiny", "--layers", 1, "--output", tmp_path / "plan.json").code == 0
    assert "head = linear[" in str(load(tmp_path / "plan.json"))
    found = run("compile", "eventide-tiny", "--layers", 1, "--output", tmp_path / "absent" / "plan.json")
    assert found.code == 2 and "can't be written: No such file" in found.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--print-after", "lower"), "unknown pass 'lower'; the passes are: fuse, tile"),
        (("--target", "tpu"), "--target must be one of cpu, h200, got 'tpu'"),
        (("--layers", "7"), "--layers must be from 1 to 6, got 7"),
        (("--schedule", "random"), "schedule must be one of auto, static"),
        (("--max-seq-len", "5000"), "max_seq_len must be from 1 to 1024"),
    ],
)
def test_errors(run: Run, arguments: tuple[str, ...], message: str) -> None:
    found = run("compile", "eventide-tiny", *arguments)
    assert found.code == 2 and message in found.err and found.out == ""
