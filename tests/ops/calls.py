"""Runs one case of an operator: by its reference in the interpreter, and by its compiled CPU tiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from eventide.backends.interp import Interpreter
from eventide.dtypes import from_numpy, to_numpy
from eventide.ir.expr import evaluate
from eventide.ir.nodes import Plan
from eventide.ops import Program, get_op
from eventide.passes.events import infer_events
from eventide.passes.tile import tile
from eventide.schedule import schedule
from eventide.target import cpu

from .native import Library, pack

Arrays = dict[str, Any]


def plan_of(name: str, arrays: Arrays, attrs: Any) -> Plan:
    """A plan of one call, each operand a tensor of its own name."""
    op, p, refs = get_op(name), Program(name), {}
    for spec in op.operands:
        value = arrays.get(spec.name)
        if value is None:
            continue
        if isinstance(value, str):
            refs[spec.name] = refs[value]
            continue
        role = {"update": "state", "read": "weight" if spec.streamed else "input"}[spec.mode]
        refs[spec.name] = p.tensor(spec.name, value.shape, from_numpy(value.dtype), role)  # type: ignore[arg-type]
    made = p.call(name, name="call", **refs, **attrs)
    outputs = [o.name for o in op.operands if o.mode == "write"]
    for operand, ref in zip(outputs, made if isinstance(made, tuple) else (made,)):
        p.output(ref, operand)
    return schedule(infer_events(tile(p, cpu(1))), "static", 1)


def by_reference(plan: Plan, arrays: Arrays) -> Arrays:
    """Outputs and updated states by name."""
    given = {k: v.copy() for k, v in arrays.items() if not isinstance(v, str)}
    roles = {r: {k: v for k, v in given.items() if plan.tensors[k].role == r} for r in ("weight", "state", "input")}
    with np.errstate(over="ignore"):
        out = Interpreter(plan, roles["weight"], roles["state"]).run({}, roles["input"])
    return {**out, **roles["state"]}


def by_tiles(lib: Library, plan: Plan, arrays: Arrays) -> Arrays:
    """The same from the compiled tiles. Outputs start as NaN, or as -1, so that nothing is right by luck."""
    (grid,) = plan.grids
    op = get_op(grid.op)
    operands: Arrays = {}
    for access in grid.accesses:
        t = plan.tensors[access.tensor]
        if t.role == "output":
            shape = tuple(int(evaluate(e, {})) for e in t.shape)
            operands[access.operand] = np.full(shape, 255, np.uint8).repeat(to_numpy(t.dtype).itemsize, axis=-1)
            operands[access.operand] = operands[access.operand].view(to_numpy(t.dtype))
        else:
            value = arrays[access.tensor]
            operands[access.operand] = value.copy() if access.mode == "update" else value
        if t.layout != "plain":
            operands[access.operand] = pack(operands[access.operand])
    attrs = {a.name: grid.attrs[a.name] for a in op.attrs}
    tiles = {t: grid.attrs[t] for t in op.tile_attrs}
    lib.run(grid.op, operands, attrs, tiles, [int(evaluate(e, {})) for _, e in grid.axes])
    return {a.operand: operands[a.operand] for a in grid.accesses if a.mode != "read"}
