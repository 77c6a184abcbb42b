"""Where workers come from: a process that has imported what each of them needs, and forks.

A new interpreter with NumPy takes a third of a second, which would be most of what measuring a small solution takes. The
server holds nothing but these imports. What it forks leads a session of its own, confines itself (`sandbox.launch`) and
becomes the worker; the runner asks how it has ended.

    {"op": "start", "config": {...}} with the worker's end of its channel and where its output goes → {"pid": 4711}
    {"op": "ended", "pid": 4711} → {"code": None}, an exit status, or the negative number of the signal
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from typing import Any

import numpy as np

from eventide.bench.sandbox import launch
from eventide.bench.worker import loop
from eventide.bench.worker.channel import Channel


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: OpenBLAS ends its own before a fork
        return os.fork()


def _become(config: dict[str, Any], output: int) -> None:
    """Returns in the confined process alone."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    launch.confine(config)
    os.environ.clear()
    os.environ.update(config["env"])
    np.random.seed()  # or all would draw the same numbers


def _serve(control: Channel) -> int | None:
    """Until the runner is gone; in a worker, its end of its channel."""
    while True:
        try:
            message, fds = control.receive()
        except EOFError:
            return None
        if message["op"] == "start":
            pid = _fork()
            if pid == 0:
                control.sock.close()
                _become(message["config"], fds[1])
                return fds[0]
            for fd in fds:
                os.close(fd)
            control.send({"pid": pid})
        else:
            ended, status = os.waitpid(message["pid"], os.WNOHANG)
            control.send({"code": os.waitstatus_to_exitcode(status) if ended else None})


def main() -> None:
    channel = _serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
    if channel is not None:
        loop.serve(channel)


if __name__ == "__main__":
    main()
