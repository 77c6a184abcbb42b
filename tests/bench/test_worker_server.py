"""The process that workers are forked from: what they have of it, and its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventide.bench import sandbox
from eventide.bench.runner import server
from eventide.bench.runner.process import Limits, WorkerFailure, WorkerProcess


@contextmanager
def worker(folder: Path, source: str = "def run(): pass\n") -> Iterator[WorkerProcess]:
    """One that has loaded `source`."""
    (folder / "code.py").write_text(source)
    policy = sandbox.Policy(sandbox.choose(), keep=(str(folder),))
    with WorkerProcess(policy, Limits(1 << 30, 1 << 20)) as started:
        started.request({"op": "hello", "framework": "numpy", "device": "cpu", "destination_passing": True}, 60)
        code = {"kind": "python", "root": str(folder), "path": "code.py", "function": "run"}
        started.request({"op": "load", "code": code, "lock": True}, 60)
        yield started


def printed(folder: Path, source: str) -> str:
    with worker(folder, f"{source}\ndef run(): pass\n") as started:
        started._catch_up()
        return started.printed.strip()


def test_each_draws_other_numbers(tmp_path: Path) -> None:
    source = "import numpy as np, random\nprint(random.random(), np.random.random(), np.random.default_rng().random())"
    first, second = (printed(tmp_path, source).split() for _ in range(2))
    assert len(first) == 3 and not set(first) & set(second)


def test_a_worker_has_its_channel_alone(tmp_path: Path) -> None:
    source = "import os\nfor n in range(3, 4096):\n    try: print(os.readlink(f'/proc/self/fd/{n}')[:6])\n    except OSError: pass"
    assert printed(tmp_path, source) == "socket"


def test_the_environment_is_the_workers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    source = "import os\nprint('MY_TOKEN' in os.environ, os.environ['HOME'], os.getcwd())"
    assert printed(tmp_path, source) == "False /tmp /tmp"


def test_workers_end_with_their_server_and_the_next_has_another(tmp_path: Path) -> None:
    with worker(tmp_path) as started:
        old = server._server()
        os.kill(old._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailure, match="ended by SIGKILL"):
            started.receive(60)
        old._process.wait()
    with worker(tmp_path):
        assert server._server() is not old


def test_an_interrupted_question_does_not_answer_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with worker(tmp_path) as started:
        old = server._server()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(old._channel, "receive", interrupted)
            started._process.poll()
        assert started._process.wait(60) == -signal.SIGKILL
        old._process.wait()
    with worker(tmp_path):
        assert server._server() is not old
