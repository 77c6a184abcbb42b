"""An operator of one's own, with an event tensor by hand, compiled and called on NumPy arrays.

The program normalises the rows of a matrix by their largest magnitude and multiplies them by a weight. The operator
`scale_rows` is declared here: operands, task grid, regions, and the NumPy code of one task. The event tensor `scaled`
says which task of the product waits for which rows. Left out, it would be inferred from the regions, with the same
meaning; the verifier proves either before anything runs. An operator that has NumPy code alone runs in the interpreter;
the second program, of operators that come with Eventide, runs on the CPU workers.

python examples/02_own_operator.py
"""

import numpy as np

import eventide
from eventide.ops import Op, Operand, Tiling, register
from eventide.ops.declaration import full, tiled

ROWS = 16  # rows that one task handles


def tile(call, target):
    """How a call becomes tasks: one for each 16 rows, reading and writing exactly these."""
    num_rows, num_cols = call["y"].shape
    m = tiled("m", ROWS, num_rows)
    return Tiling(axes=[m.axis], regions={"x": (m.span, full(num_cols)), "y": (m.span, full(num_cols))})


def scale_rows(t):
    """What one task computes, on views of its regions."""
    t.y[...] = t.x / np.abs(t.x).max(axis=1, keepdims=True)


register(
    Op(
        "scale_rows",
        operands=[Operand("x"), Operand("y", "write")],
        axes=["m"],
        outputs_of=lambda call: [(call["x"].shape, call["x"].dtype)],
        tile=tile,
        reference_tile=scale_rows,
    )
)


def build(by_hand: bool) -> eventide.Program:
    p = eventide.Program("scaled_product")
    n = p.symbol("num_rows", 1, 512)
    x = p.input("x", (n, 64), "float32")
    w = p.weight("w", (96, 64), "float32")
    if by_hand:
        # a cell for each 16 rows; the product's tasks take 128 rows, so each waits for eight cells
        scaled = p.event("scaled", ((n + ROWS - 1) // ROWS,), needed=1)
        h = p.call("scale_rows", name="scale", x=x, notifies=lambda m: [scaled[m]])
        y = p.call("linear", name="product", x=h, w=w, waits=lambda m: [scaled[8 * m : 8 * m + 8]])
    else:
        h = p.call("scale_rows", name="scale", x=x)
        y = p.call("linear", name="product", x=h, w=w)
    p.output(y, "y")
    return p


def check(kernel, expected, w):
    """One compiled kernel serves every size."""
    rng = np.random.default_rng(0)
    for num_rows in (1, 100, 512):
        x = rng.normal(size=(num_rows, 64)).astype(np.float32)
        difference = np.abs(kernel(x=x, w=w) - expected(x)).max()
        print(f"{num_rows} rows: largest difference from NumPy {difference:.1e}")
        assert difference < 1e-4


w = np.random.default_rng(1).normal(size=(96, 64)).astype(np.float32)
for by_hand in (True, False):
    kernel = eventide.compile(build(by_hand), target="interp", num_threads=2)
    print(kernel.plan)
    check(kernel, lambda x: x / np.abs(x).max(axis=1, keepdims=True) @ w.T, w)
    print()

p = eventide.Program("two_products")
n = p.symbol("num_rows", 1, 512)
done = p.event("done", ((n + 127) // 128,), needed=3)  # each tile of 128 rows has 96 / 32 tasks
w2 = p.weight("w2", (64, 96), "float32")
h = p.call("linear", name="up", x=p.input("x", (n, 64), "float32"), w=p.weight("w", (96, 64), "float32"),
           notifies=lambda m: [done[m]])  # fmt: skip
p.output(p.call("linear", name="down", x=h, w=w2, waits=lambda m: [done[m]]), "y")
v = np.random.default_rng(2).normal(size=(64, 96)).astype(np.float32) / 16
kernel = eventide.compile(p, target="cpu", weights={"w2": v})
print(kernel.plan)
check(kernel, lambda x: x @ w.T @ v.T, w)
