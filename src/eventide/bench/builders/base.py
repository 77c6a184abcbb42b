"""What a builder is: from a solution's sources to something that a worker can load, made inside the sandbox.

    Solution ──build──▶ Built(code={"kind": "library", "path": ".../solution.so", "function": "run"}, ...)

Sources and results live in a folder named by a digest of everything that matters (sources, entry, binding, flags,
builder, compiler), so that a second run finds them. Compilers run confined like the solutions themselves: they read
what the solution may read and write one scratch folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eventide.bench import sandbox
from eventide.bench.sandbox import procs
from eventide.bench.schema import Solution

_LOG_BYTES = 16_000


class BuildError(Exception):
    """The solution does not build; becomes COMPILE_ERROR with `log`."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.reason, self.log = reason, log or reason


@dataclass(frozen=True)
class Built:
    """What a worker needs: `code` for `worker.load`, the framework of its arguments, and the paths it must see."""

    code: dict[str, Any]
    framework: str
    """"numpy", "torch" or "none" (pointers only)."""
    readable: tuple[str, ...]
    starts_processes: bool = False
    """Whether it may start compilers while it warms up (Triton does); never afterwards."""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuildContext:
    """Where to build, for which device, and how the compiler is confined."""

    cache: Path
    device: str
    method: sandbox.Method
    hide: tuple[str, ...] = ()
    timeout_s: float = 300.0
    memory_bytes: int = 8 << 30
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")


class Builder(Protocol):
    """One way to build. `missing` is asked first: an absent tool skips a solution, it does not fail it."""

    name: str

    def accepts(self, solution: Solution) -> bool:
        """Whether this builder is for the solution's language and binding."""

    def missing(self, solution: Solution, context: BuildContext) -> str | None:
        """A sentence on what is not installed here, or None."""

    def build(self, solution: Solution, context: BuildContext) -> Built:
        """Raises BuildError."""


def digest(solution: Solution, *more: str) -> str:
    """32 hex digits over everything that a build depends on, each part with its length so that none can pose as two."""
    spec = solution.spec
    extension = solution.eventide
    flags = (extension.compile_flags if extension else None) or []
    parts = [str(spec.language), spec.entry_point, str(spec.binding or ""), *flags, *more]
    for source in solution.sources:
        parts += [source.path, source.content]
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:32]


def write_sources(solution: Solution, context: BuildContext, name: str) -> Path:
    """The folder with the solution's files, written once."""
    root = context.cache / name / "src"
    if root.exists():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="src-", dir=root.parent))
    for source in solution.sources:
        path = fresh / source.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.content, encoding="utf-8", errors="surrogatepass")
    _publish(fresh, root)
    return root


def _publish(fresh: Path, final: Path) -> None:
    """Rename into place; a second builder of the same thing loses without harm."""
    fresh.chmod(0o755)
    try:
        fresh.rename(final)
    except OSError:
        if not final.exists():
            raise
        shutil.rmtree(fresh, ignore_errors=True)


def _run_watched(command: list[str], context: BuildContext) -> tuple[int, str]:
    """Exit status and messages of a confined compiler, ended when it takes too much time or memory."""
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + context.timeout_s
        problem = ""
        while not problem:
            try:
                process.wait(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                used = sum(procs.own_memory(pid) for pid in procs.descendants(process.pid))
                if used > context.memory_bytes:
                    problem = f"the compiler used more than {context.memory_bytes >> 20} MiB of memory"
                elif time.monotonic() > deadline:
                    problem = f"the compiler did not end within {context.timeout_s:g} s"
        if problem:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise BuildError(problem)
        messages.seek(0)
        return process.returncode, messages.read(_LOG_BYTES).decode("utf-8", "replace")


def compile_once(
    argv: list[str], output: Path, context: BuildContext, *, readable: tuple[str, ...] = (), gpu: bool = False
) -> None:
    """Run a compiler confined; `{out}` in `argv` is where it must write. Raises BuildError with its messages."""
    if output.exists():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="eventide-build-"))
    try:
        target = scratch / output.name
        policy = sandbox.Policy(
            method=context.method,
            hide=context.hide,
            keep=readable,
            writable=(str(scratch),),
            file_bytes=4 << 30,
            gpu=gpu,
        )
        command = sandbox.command([a.replace("{out}", str(target)) for a in argv], policy)
        status, log = _run_watched(command, context)
        if status != 0 or not target.exists():
            raise BuildError(f"{Path(argv[0]).name} ended with status {status}", log)
        part = output.with_name(f"{output.name}.{os.getpid()}.part")
        shutil.copyfile(target, part)
        part.chmod(0o755)
        part.replace(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
