"""Compiles the CPU tiles of all operators into one small library, for one instruction set, and runs whole grids of them.

    lib = library("avx512")
    lib.run("add", {"a": a, "b": b, "y": y}, {}, {"tile_m": 128}, extents=[2])

Arrays are passed as they are; `Panel` marks a packed weight. Tasks run one after another, as one worker would, so scratch
is kept between the tasks of a grid.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eventide import _native
from eventide.dtypes import from_numpy
from eventide.ops import get_op, list_ops
from eventide.ops.codegen import args_header, device_attrs
from eventide.ops.declaration import Attr, Op

SRC = Path(__file__).parents[2] / "src" / "eventide"
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512bf16": [*AVX512, "-mavx512bf16"],
    "avx512dots": [*AVX512, "-DEV_EMULATE_DOT"],  # the same callers, dot products made of FMAs
}
NEEDS = {"portable": "", "avx2": "avx2", "avx512": "avx512bw", "avx512bf16": "avx512_bf16", "avx512dots": "avx512bw"}
DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "int32": 3, "int64": 4}


def cpu_ops() -> list[str]:
    """The operators that have code for the CPU."""
    return [name for name in list_ops() if (SRC / "ops" / name / "cpu.h").exists()]


def runnable(isa: str) -> bool:
    """Whether this machine can run code for an instruction set."""
    if not NEEDS[isa]:
        return True
    if platform.machine() not in ("x86_64", "AMD64") or not Path("/proc/cpuinfo").exists():
        return False
    return NEEDS[isa] in Path("/proc/cpuinfo").read_text().split()


@dataclass
class Panel:
    """A weight of shape [n, k] packed into panels of 32 rows, as `layout` (task.h) says."""

    data: np.ndarray
    shape: tuple[int, int]
    dtype: str
    layout: int = 1


NARROW32 = 2


class _Operand(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
    ]


def pack(w: np.ndarray) -> Panel:
    """The packing of the contract (task.h), in NumPy."""
    n, k = w.shape
    step = 4 // w.itemsize
    padded = np.zeros((-(-n // 32) * 32, -(-k // step) * step), w.dtype)
    padded[:n, :k] = w
    panels = padded.reshape(-1, 32, padded.shape[1] // step, step).transpose(0, 2, 1, 3)
    return Panel(np.ascontiguousarray(panels), (n, k), from_numpy(w.dtype))


def pack_narrow(w: np.ndarray, threads: int = 1) -> Panel | None:
    """The extension's packing in 12 bits a value; None where it refuses."""
    packed = _native.pack_narrow(w.ctypes.data, *w.shape, threads)
    return None if packed is None else Panel(packed, (w.shape[0], w.shape[1]), "bfloat16", NARROW32)


def _c_type(attr: Attr, op: Op) -> str:
    return f"ev::{op.name}_{attr.name}" if attr.choices else {int: "int64_t", float: "float", bool: "bool"}[attr.type]


def _runner(op: Op) -> str:
    n = len(op.operands)
    sets = [f"a.{o.name} = operands[{i}];" for i, o in enumerate(op.operands)]
    sets += [f"a.{x.name} = ({_c_type(x, op)})attrs[{i}];" for i, x in enumerate(device_attrs(op))]
    sets += [f"a.{t} = tiles[{i}];" for i, t in enumerate(op.tile_attrs)]
    loops = " ".join(f"for (int64_t {x} = 0; {x} < extents[{i}]; {x}++)" for i, x in enumerate(op.axes))
    return f"""
extern "C" void run_{op.name}(const ev::Operand* operands, const double* attrs, const int64_t* tiles,
                              const int64_t* extents) {{
  static_assert({n} > 0);
  ev::{op.name}_args a;
  {" ".join(sets)}
  char* scratch = static_cast<char*>(std::aligned_alloc(64, (ev::EV_ISA::{op.name}_scratch(a) + 127) / 64 * 64));
  bool fresh = true;
  {loops} {{
    ev::EV_ISA::{op.name}_task(a, {{{", ".join(op.axes)}}}, {{scratch, fresh}});
    fresh = false;
  }}
  std::free(scratch);
}}"""


class Library:
    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))

    def run(
        self,
        name: str,
        operands: Mapping[str, Any],
        attrs: Mapping[str, Any],
        tiles: Mapping[str, int],
        extents: Sequence[int],
    ) -> None:
        """Runs every task of a grid; operands that are absent are left out of the mapping."""
        op = get_op(name)
        given = (_Operand * len(op.operands))()
        for slot, spec in zip(given, op.operands):
            value = operands.get(spec.name)
            if value is None:
                continue
            data = value.data if isinstance(value, Panel) else value
            assert data.flags.c_contiguous, spec.name
            slot.data = data.ctypes.data
            slot.dtype = DTYPES[value.dtype if isinstance(value, Panel) else from_numpy(data.dtype)]
            slot.layout = value.layout if isinstance(value, Panel) else 0
            for i, extent in enumerate(value.shape):
                slot.shape[i] = extent
        values = [
            a.choices.index(attrs.get(a.name, a.default)) if a.choices else attrs.get(a.name, a.default)
            for a in device_attrs(op)
        ]
        getattr(self._lib, f"run_{name}")(
            given,
            (ctypes.c_double * max(len(values), 1))(*values),
            (ctypes.c_int64 * max(len(op.tile_attrs), 1))(*(tiles[t] for t in op.tile_attrs)),
            (ctypes.c_int64 * len(extents))(*extents),
        )


def _sources() -> dict[str, str]:
    """Everything that is compiled, by file name."""
    ops = [get_op(name) for name in cpu_ops()]
    files = {f"{op.name}_args.h": args_header(op) for op in ops}
    lines = ["#include <cstdlib>", *(f'#include "{op.name}_args.h"\n#include "ops/{op.name}/cpu.h"' for op in ops)]
    return {**files, "tiles.cpp": "\n".join(lines + [_runner(op) for op in ops])}


@functools.cache
def compile_library(isa: str) -> Path:
    """Compiles all operators for one instruction set; kept between runs for as long as no source changes."""
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler, "the tests of the operators need a C++ compiler"
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unused-parameter", *FLAGS[isa]]
    files = _sources()
    digest = hashlib.sha256(repr((compiler, flags, files)).encode())
    for header in sorted([*SRC.glob("device/cpu/*.h"), *SRC.glob("ops/*/cpu.h")]):
        digest.update(header.read_bytes())
    build = Path(tempfile.gettempdir()) / f"eventide-ops-{digest.hexdigest()[:16]}-{os.getuid()}"
    build.mkdir(mode=0o700, exist_ok=True)
    out, made = build / f"{isa}.so", build / f"{isa}.{os.getpid()}.so"
    if not out.exists():
        for name, text in files.items():
            (build / name).write_text(text)
        command = [
            compiler,
            *flags,
            f"-DEV_ISA={isa}",
            f"-I{SRC}",
            f"-I{build}",
            str(build / "tiles.cpp"),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, f"{' '.join(command)}\n{done.stderr}"
        made.rename(out)
    return out


@functools.cache
def library(isa: str) -> Library:
    return Library(compile_library(isa))
