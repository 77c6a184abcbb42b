"""How a solution is confined: which methods this machine permits, and the command line that starts a confined process.

    method       network                          file system                         other processes
    namespaces   own net namespace + filter       read-only mounts, masks             own pid namespace
    landlock     filter (+ Landlock TCP rules)    Landlock allow-list                 filter, Landlock signal scope
    none         filter                           everything the user may do          filter

Every method adds limits (file size, open files, core dumps), a system-call filter (`seccomp`) and the runner's
watchdog over memory, processes, output and time (`runner.process`). ``none`` is used only when a caller asks for it by
name.

    >>> plan = command(["/usr/bin/python3", "-c", "print(1)"], Policy(method=choose()))
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eventide.bench.sandbox.launch import SETUP_FAILED
from eventide.errors import BenchError

Method = Literal["namespaces", "landlock", "none"]
METHODS: tuple[Method, ...] = ("namespaces", "landlock", "none")

__all__ = ["METHODS", "SETUP_FAILED", "Method", "Policy", "available", "bootstrap", "child_env", "choose", "command"]

_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CC", "CXX",
    "NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS",
)  # fmt: skip


@dataclass(frozen=True)
class Policy:
    """What one confined process may do. Sizes in bytes; paths absolute."""

    method: Method
    hide: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    tmp_bytes: int = 1 << 30
    file_bytes: int = 1 << 30
    gpu: bool = False


def python_paths() -> list[str]:
    """Every folder that this interpreter needs to read in order to start and to import what it can import here."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.path.realpath(sys.executable))}
    paths |= set(import_paths())
    return sorted(paths - {"/"})


def import_paths() -> list[str]:
    """The folders of ``sys.path`` that hold installed code. A script's own folder may hold anything, data sets
    included."""
    root = Path(__file__).resolve().parents[2]
    named = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    kept = [p for p in sys.path if p in named or "site-packages" in p or "dist-packages" in p]
    kept += [p for p in sys.path if p not in kept and any(p.startswith(r.rstrip("/") + "/") for r in roots)]
    return [*dict.fromkeys([str(root.parent), *(p for p in kept if os.path.exists(p))])]


def bootstrap(module: str) -> list[str]:
    """Arguments after the interpreter that run `module` of the bench without importing the bench's front.

    The solution's process holds no comparison code and no schema, and starts a quarter of a second sooner.
    """
    root = Path(__file__).resolve().parents[2]
    parts = module.split(".")
    packages = [(".".join(parts[:n]), str(root.joinpath(*parts[1:n]))) for n in range(1, len(parts))]
    text = (
        "import sys, types, runpy\n"
        f"for n, p in {packages!r}:\n"
        "    m = sys.modules[n] = types.ModuleType(n); m.__path__ = [p]\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    return ["-c", text]


def child_env(scratch: str, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The confined process's environment: nothing secret, temporary folders in `scratch`."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env |= {"HOME": scratch, "TMPDIR": scratch, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    env |= {"PYTHONPATH": os.pathsep.join(import_paths()), "TRITON_CACHE_DIR": f"{scratch}/triton"}
    env |= {"USER": "eventide", "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor", "CUDA_CACHE_PATH": f"{scratch}/nv"}
    return env | (extra or {})


def command(argv: list[str], policy: Policy, env: dict[str, str] | None = None) -> list[str]:
    """The command line that runs `argv` confined by `policy`."""
    config = {
        "method": policy.method,
        "hide": list(policy.hide),
        "keep": sorted({*policy.keep, *python_paths()}),
        "writable": list(policy.writable),
        "tmp_bytes": policy.tmp_bytes,
        "file_bytes": policy.file_bytes,
        "unix_sockets": policy.gpu and policy.method == "namespaces",
        "memfd": policy.gpu,
        "argv": argv,
        "env": env if env is not None else child_env(policy.writable[0] if policy.writable else "/tmp"),
    }
    return [sys.executable, "-S", "-E", "-s", *bootstrap("eventide.bench.sandbox.launch"), json.dumps(config)]


@functools.cache
def available(method: Method) -> str | None:
    """None when `method` works here, else the reason, from actually starting a confined process."""
    probe = command(["/bin/true"], Policy(method=method), {})
    try:
        done = subprocess.run(probe, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}")


def choose(*, unsafe: bool = False, wanted: Method | None = None) -> Method:
    """The strongest method that works here, or `wanted`.

    Raises BenchError when nothing confines a solution here, unless `unsafe` says to run it regardless.
    """
    if wanted == "none" and not unsafe:
        raise BenchError("sandbox method 'none' confines nothing; pass --unsafe to run solutions that way")
    reasons = {}
    for method in (wanted,) if wanted else METHODS[:2]:
        reason = available(method)
        if reason is None:
            return method
        reasons[method] = reason
    if unsafe:
        return "none"
    detail = "; ".join(f"{name}: {why}" for name, why in reasons.items())
    raise BenchError(
        f"solutions cannot be confined on this machine ({detail}); allow unprivileged user namespaces or Landlock, "
        "or pass --unsafe to run them with your own rights"
    )
