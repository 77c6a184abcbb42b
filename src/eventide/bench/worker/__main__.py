"""The worker's loop: one message in, one or two out. Ends when the runner closes the channel or says so."""

from __future__ import annotations

import gc
import os
import socket
import sys
import traceback
from typing import Any

from eventide.bench.worker.arrays import Arena, TensorInfo
from eventide.bench.worker.channel import Channel
from eventide.bench.worker.host import HostSide
from eventide.bench.worker.load import Loaded, load
from eventide.bench.worker.results import ResultError

LOG_CHARS = 8000


def _describe(error: BaseException) -> str:
    """The traceback from the solution's first frame on, its end kept when it is long."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/eventide/bench/worker/" not in f.filename]
    text = "".join(traceback.format_list(frames)) + "".join(traceback.format_exception_only(type(error), error))
    return text[-LOG_CHARS:]


class Worker:
    """State between messages: the code, then the bound arguments."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.loaded: Loaded | None = None
        self.framework = "numpy"
        self.device = "cpu"
        self.destination_passing = True
        self.side: Any = None

    def hello(self, message: dict[str, Any]) -> dict[str, Any]:
        """Import what every solution of this kind needs; the solution's own time has not begun."""
        self.framework, self.device = message["framework"], message["device"]
        self.destination_passing = message["destination_passing"]
        if self.framework == "torch":
            import torch

            torch.set_grad_enabled(False)
            if self.device != "cpu":
                torch.cuda.set_device(self.device)
                torch.zeros(1, device=self.device)
        return {}

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["lock"]:
            self.lock({})  # this code has no reason to start a process, not even while it is imported
        self.loaded = load(message["code"])
        return {}

    def bind(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        assert self.loaded is not None
        self.side = None
        inputs = [TensorInfo.from_json(i) for i in message["inputs"]]
        outputs = [TensorInfo.from_json(i) for i in message["outputs"]]
        arenas = (
            Arena(fds[0], message["input_bytes"], writable=False),
            Arena(fds[1], message["output_bytes"], writable=True),
        )
        options: dict[str, Any] = {
            "slots": message["slots"],
            "destination_passing": self.destination_passing,
            "cast": message["cast"],
        }
        if self.device == "cpu":
            self.side = HostSide(self.loaded, self.framework, inputs, outputs, arenas, **options)
        else:
            from eventide.bench.worker.cuda import CudaSide

            self.side = CudaSide(self.loaded, self.device, inputs, outputs, arenas, **options)
        for fd in fds:
            os.close(fd)
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection inside a timed call would be charged to the solution
        return {}

    def lock(self, message: dict[str, Any]) -> dict[str, Any]:
        from eventide.bench.sandbox import seccomp

        seccomp.install(seccomp.locked_rules())
        return {}

    def go(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = self.side.go(message)
        return reply

    def inspect(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = self.side.inspect(message)
        return reply

    def order(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = self.side.order(message)
        return reply

    def prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = self.side.prepare(message)
        return reply

    def answer(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        operation = message["op"]
        try:
            if operation == "bind":
                reply = self.bind(message, fds)
            else:
                reply = getattr(self, operation)(message)
        except ResultError as error:
            return {"op": "failed", "stage": operation, "status": error.status, "log": str(error)}
        except BaseException as error:  # SystemExit included: a solution may not end its process
            return {
                "op": "failed",
                "stage": operation,
                "status": "",
                "kind": type(error).__name__,
                "log": _describe(error),
            }
        return {"op": operation, **reply}


def main() -> None:
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    worker = Worker(channel)
    while True:
        try:
            message, fds = channel.receive()
        except EOFError:
            return
        if message["op"] == "exit":
            return
        channel.send({**worker.answer(message, fds), "order": message["order"]})


if __name__ == "__main__":
    main()
