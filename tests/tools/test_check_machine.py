"""What `make run` and `make test` say first on a machine that lacks something: one clear line, with the way out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "check_machine.sh"
SH = shutil.which("sh") or "/bin/sh"


def check(python: str, **environment: str) -> tuple[int, str]:
    found = subprocess.run(
        [SH, str(SCRIPT), python], capture_output=True, text=True, env={**os.environ, "CXX": "", **environment}
    )
    return found.returncode, found.stderr


def fake(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!{SH}\n{body}\n")
    path.chmod(0o755)
    return path


def test_this_machine_is_fine() -> None:
    assert check(sys.executable) == (0, "")


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("version_info", "is Python 3.8.1, and Eventide needs 3.10 or newer"),
        ("ensurepip", "can't make virtual environments; apt install python3-venv"),
        ("Python.h", "are missing; apt install python3-dev"),
    ],
)
def test_python_that_lacks_something(tmp_path: Path, failing: str, message: str) -> None:
    body = f'case "$*" in -V) echo Python 3.8.1;; *{failing}*) exit 1;; esac'
    code, said = check(str(fake(tmp_path, "python3", body)))
    assert code == 1 and said.startswith("error: ") and message in said and len(said.splitlines()) == 1


def test_no_python(tmp_path: Path) -> None:
    code, said = check("python-that-is-not-there")
    assert code == 1 and said.startswith("error: no python-that-is-not-there found; install Python 3.10 or newer")


def test_no_compiler(tmp_path: Path) -> None:
    python = fake(tmp_path, "python3", "exit 0")
    code, said = check(str(python), PATH=str(tmp_path))
    assert (code, said) == (1, "error: no C++ compiler found; apt install g++ (or set CXX)\n")


def test_a_compiler_that_is_too_old(tmp_path: Path) -> None:
    code, said = check(sys.executable, CXX=str(fake(tmp_path, "g++", "exit 1")))
    assert code == 1 and "doesn't compile C++17; install a newer one" in said and len(said.splitlines()) == 1


def test_make_stops_there(tmp_path: Path) -> None:
    """The message is what make ends with, and no environment is left half made."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make isn't installed")
    root = SCRIPT.parents[1]
    found = subprocess.run(
        [make, "run", "PYTHON=python-that-is-not-there", f"VENV={tmp_path}/venv"], cwd=root, capture_output=True, text=True
    )
    assert found.returncode != 0 and "error: no python-that-is-not-there found" in found.stderr
    assert not (tmp_path / "venv").exists()
