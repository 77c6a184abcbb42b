"""Every numbered example runs, from another directory, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eventide

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_numbered_and_listed() -> None:
    assert [path.name[:3] for path in EXAMPLES] == [f"{number:02d}_" for number in range(1, len(EXAMPLES) + 1)]
    readme = (ROOT / "README.md").read_text()
    assert [path.name for path in EXAMPLES if path.name not in readme] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(path: Path, tmp_path: Path) -> None:
    if "import torch" in path.read_text() and "cuda" in path.read_text():
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")
    environment = {**os.environ, "PYTHONPATH": str(Path(eventide.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout and not list(tmp_path.iterdir())


def test_each_says_how_to_run_it() -> None:
    for path in EXAMPLES:
        assert re.search(rf"^ *python examples/{path.name}$", path.read_text(), re.M), path
