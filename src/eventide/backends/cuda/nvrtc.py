"""Compiles generated source with NVRTC, for sm_90a, and keeps the result on disk under the hash of all that decides it.

Neither a GPU nor a toolkit is needed: the source includes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...env import CACHE_DIR
from ...errors import DeviceError, MissingDependencyError

ARCH = "sm_90a"
OPTIONS = (f"--gpu-architecture={ARCH}", "--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v", "-lineinfo")


@dataclass(frozen=True)
class Binary:
    """Machine code and the compiler's report on it."""

    cubin: bytes
    log: str
    key: str

    @property
    def resources(self) -> dict[str, int]:
        """registers, spill_bytes, stack_bytes and static shared_bytes of the kernel, from the compiler's report."""
        found = {"registers": 0, "spill_bytes": 0, "stack_bytes": 0, "shared_bytes": 0}
        for name, pattern in (
            ("registers", r"Used (\d+) registers"),
            ("spill_bytes", r"(\d+) bytes spill stores"),
            ("stack_bytes", r"(\d+) bytes stack frame"),
            ("shared_bytes", r"(\d+) bytes smem"),
        ):
            values = [int(v) for v in re.findall(pattern, self.log)]
            found[name] = max(values, default=0)
        return found


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise MissingDependencyError(
            "compiling for a GPU needs cuda-bindings and NVRTC; install them with: pip install 'eventide[cuda]'"
        ) from None
    return nvrtc


def compile_source(source: str, *, cache: bool = True) -> Binary:
    """Machine code for `source`, from the cache if it was compiled before by the same compiler."""
    nvrtc = _nvrtc()
    try:
        version = nvrtc.nvrtcVersion()
    except Exception as e:
        # the bindings look for NVRTC's library at their first call
        raise MissingDependencyError(
            f"compiling for a GPU needs NVRTC, whose library was not found ({type(e).__name__}); install it with: "
            "pip install 'eventide[cuda]'"
        ) from None
    key = hashlib.sha256("\n".join([source, *OPTIONS, str(version[1:])]).encode()).hexdigest()[:32]
    folder = Path(CACHE_DIR.get()) / "cuda"
    cubin, log = folder / f"{key}.cubin", folder / f"{key}.log"
    if cache and cubin.exists() and log.exists():
        return Binary(cubin.read_bytes(), log.read_text(), key)
    binary = Binary(*_compile(nvrtc, source), key)
    if cache:
        folder.mkdir(parents=True, exist_ok=True)
        _write(log, binary.log.encode())
        _write(cubin, binary.cubin)
    return binary


def _write(path: Path, data: bytes) -> None:
    """Atomically: another process may compile the same source at the same time."""
    fd, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
    os.replace(name, path)


def _check(nvrtc: Any, result: Any) -> Any:
    if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(f"NVRTC failed: {nvrtc.nvrtcGetErrorString(result[0])[1].decode()}")
    return result[1] if len(result) == 2 else result[1:]


def _compile(nvrtc: Any, source: str) -> tuple[bytes, str]:
    program = _check(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), b"eventide.cu", 0, [], []))
    options = [o.encode() for o in OPTIONS]
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    size = _check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
    log = b" " * size
    _check(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
    text = log.decode(errors="replace").rstrip("\0 \n")
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        why = "this is a bug of Eventide's or of an operator's cuda.cuh"
        raise DeviceError(f"the generated CUDA source does not compile; {why}:\n{text}")
    size = _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program))
    cubin = b" " * size
    _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, cubin))
    nvrtc.nvrtcDestroyProgram(program)
    return cubin, text
