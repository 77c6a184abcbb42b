"""docs/bench.md: every block of it runs, in order, in one folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from eventide.bench import Definition, disable_apply, disable_tracing
from eventide.cli import bench

from .records import DEFINITION

PAGE = Path(__file__).parents[2] / "docs" / "bench.md"


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.S | re.M)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the page's C++ solution needs g++")
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    try:
        for language, content in blocks(PAGE.read_text(encoding="utf-8")):
            if language == "python":
                exec(compile(content, "docs/bench.md", "exec"), scope)
            elif language == "sh":
                for line in content.splitlines():
                    words = shlex.split(line)
                    if words[:2] == ["eventide", "bench"]:
                        argv = words[2:] + (["--unsafe"] if words[2] == "run" else [])
                        assert bench._run(argv) == 0, line
    finally:
        disable_apply()
        disable_tracing()
    out = capsys.readouterr().out
    assert "['rows'] {'hidden': 128}" in out and "second" in out
    assert (tmp_path / "leaderboard.html").is_file()


def test_the_extension_shown_is_valid() -> None:
    (shown,) = [
        json.loads(content) for language, content in blocks(PAGE.read_text(encoding="utf-8")) if language == "json"
    ]
    axes = {name: {"type": "var"} for name in ("num_kv_indices", "num_pages", "rows")}
    inputs = {name: {"shape": ["rows"], "dtype": "int32"} for name in ("kv_indptr", "kv_indices")}
    record = {**DEFINITION, "axes": axes, "inputs": inputs, "outputs": {}, **shown}
    assert Definition.model_validate(record).eventide is not None


def test_links_lead_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    heads = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^## (.*)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= heads
