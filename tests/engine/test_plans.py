"""Plans kept on disk: the same plan, made again when anything that it depends on changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventide import target
from eventide.engine import plans
from eventide.engine.load import Loaded, open_model
from eventide.errors import PlanError


@pytest.fixture
def loaded(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    monkeypatch.setenv("EVENTIDE_CACHE_DIR", str(tmp_path))
    return open_model(bare)


def _count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    original = plans.compile_plan

    def counted(*arguments, **options):
        made.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(plans, "compile_plan", counted)
    return made


def test_the_second_time_is_a_file(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _count(monkeypatch)
    first = plans.compiled_plan(loaded, target.cpu(2), "static")
    second = plans.compiled_plan(loaded, target.cpu(2), "static")
    assert len(made) == 1 and str(first) == str(second) and first == second
    assert [path.suffix for path in (tmp_path / "plans").iterdir()] == [".json"]


def test_what_a_plan_depends_on(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        plans._key(loaded, target.cpu(2), "static"),
        plans._key(loaded, target.cpu(3), "static"),
        plans._key(loaded, target.h200(), "static"),
        plans._key(loaded, target.cpu(2), "per_op"),
    }
    assert len(keys) == 4 and plans._key(loaded, target.cpu(2), "static") in keys
    names = {name for name, _, _ in plans._sources()}
    assert {"ir/expr.py", "ops/linear/__init__.py", "passes/tile.py", "models/decoder.py", "target.py"} <= names
    changed = [(*plans._sources()[0][:2], 0), *plans._sources()[1:]]
    monkeypatch.setattr(plans, "_sources", lambda: changed)
    assert plans._key(loaded, target.cpu(2), "static") not in keys


def test_a_broken_file_is_mended(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _count(monkeypatch)
    first = plans.compiled_plan(loaded, target.cpu(2), "static")
    (path,) = (tmp_path / "plans").iterdir()
    path.write_text(path.read_text()[:1000])
    assert str(plans.compiled_plan(loaded, target.cpu(2), "static")) == str(first) and len(made) == 2
    assert str(plans.compiled_plan(loaded, target.cpu(2), "static")) == str(first) and len(made) == 2


def test_nothing_is_kept_that_was_refused(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments, **options):
        raise PlanError("refused")

    monkeypatch.setattr(plans, "compile_plan", refuse)
    with pytest.raises(PlanError):
        plans.compiled_plan(loaded, target.cpu(2), "static")
    assert not (tmp_path / "plans").exists()


def test_old_ones_go(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_KEPT", 2)
    for number, workers in enumerate((1, 2, 3)):
        plans.compiled_plan(loaded, target.cpu(workers), "static")
        newest = max((tmp_path / "plans").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    assert len(list((tmp_path / "plans").iterdir())) == 2


def test_a_folder_that_cannot_be_written(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plans").write_text("in the way")
    assert plans.compiled_plan(loaded, target.cpu(2), "static").schedule is not None
