"""Plans on disk: what comes back is what was saved, and still proven."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eventide.errors import PlanError
from eventide.ir.nodes import Schedule, Segment
from eventide.ir.serial import from_dict, load, save, to_dict
from eventide.passes.verify import verify
from tests.programs import plans

PLANS = plans(verify=False)


@pytest.mark.parametrize("name", PLANS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    plan = PLANS[name]
    save(plan, tmp_path / "plan.json")
    again = load(tmp_path / "plan.json")
    assert again == plan and str(again) == str(plan)
    verify(again)


def test_a_legal_reordering_of_a_loaded_plan_is_accepted(tmp_path: Path) -> None:
    """A person edits the schedule on disk: other workers, other shares; then the order of two segments."""
    save(PLANS["decoder-cpu"], tmp_path / "plan.json")
    d = json.loads((tmp_path / "plan.json").read_text())
    d["schedule"]["num_workers"] = 5
    for s in d["schedule"]["segments"]:
        s["distribution"] = "cyclic"
    verify(from_dict(d))
    segments = d["schedule"]["segments"]
    segments[0], segments[1] = segments[1], segments[0]
    with pytest.raises(PlanError, match=r"deadlock at .*: task layers\.0\.qkv"):
        verify(from_dict(d))


def test_another_tiling_of_a_loaded_plan_is_accepted() -> None:
    """Half as many events: `mid` may wait for all columns of `up` in one cell."""
    plan = from_dict(to_dict(PLANS["mlp"]))
    assert plan.schedule is not None
    one = replace(plan, schedule=Schedule("static", 1, tuple(Segment(g.name) for g in plan.grids)))
    assert verify(one).proven


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not a plan"), ('{"format": 99}', "has format 99, this version reads 1"), ('{"format": 1}', "this is not a plan")],
)
def test_what_is_no_plan(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(PlanError, match=words):
        load(tmp_path / "p.json")
