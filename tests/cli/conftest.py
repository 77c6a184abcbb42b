"""Running the command line, in this process (fast) or as one of its own (exit codes, signals, pipes)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eventide.cli import main
from tests.checkpoints import Shape, make_checkpoint

PROGRAM = [sys.executable, "-c", "import sys; from eventide.cli import main; sys.exit(main())"]


@dataclass
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: Any) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2, num_kv_heads=1)
    return make_checkpoint(tmp_path_factory.mktemp("models") / "small", shape, tokenizer=True)


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "default"}
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        text=True,
        env=environment,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
