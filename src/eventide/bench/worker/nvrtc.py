"""CUDA kernels without nvcc, for solutions whose entry is Python: NVRTC compiles, the driver launches.

A solution of language `cuda` with the entry ``launch.py::run`` and a source ``kernel.cu`` says::

    from eventide.bench.worker.nvrtc import Module

    kernel = Module.from_file(__file__, "kernel.cu")["rmsnorm"]

    def run(x, weight, out):
        kernel(grid=(x.shape[0],), block=(256,), arguments=(x, weight, out, x.shape[1]))

Tensors are passed by address, Python integers as int32, floats as float32; ctypes values as they are. Launches go to torch's
current stream. Compiled for the current device; headers come from the CUDA toolkit where one is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def _nvrtc() -> ctypes.CDLL:
    """NVRTC from torch's own dependencies, the toolkit or the loader's path. Searches without starting a process."""
    roots = [str(Path(torch.__file__).parents[1] / "nvidia" / "*" / "lib"), "/usr/local/cuda/lib64"]
    roots.append("/usr/local/cuda/targets/*/lib")
    found = [path for root in roots for path in sorted(glob.glob(f"{root}/libnvrtc.so*"))]
    for path in [*found, "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(path)
    raise OSError("libnvrtc was not found; it comes with PyTorch's CUDA packages and with the CUDA toolkit")


def _include_folders() -> list[str]:
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders = [f"{home}/include" for home in homes if home]
    folders += glob.glob(str(Path(torch.__file__).parents[1] / "nvidia" / "*" / "include"))
    return [folder for folder in folders if os.path.isdir(folder)]


def compile_cubin(source: str, name: str, options: Sequence[str] = ()) -> bytes:
    """Machine code of `source` for the current device; raises RuntimeError with the compiler's messages."""
    nvrtc = _nvrtc()
    major, minor = torch.cuda.get_device_capability()
    arch = f"sm_{major}{minor}" + ("a" if major >= 9 else "")
    flags = [f"--gpu-architecture={arch}", "--std=c++17", *(f"-I{f}" for f in _include_folders()), *options]
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
    status = nvrtc.nvrtcCompileProgram(program, len(flags), array)
    size = ctypes.c_size_t()
    if status:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC: {log.value.decode(errors='replace')}")
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    return cubin.raw


class Kernel:
    """One ``__global__`` function (declared ``extern "C"``)."""

    def __init__(self, driver: ctypes.CDLL, function: ctypes.c_void_p) -> None:
        self._driver, self._function = driver, function

    def allow_shared_memory(self, num_bytes: int) -> Kernel:
        """Raise the limit of dynamic shared memory, which is 48 KiB otherwise."""
        _check(self._driver.cuFuncSetAttribute(self._function, 8, num_bytes), "cuFuncSetAttribute")
        return self

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
    ) -> None:
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(v) for v in values))
        dims = [*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3]]
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        status = self._driver.cuLaunchKernel(self._function, *dims, shared_bytes, stream, pointers, None)
        _check(status, "cuLaunchKernel")


def _value(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int32(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument


def _check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"{what} failed with CUDA driver error {status}")


class Module:
    """Kernels of one source file, by name."""

    def __init__(self, source: str, name: str = "kernel.cu", options: Sequence[str] = ()) -> None:
        torch.cuda.current_stream()  # makes the context
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._module = ctypes.c_void_p()
        cubin = compile_cubin(source, name, options)
        _check(self._driver.cuModuleLoadData(ctypes.byref(self._module), cubin), "cuModuleLoadData")

    @classmethod
    def from_file(cls, beside: str, name: str, options: Sequence[str] = ()) -> Module:
        """The module of the source `name` in the folder of the file `beside`."""
        path = Path(beside).parent / name
        return cls(path.read_text(encoding="utf-8"), name, options)

    def __getitem__(self, name: str) -> Kernel:
        function = ctypes.c_void_p()
        status = self._driver.cuModuleGetFunction(ctypes.byref(function), self._module, name.encode())
        _check(status, f"cuModuleGetFunction({name})")
        return Kernel(self._driver, function)
