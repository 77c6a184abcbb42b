"""An operator of Eventide as one NumPy function: the reference in the definitions that `export` writes.

One call is tiled and scheduled like any plan and run by the interpreter, whose tiles are the operator's own NumPy
reference; so an exported definition means exactly what the operator means inside the megakernel.

    y = run_operator("add", {}, {"a": a, "b": b})
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..backends.interp import Interpreter
from ..dtypes import from_numpy
from ..ir.nodes import Invariant, Plan
from ..ops import Program, get_op
from ..passes.events import infer_events
from ..passes.tile import tile
from ..schedule import schedule
from ..target import cpu

Array = npt.NDArray[Any]


def run_operator(
    op: str,
    attrs: Mapping[str, Any],
    operands: Mapping[str, Array],
    shared: Mapping[str, str] | None = None,
    panels: Mapping[str, tuple[int, int]] | None = None,
) -> Any:
    """The updated operands (as new arrays), then the written ones, in the order of the declaration.

    `shared` names, for an operand that is the same tensor as another one, that other operand; `panels` the rows
    and columns of weights that come in panels. Returns the array where there is one, else a tuple. Tensors of torch are
    brought to the host, and the results back to their device.
    """
    if any(hasattr(a, "data_ptr") for a in operands.values()):
        return _run_on_host(op, attrs, operands, shared, panels)
    shared = dict(shared or {})
    operands = {n: _from_panels(a, *panels[n]) if panels and n in panels else a for n, a in operands.items()}
    shapes = tuple((name, value.shape, from_numpy(value.dtype)) for name, value in operands.items())
    # operators that rely on tables without repetitions ask the program to declare them so
    distinct = tuple(n for n, a in operands.items() if a.dtype.kind == "i" and np.unique(a).size == a.size)
    plan = _plan(op, tuple(sorted(attrs.items())), shapes, tuple(sorted(shared.items())), distinct)
    given = {name: np.array(value) for name, value in operands.items()}
    roles = {
        role: {n: a for n, a in given.items() if plan.tensors[n].role == role} for role in ("weight", "state", "input")
    }
    with np.errstate(over="ignore", invalid="ignore"):
        written = Interpreter(plan, roles["weight"], roles["state"]).run({}, roles["input"])
    results: list[Any] = []
    for operand in get_op(op).operands:
        name = shared.get(operand.name, operand.name)
        if operand.mode == "update" and name in roles["state"]:
            results.append(roles["state"][name])
    results += [written[o.name] for o in get_op(op).operands if o.mode == "write"]
    return results[0] if len(results) == 1 else tuple(results)


def _run_on_host(op: str, attrs: Any, operands: Mapping[str, Any], shared: Any, panels: Any) -> Any:
    from .worker.arrays import numpy_dtype, to_torch

    host = {}
    for name, tensor in operands.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(_torch_bytes()).numpy()
        host[name] = flat.view(numpy_dtype(dtype)).reshape(tuple(tensor.shape))
    device = next(iter(operands.values())).device
    made = run_operator(op, attrs, host, shared, panels)
    results = made if isinstance(made, tuple) else (made,)
    found = tuple(to_torch(np.ascontiguousarray(a), from_numpy(a.dtype)).to(device) for a in results)
    return found if isinstance(made, tuple) else found[0]


def _torch_bytes() -> Any:
    import torch

    return torch.uint8


def _from_panels(packed: Array, n: int, k: int) -> Array:
    # [panels, k / step, 32, step] back to [n, k]; float32 has step 1 and no last axis
    if packed.shape[2] == 8:  # a GPU's: pieces of 8 elements stand where (row / 2) % 4 sends them
        pieces = packed.reshape(n // 8, k // 32, 8, 4, 8)
        order = np.arange(4)[None, :] ^ (np.arange(8)[:, None] >> 1 & 3)
        plain = np.take_along_axis(pieces, order[None, None, :, :, None], axis=3)
        return np.ascontiguousarray(plain.transpose(0, 2, 1, 3, 4).reshape(n, k))
    blocks = packed.reshape(packed.shape[0], packed.shape[1], packed.shape[2], -1)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3).reshape(n, k))


@lru_cache(maxsize=64)
def _plan(
    name: str,
    attrs: tuple[tuple[str, Any], ...],
    shapes: tuple[tuple[str, tuple[int, ...], str], ...],
    shared: tuple[tuple[str, str], ...],
    distinct: tuple[str, ...],
) -> Plan:
    op, program, refs = get_op(name), Program(name), {}
    joined = dict(shared)
    updated = {joined.get(o.name, o.name) for o in op.operands if o.mode == "update"}
    for operand, shape, dtype in shapes:
        role = "state" if operand in updated else ("weight" if op.operand(operand).streamed else "input")
        invariants = [Invariant("distinct")] if operand in distinct else []
        refs[operand] = program.tensor(operand, shape, dtype, role, invariants)  # type: ignore[arg-type]
    arguments = {o: refs[first] for o, first in joined.items()} | refs
    made = program.call(name, name="call", **arguments, **dict(attrs))  # type: ignore[arg-type]
    outputs = [o.name for o in op.operands if o.mode == "write"]
    for operand, ref in zip(outputs, made if isinstance(made, tuple) else (made,)):
        program.output(ref, operand)
    return schedule(infer_events(tile(program, cpu(1))), "static", 1)
