"""The C++ workers under ThreadSanitizer and AddressSanitizer: a small executable runs a decoder's plan again and again,
with delays, stops and aborts, and compares every output bit by bit (native/stress/stress.cpp)."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from eventide.backends.cpu_lower import lower
from eventide.engine.steps import Chunk, make_step
from eventide.ops import get_op
from eventide.ops.codegen import args_header, entry_source, registry_source

from . import decoders as d

NATIVE = Path(__file__).parents[2] / "native"
PACKAGE = NATIVE.parent / "src" / "eventide"
# unoptimised: no access is left out, and compiling takes two thirds of the time
FLAGS = ["-std=c++17", "-O0", "-g1", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
# fixed addresses: ThreadSanitizer cannot place its shadow memory under every address randomisation
FIXED = ["setarch", "-R"] if shutil.which("setarch") else []


def usable(sanitizer: str, compiler: str, folder: Path) -> bool:
    probe = folder / "probe.cpp"
    probe.write_text("#include <thread>\nint main() { std::thread t([] {}); t.join(); }\n")
    built = subprocess.run(
        [compiler, f"-fsanitize={sanitizer}", "-pthread", str(probe), "-o", str(folder / "probe")], capture_output=True
    )
    return (
        built.returncode == 0 and subprocess.run([*FIXED, str(folder / "probe")], capture_output=True).returncode == 0
    )


def build(sanitizer: str, compiler: str, ops: list[str], folder: Path) -> Path:
    sources = [*(NATIVE / "src").glob("*.cpp"), NATIVE / "stress" / "stress.cpp"]
    for name in ops:
        (folder / f"{name}_args.h").write_text(args_header(get_op(name)))
        sources.append(folder / f"{name}.cpp")
        sources[-1].write_text(entry_source(get_op(name), "portable", f"ops/{name}/cpu.h"))
    sources.append(folder / "registry.cpp")
    sources[-1].write_text(registry_source(ops, ["portable"]))
    include = [f"-I{p}" for p in (NATIVE / "src", folder, PACKAGE, PACKAGE.parent)]

    def compile(source: Path) -> str:
        out = str(folder / f"{source.parent.name}.{source.stem}.o")
        subprocess.run(
            [compiler, f"-fsanitize={sanitizer}", *FLAGS, *include, "-c", str(source), "-o", out], check=True
        )
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, sources))
    program = folder / "stress"
    subprocess.run([compiler, f"-fsanitize={sanitizer}", "-pthread", *objects, "-o", str(program)], check=True)
    return program


def write_case(folder: Path) -> list[str]:
    """A plan and its data, with the outputs of the installed extension; returns the operators it needs."""
    c = d.config(num_layers=1, vocab_size=41, hidden_size=32, intermediate_size=32)
    plan = d.plan_of(c, workers=3)
    weights, prompts, steps = d.random_weights(plan, c), d.prompts(c), d.mixed_steps(3, 6)
    # equal symbols step after step: workers replay what they recorded
    steps += [make_step(d.LIMITS, [Chunk(s, k, 1) for s in (0, 2)], d.TILE_QUERIES) for k in range(20, 26)]
    kernel = d.cpu_kernel(plan, weights, prompts, isa="portable")
    initial = {name: memory.copy() for name, memory in kernel._memory.items()}
    outputs = kernel.run(steps)
    names = list(plan.tensors)
    blob = [struct.pack("<q", len(initial))]
    for name, memory in initial.items():
        blob += [struct.pack("<qq", names.index(name), memory.nbytes), memory.tobytes()]
    blob.append(struct.pack("<q", len(steps)))
    for step, out in zip(steps, outputs, strict=True):
        blob.append(np.array([step.symbols[s] for s in plan.symbols], np.int64).tobytes())
        for t in plan.tensors.values():
            if t.role in ("input", "output"):
                data = (step.inputs if t.role == "input" else out)[t.name].tobytes()
                blob += [struct.pack("<q", len(data)), data]
    (folder / "plan.txt").write_text(lower(plan))
    (folder / "data.bin").write_bytes(b"".join(blob))
    return sorted({g.op for g in plan.grids})


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_workers_run_clean(sanitizer: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or ""
    if not compiler or not usable(sanitizer, compiler, tmp_path):
        pytest.skip(f"the C++ compiler here has no usable -fsanitize={sanitizer}")
    program = build(sanitizer, compiler, write_case(tmp_path), tmp_path)
    command = [*FIXED, str(program), str(tmp_path / "plan.txt"), str(tmp_path / "data.bin"), "6"]
    options = {"TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **options}, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "6 passes of 12 steps\n"
    assert "Sanitizer" not in done.stderr
