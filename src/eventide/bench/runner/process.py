"""One confined worker process as the runner sees it: start, talk, stop, continue, end, and know why it ended.

    with WorkerProcess(policy, limits) as worker:
        worker.request({"op": "hello", ...}, timeout_s=60)
        worker.stop()                       # inputs are prepared while nothing of it runs
        wall_ns, waited_ns, reply = worker.timed_go({"op": "go", ...}, timeout_s=5, stop=True)

A thread watches the memory of the whole process tree and drains what it prints. Every way to fail ends in a
`WorkerFailure` that carries the status for the trace and a sentence.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from typing import Any

from eventide.bench import sandbox
from eventide.bench.sandbox import procs
from eventide.bench.worker.channel import Channel
from eventide.errors import BenchError

_KEEP_CHARS = 16_000
_POLL_S = 0.02


# what a worker may say of itself; everything else is this process's to say
_WORKER_STATUSES = frozenset({"INCORRECT_SHAPE", "INCORRECT_DTYPE", "RUNTIME_ERROR", "COMPILE_ERROR"})


def clean(text: str) -> str:
    """`text` fit for a record and a terminal: no lone surrogates, no control characters but tabs and line ends."""
    valid = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in valid)


class WorkerFailure(Exception):
    """A worker that did not do what it was asked. `status` is a status of the format."""

    def __init__(self, status: str, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.log = status, reason, log


@dataclass(frozen=True)
class Limits:
    """Bytes of resident memory, bytes of output, number of processes."""

    memory_bytes: int
    output_bytes: int
    num_processes: int = 64


class WorkerProcess:
    """A worker, from spawn (by exec, in a session of its own) to the end of its last descendant."""

    def __init__(self, policy: sandbox.Policy, limits: Limits, env: dict[str, str] | None = None) -> None:
        self.limits = limits
        self.shared_bytes = 0  # arenas mapped by the worker, which are not its own memory
        self._reason: tuple[str, str] | None = None
        self._printed = 0
        self._head, self._tail = bytearray(), bytearray()
        self._stopped = False
        self._worker_pid = 0
        self._order = 0
        self.channel, theirs = Channel.pair()
        argv = [sys.executable, *sandbox.bootstrap("eventide.bench.worker.__main__"), str(theirs.fileno())]
        scratch = policy.writable[0] if policy.writable else "/tmp"
        command = sandbox.command(argv, policy, sandbox.child_env(scratch, env))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._drain, daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what the worker prints, and what it uses

    def _drain(self) -> None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while True:
            try:
                data = os.read(pipe, 1 << 16)
            except OSError:
                return
            if not data:
                return
            self._printed += len(data)
            if len(self._head) < _KEEP_CHARS:
                self._head += data[: _KEEP_CHARS - len(self._head)]
            else:
                self._tail = (self._tail + data)[-_KEEP_CHARS:]
            if self._printed > self.limits.output_bytes:
                self._end_with("RUNTIME_ERROR", f"printed more than {self.limits.output_bytes} bytes")

    def _watch(self) -> None:
        while not self._closing.wait(_POLL_S):
            pids = self.descendants()
            if len(pids) > self.limits.num_processes:
                self._end_with("RUNTIME_ERROR", f"had {len(pids)} processes, more than {self.limits.num_processes}")
            used = sum(procs.own_memory(pid) for pid in pids) - self.shared_bytes
            if used > self.limits.memory_bytes:
                limit = self.limits.memory_bytes
                self._end_with("RUNTIME_ERROR", f"used {used >> 20} MiB of memory, more than {limit >> 20} MiB")

    def _end_with(self, status: str, reason: str) -> None:
        if self._reason is None:
            self._reason = (status, reason)
        self.kill()

    @property
    def printed(self) -> str:
        """What it printed: the beginning, and the end when there was too much."""
        head = clean(self._head.decode("utf-8", "replace"))
        if not self._tail:
            return head
        return head + f"\n... ({self._printed} bytes in all) ...\n" + clean(self._tail.decode("utf-8", "replace"))

    def descendants(self) -> list[int]:
        """Every process below the launcher."""
        return procs.descendants(self._process.pid)

    def extra_processes(self) -> list[int]:
        """Processes beside the launcher, the namespace's init and the worker itself."""
        worker = self.worker_pid
        expected = {worker, procs.parent(worker)}
        return [pid for pid in self.descendants() if pid not in expected]

    @property
    def worker_pid(self) -> int:
        """The worker's pid as this process sees it; 0 before it has started."""
        if not self._worker_pid:
            pid = self._process.pid
            depth = 0
            while (children := procs.children(pid)) and depth < 2:
                pid, depth = children[0], depth + 1
                if "eventide.bench.worker" in procs.command_line(pid) and "sandbox.launch" not in procs.command_line(
                    pid
                ):
                    self._worker_pid = pid
                    break
        return self._worker_pid

    # talking

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        self._order += 1
        try:
            self.channel.send({**message, "order": self._order}, fds)
        except OSError:
            raise self._ended() from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next message; raises WorkerFailure when the worker failed, ended or took too long."""
        poller = select.poll()
        poller.register(self.channel.sock, select.POLLIN)
        if not poller.poll(max(0.0, timeout_s) * 1000):
            self._end_with("TIMEOUT", f"did not answer within {timeout_s:.3g} s")
            raise self._ended()
        try:
            message, fds = self.channel.receive()
        except (EOFError, OSError):
            raise self._ended() from None
        for fd in fds:  # a worker has none to give
            os.close(fd)
        if message.get("order") != self._order:
            self._end_with("RUNTIME_ERROR", "answered out of turn: the channel was tampered with")
            raise self._ended()
        if message.get("op") == "failed":
            status, log = message.get("status"), clean(str(message.get("log", "")))
            if status not in _WORKER_STATUSES:
                status = "COMPILE_ERROR" if message.get("stage") == "load" else "RUNTIME_ERROR"
            last = log.strip().splitlines()[-1][:400] if log.strip() else "an error without a message"
            raise WorkerFailure(status, last, self._log(log))
        return message

    def request(self, message: dict[str, Any], timeout_s: float, fds: tuple[int, ...] = ()) -> dict[str, Any]:
        self.resume()
        self.send(message, fds)
        return self.receive(timeout_s)

    def timed_go(self, message: dict[str, Any], timeout_s: float, *, stop: bool) -> tuple[int, int, dict[str, Any]]:
        """One go: nanoseconds by this process's clock, nanoseconds of them that the worker waited for a core, the reply.

        A wait in which other threads of the worker ran is its own doing: work hidden behind decoys on one core is no wait.
        The order waits in the channel while the worker is stopped; with `stop` the worker is stopped again at once.
        """
        pid = self.worker_pid
        before_ns = procs.waited_ns(pid) - procs.other_threads_ns(pid)
        self.send(message)
        start = time.perf_counter_ns()
        self.resume()
        reply = self.receive(timeout_s)
        wall_ns = time.perf_counter_ns() - start
        if stop:
            self._signal(signal.SIGSTOP)
        # read before the worker wakes to stop, which is a wait of its own
        waited_ns = procs.waited_ns(pid) - procs.other_threads_ns(pid) - before_ns
        if stop:
            self.stop()
        return wall_ns, min(max(waited_ns, 0), wall_ns), reply

    def stop(self) -> None:
        """Stop every thread of every process of the group and wait until the worker has come to rest."""
        if self._stopped:
            return
        self._signal(signal.SIGSTOP)
        self._stopped = True
        deadline = time.perf_counter() + 0.5
        while procs.state(self.worker_pid) not in "TtZX" and time.perf_counter() < deadline:
            time.sleep(0.0001)  # it needs a core to stop, perhaps this one

    def resume(self) -> None:
        if self._stopped:
            self._stopped = False
            self._signal(signal.SIGCONT)

    # ending

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _catch_up(self) -> None:
        """Wait, not for long, until what the worker has printed so far has been read."""
        pipe, deadline = self._process.stdout, time.monotonic() + 0.2
        if pipe is None or pipe.closed:
            return
        waiting = array.array("i", [1])
        while waiting[0] and time.monotonic() < deadline:
            fcntl.ioctl(pipe.fileno(), termios.FIONREAD, waiting)
            time.sleep(0.002)

    def _log(self, text: str) -> str:
        self._catch_up()
        printed = self.printed.strip()
        return text + (f"\n--- printed ---\n{printed}" if printed else "")

    def _ended(self) -> WorkerFailure:
        """Why the process is gone, as precisely as its exit status and the watchdog know."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._threads[0].join(timeout=2)
        if self._reason is not None:
            status, reason = self._reason
            return WorkerFailure(status, reason, self._log(reason))
        if code == sandbox.SETUP_FAILED:
            raise BenchError(f"the sandbox could not be set up: {self.printed.strip()}")
        number = -code if code < 0 else code - 128
        if 0 < number < 65:
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            why = {
                "SIGSYS": " (a forbidden system call: a network socket, or a new process while timed)",
                "SIGSEGV": " (a memory fault; inputs are read-only)",
                "SIGBUS": " (a memory fault)",
            }.get(name, "")
            reason = f"ended by {name}{why}"
        else:
            reason = f"exited with status {code} before it answered"
        return WorkerFailure("RUNTIME_ERROR", reason, self._log(reason))

    def close(self) -> None:
        """End the process and everything below it; safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        self.kill()
        self._process.wait()
        self.channel.sock.close()
        for thread in self._threads:
            thread.join(timeout=2)
        if self._process.stdout is not None:
            self._process.stdout.close()
