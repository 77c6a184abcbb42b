"""C++ with the system's compiler and CUDA C++ with nvcc, in three bindings.

    binding      form of the entry function                                  needs
    tvm-ffi      TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run)                      apache-tvm-ffi
    (same)       extern "C" int run(const DLTensor*, ...)                     nothing: `eventide_bench.h` is ours
    torch        PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", …) } PyTorch's headers

A null binding means tvm-ffi, as the format says. Which of its two forms was meant shows in the exported symbols.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from eventide.bench.builders.base import BuildContext, BuildError, Built, compile_once, digest, write_sources
from eventide.bench.builders.python import PythonBuilder, framework_of
from eventide.bench.schema import Solution

_INCLUDE = str(Path(__file__).resolve().parent / "include")
_FORBIDDEN_FLAG = re.compile(r"-(fplugin|B|specs|wrapper|o|-output|ccbin|-compiler-bindir)")


def _flags(solution: Solution) -> list[str]:
    """The solution's own compile flags; raises BuildError for one that would replace a tool or the output."""
    extension = solution.eventide
    flags = list((extension.compile_flags if extension else None) or [])
    for flag in flags:
        if not flag.startswith("-") or _FORBIDDEN_FLAG.match(flag):
            raise BuildError(f"the compile flag {flag!r} is not allowed")
    return flags


def _is_torch(solution: Solution) -> bool:
    return str(solution.spec.binding or "") == "torch"


def _uses_tvm_ffi(solution: Solution) -> bool:
    return any("tvm/ffi/" in source.content for source in solution.sources)


@functools.cache
def _tvm_ffi_flags() -> list[str]:
    """Headers and library of apache-tvm-ffi, as its own command line tells them; empty when it is absent."""
    if importlib.util.find_spec("tvm_ffi") is None:
        return []
    flags: list[str] = []
    for question in ("--includedir", "--dlpack-includedir"):
        done = subprocess.run([sys.executable, "-m", "tvm_ffi.config", question], capture_output=True, text=True)
        flags += [f"-I{path}" for path in done.stdout.split()]
    for question in ("--ldflags", "--libs"):
        done = subprocess.run([sys.executable, "-m", "tvm_ffi.config", question], capture_output=True, text=True)
        flags += shlex.split(done.stdout)
    return flags


def _torch_flags(module: str, *, cuda: bool) -> list[str]:
    """Headers, libraries and definitions of a torch extension called `module`."""
    root = Path(next(iter(importlib.util.find_spec("torch").submodule_search_locations or ()))).resolve()  # type: ignore[union-attr]
    include, lib = root / "include", root / "lib"
    libraries = ["c10", "torch_cpu", "torch", "torch_python"] + (["c10_cuda", "torch_cuda"] if cuda else [])
    python_include = sysconfig.get_path("include")
    return [
        f"-I{include}",
        f"-I{include / 'torch/csrc/api/include'}",
        f"-I{python_include}",
        f"-DTORCH_EXTENSION_NAME={module}",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
        f"-L{lib}",
        *(f"-l{name}" for name in libraries if (lib / f"lib{name}.so").exists()),
    ]


class CppBuilder:
    """Language cpp: $CXX or g++, `-O3 -march=native`, OpenMP, then the solution's own flags."""

    name = "cpp"
    suffixes: tuple[str, ...] = (".cpp", ".cc", ".cxx", ".c++")

    def accepts(self, solution: Solution) -> bool:
        return str(solution.spec.language) == "cpp"

    def compiler(self) -> str | None:
        return shutil.which(os.environ.get("CXX", "").split(" ")[0] or "g++") or shutil.which("g++")

    def missing(self, solution: Solution, context: BuildContext) -> str | None:
        if self.compiler() is None:
            return "no C++ compiler is installed (g++, or the one that CXX names)"
        return self._missing_binding(solution)

    def _missing_binding(self, solution: Solution) -> str | None:
        if _is_torch(solution) and importlib.util.find_spec("torch") is None:
            return "its torch binding needs PyTorch"
        if _uses_tvm_ffi(solution) and importlib.util.find_spec("tvm_ffi") is None:
            return "its tvm-ffi binding needs the package apache-tvm-ffi"
        return None

    def _base(self, context: BuildContext) -> list[str]:
        return ["-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"]

    def build(self, solution: Solution, context: BuildContext) -> Built:
        compiler = self.compiler()
        assert compiler is not None
        base, own = self._base(context), _flags(solution)
        name = digest(solution, self.name, *base, _version(compiler))
        root = write_sources(solution, context, name)
        files = [str(root / s.path) for s in solution.sources if s.path.endswith(self.suffixes)]
        if not files:
            raise BuildError(f"no source ends with {' or '.join(self.suffixes)}")
        module = f"solution_{name}"
        output = context.cache / name / f"{module}.so"
        argv = [compiler, *base, f"-I{root}", f"-I{_INCLUDE}"]
        argv += ["-o", "{out}", *files]
        if _is_torch(solution):
            argv += _torch_flags(module, cuda=self.name == "cuda")
        elif _uses_tvm_ffi(solution):
            argv += _tvm_ffi_flags()
        argv += own
        compile_once(argv, output, context, readable=(str(root),))
        code = {"path": str(output), "function": solution.entry_function}
        if _is_torch(solution):
            return Built(
                {**code, "kind": "torch-extension", "module": module}, "torch", (str(output),), flags=(*base, *own)
            )
        # pointers need no framework on the host; the tvm-ffi package takes tensors
        framework = "torch" if context.is_cuda or _uses_tvm_ffi(solution) else "none"
        return Built({**code, "kind": "library"}, framework, (str(output),), flags=(*base, *own))


def nvcc_path() -> str | None:
    """nvcc of CUDA_HOME, of CUDA_PATH, of the PATH or of /usr/local/cuda."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    for home in [h for h in homes if h] + ["/usr/local/cuda"]:
        if os.access(f"{home}/bin/nvcc", os.X_OK):
            return f"{home}/bin/nvcc"
    return shutil.which("nvcc")


def _stubs() -> list[str]:
    """Where the linker finds the driver's library on a machine that compiles without one."""
    nvcc = nvcc_path()
    stubs = Path(nvcc).resolve().parents[1] / "lib64" / "stubs" if nvcc else None
    return [f"-L{stubs}"] if stubs is not None and stubs.is_dir() else []


class CudaBuilder(CppBuilder):
    """Language cuda: nvcc for sources with host code; a Python entry launches kernels that NVRTC compiles.

    Which one a solution means shows in its entry point: ``kernel.cu::run`` or ``launch.py::run`` (see `worker.nvrtc`).
    """

    name = "cuda"
    suffixes = (".cu", ".cpp", ".cc", ".cxx")

    def accepts(self, solution: Solution) -> bool:
        return str(solution.spec.language) == "cuda"

    def compiler(self) -> str | None:
        return nvcc_path()

    def missing(self, solution: Solution, context: BuildContext) -> str | None:
        if not context.is_cuda:
            return f"cuda solutions need a CUDA device, and this run is on {context.device}"
        if solution.entry_file.endswith(".py"):
            return PythonBuilder().missing(solution, context)
        if self.compiler() is None:
            return "nvcc is not installed, which CUDA sources with host code need; a Python entry with NVRTC needs none"
        return self._missing_binding(solution)

    def _base(self, context: BuildContext) -> list[str]:
        import torch

        major, minor = torch.cuda.get_device_capability(context.device)
        arch = f"{major}{minor}" + ("a" if major >= 9 else "")
        # torch's headers are C++17 or newer; host flags go through -Xcompiler
        target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
        return [
            "-std=c++17",
            "-O3",
            target,
            "--shared",
            "-Xcompiler",
            "-fPIC",
            "--expt-relaxed-constexpr",
            *_stubs(),
            "-lcuda",
        ]

    def build(self, solution: Solution, context: BuildContext) -> Built:
        if solution.entry_file.endswith(".py"):
            root = write_sources(solution, context, digest(solution, "nvrtc"))
            entry = {"root": str(root), "path": solution.entry_file, "function": solution.entry_function}
            assert framework_of([solution.entry_source.content])
            return Built({"kind": "python", **entry}, "torch", (str(root),))
        return super().build(solution, context)


@functools.cache
def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return done.stdout
