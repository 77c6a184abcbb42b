"""Compiles operators registered from outside the package, with the system's C++ compiler, when a plan needs them.

An operator `Op(..., folder=...)` whose folder holds a cpu.h gets the same generated structs and entry as those of the package
(`ops.codegen`), is compiled for the instruction set in use, and loaded. The library is kept in the cache directory under
a hash of everything that went into it, so each version is compiled once on a machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..env import CACHE_DIR
from ..errors import MissingDependencyError, ProgramError
from ..ops.codegen import args_header, entry_source, entry_symbol
from ..ops.declaration import Op

PACKAGE = Path(__file__).parents[1]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
FLAGS = {"portable": [], "avx2": _AVX2, "avx512": _AVX512, "avx512bf16": [*_AVX512, "-mavx512bf16"]}
_COMMON = ["-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]


def compile_entry(op: Op, isa: str) -> int:
    """The address of the operator's entry for one instruction set; compiles it unless that was done before."""
    from .. import _native

    if op.folder is None or not (op.folder / "cpu.h").exists():
        where = f"in {op.folder}" if op.folder else "because the operator was declared without a folder"
        raise ProgramError(f"operator '{op.name}' has no CPU code: there is no cpu.h {where}; write one or use another target")
    library = _library(op, isa, op.folder.resolve())
    return _native.load_entry(str(library), entry_symbol(op.name, isa))


def _library(op: Op, isa: str, folder: Path) -> Path:
    header, source = args_header(op), entry_source(op, isa, str(folder / "cpu.h"))
    compiler = _compiler()
    digest = hashlib.sha256()
    files = sorted([*folder.glob("*.h"), *(PACKAGE / "device" / "cpu").glob("*.h")])
    for part in (header, source, *FLAGS[isa], *_COMMON, _version(compiler), *(p.read_text() for p in files)):
        digest.update(part.encode() + b"\0")
    kept = CACHE_DIR.get() / "cpu" / f"{op.name}-{isa}-{digest.hexdigest()[:24]}.so"
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as build:
        (Path(build) / f"{op.name}_args.h").write_text(header)
        (Path(build) / "entry.cpp").write_text(source)
        out = Path(build) / "entry.so"
        command = [compiler, *_COMMON, *FLAGS[isa], f"-I{build}", f"-I{PACKAGE}", f"-I{PACKAGE.parent}"]
        done = subprocess.run([*command, str(Path(build) / "entry.cpp"), "-o", str(out)], capture_output=True, text=True)
        if done.returncode:
            first = next((x for x in done.stderr.splitlines() if "error" in x), done.stderr.strip())
            raise ProgramError(f"the CPU code of operator '{op.name}' does not compile: {first}")
        # renamed into place, so that no process ever loads half a file
        os.replace(out, kept)
    return kept


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise MissingDependencyError(
        "a C++ compiler is needed to compile the CPU code of operators from outside the package, and none was found "
        "(CXX, c++, g++, clang++); install one, for example with `apt install g++`"
    )


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
