"""The runner's end of `worker.server`: starts workers by having them forked, and tells how they have ended."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from eventide.bench import sandbox
from eventide.bench.worker.channel import Channel
from eventide.errors import BenchError


class _Server:
    """The process that forks; it ends with this one, and everything that it has forked with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel, theirs = Channel.pair()
        # unconfined, so nothing may be imported from where it happens to run or from a temporary home
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *sandbox.bootstrap("eventide.bench.worker.server"), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd="/",
                env=sandbox.child_env(os.devnull),
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        with self._lock:
            try:
                self._channel.send(message, fds)
                return self._channel.receive()[0]
            except BaseException:
                self._process.kill()  # after Ctrl-C the answer that nobody has read would be taken for the next one's
                raise


_servers: dict[tuple[object, ...], _Server] = {}
_lock = threading.Lock()


def _server() -> _Server:
    """One for what a worker's interpreter is started with; another one after this process has been forked."""
    key = (os.getpid(), *sorted(sandbox.child_env(os.devnull).items()))
    with _lock:
        if key not in _servers or not _servers[key].alive:
            _servers[key] = _Server()
        return _servers[key]


class Started:
    """A launcher that the server has forked; `output` is the end of a pipe that has what it and the worker print."""

    def __init__(self, server: _Server, pid: int, output: int) -> None:
        self.pid, self.output = pid, output
        self._server = server
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None while it runs."""
        if self._code is None:
            try:
                self._code = self._server.ask({"op": "ended", "pid": self.pid})["code"]
            except (EOFError, OSError):
                self._code = -signal.SIGKILL  # as the server has ended
        return self._code

    def wait(self, timeout_s: float = float("inf")) -> int | None:
        """The same, after waiting for its end."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return self._code


def start(config: dict[str, Any], channel: socket.socket) -> Started:
    """A worker confined as `config` says, at the other end of `channel`, which is closed here."""
    server = _server()
    reading, writing = os.pipe()
    with channel:
        try:
            reply = server.ask({"op": "start", "config": config}, (channel.fileno(), writing))
        except (EOFError, OSError):
            os.close(reading)
            raise BenchError("the process that starts workers has ended") from None
        finally:
            os.close(writing)
    return Started(server, reply["pid"], reading)
