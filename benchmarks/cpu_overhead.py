"""What the CPU workers cost: a chain of dependent tasks with next to no work, time per task grid.

    python benchmarks/cpu_overhead.py

With one worker this is dispatch alone; with more, every grid has one task on the next worker, so each step of the chain
is a hand-over between cores. Prints nanoseconds per grid, the best of many launches, so it can be run on a busy machine.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from eventide import Program
from eventide.backends.cpu import CpuKernel
from eventide.passes.pipeline import compile_plan
from eventide.target import cpu


def chain(length: int) -> Program:
    """x + x, again and again, on eight numbers."""
    program = Program("chain")
    tokens = program.symbol("num_tokens", 1, 4)
    x = program.input("x", (tokens, 8), "float32")
    for i in range(length):
        x = program.call("add", name=f"add{i}", a=x, b=x)
    program.output(x, "y")
    return program


def best_step_ns(length: int, workers: int, schedule: str) -> float:
    """The shortest time of a step in launches of 200 steps."""
    kernel = CpuKernel(compile_plan(chain(length), cpu(workers), schedule))
    x = np.zeros((1, 8), np.float32)
    best = float("inf")
    for _ in range(100):
        start = time.perf_counter()
        kernel.run_loop({"num_tokens": 1}, {"x": x}, 200)
        best = min(best, (time.perf_counter() - start) / 200)
    return best * 1e9


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for workers in (1, 2):
        for schedule in ("static", "per_op"):
            short, long = (best_step_ns(n, workers, schedule) for n in (20, 120))
            per_grid = (long - short) / 100
            print(f"{workers} workers, {schedule:7s} {per_grid:6.0f} ns per grid, step of 20 grids {short / 1e3:6.1f} us")


if __name__ == "__main__":
    main()
