"""An operator of one's own, with an event tensor by hand, compiled and called on NumPy arrays.

The program scales the rows of a matrix by their largest magnitude and multiplies them by a weight. The operator
`scale_rows` is the folder beside this file: its declaration (operands, task grid, regions), the NumPy meaning of one task
(reference.py), and its C++ code (cpu.h, which is compiled when it is first used, and kept).

The event tensor `scaled` says which task of the product waits for which rows. Left out, it is inferred from the regions,
with the same meaning; the verifier proves either before anything runs. Take a cell away from the waits, and the plan is
refused, with the two tasks that conflict.

python examples/02_own_operator.py
"""

import numpy as np
from scale_rows import OP, ROWS

import eventide
from eventide.errors import PlanError
from eventide.ir import minimum
from eventide.ops import register

register(OP)


def build(events: str) -> eventide.Program:
    p = eventide.Program("scaled_product")
    n = p.symbol("num_rows", 1, 512)
    x = p.input("x", (n, 64), "float32")
    w = p.weight("w", (96, 64), "float32")
    if events == "inferred":
        h = p.call("scale_rows", name="scale", x=x)
        p.output(p.call("linear", name="product", x=h, w=w), "y")
        return p
    # a cell for each 16 rows; a task of the product takes 128 rows, so it waits for eight cells
    cells = (n + ROWS - 1) // ROWS
    scaled = p.event("scaled", (cells,), needed=1)
    waited = 8 if events == "by hand" else 7
    h = p.call("scale_rows", name="scale", x=x, notifies=lambda m: [scaled[m]])
    y = p.call("linear", name="product", x=h, w=w, waits=lambda m: [scaled[8 * m : minimum(8 * m + waited, cells)]])
    p.output(y, "y")
    return p


rng = np.random.default_rng(0)
w = rng.normal(size=(96, 64)).astype(np.float32)
for events in ("by hand", "inferred"):
    for target in ("interp", "cpu"):
        kernel = eventide.compile(build(events), target=target, num_threads=2)
        if target == "interp":
            print(f"events {events}:\n{kernel.plan}\n")
        for num_rows in (1, 100, 512):  # one compiled kernel serves every size
            x = rng.normal(size=(num_rows, 64)).astype(np.float32)
            expected = x / np.abs(x).max(axis=1, keepdims=True) @ w.T
            difference = np.abs(kernel(x=x, w=w) - expected).max()
            print(f"{target}, {num_rows} rows: largest difference from NumPy {difference:.1e}")
            assert difference < 1e-4
    print()

try:
    eventide.compile(build("a cell short"), target="cpu")
except PlanError as error:
    print("events a cell short are refused:", error)
else:
    raise SystemExit("a plan that waits for too little was accepted")
