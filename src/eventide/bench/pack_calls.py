"""One call of a program, seen as a function: which tensors come in, which are updated, which are written.

Operands that are bound to one tensor are one input, named after the first of them: a rope_append that reads queries, keys
and values from one tensor has the input `q_in`, and `shared` says that `k_in` and `v_in` are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..ir.expr import as_int
from ..ir.nodes import Tensor
from ..ops.declaration import Call, Tiling
from ..ops.program import OpCall, Program
from ..ops.registry import get_op
from ..target import Target

PANEL_ROWS = 32
CUDA_PANEL_ROWS = 8


@dataclass(frozen=True)
class GroupedCall:
    """A call with its operands grouped by tensor."""

    call: OpCall
    program: Program
    inputs: Mapping[str, Tensor]
    """By the first operand of each tensor that is read or updated."""
    shared: Mapping[str, str]
    """For every further operand of such a tensor, the first one."""
    updated: tuple[str, ...]
    written: Mapping[str, Tensor]
    panels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Rows and columns of the weights that come packed in panels."""


def group_call(program: Program, call: OpCall) -> GroupedCall:
    """The grouped form of a call."""
    first: dict[str, str] = {}
    inputs: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    written: dict[str, Tensor] = {}
    updated: list[str] = []
    for operand in get_op(call.op).operands:
        name = call.operands.get(operand.name)
        if name is None:
            continue
        tensor = program.tensors[name]
        if operand.mode == "write":
            written[operand.name] = tensor
            continue
        if name in first:
            shared[operand.name] = first[name]
        else:
            first[name] = operand.name
            inputs[operand.name] = tensor
        if operand.mode == "update" and first[name] not in updated:
            updated.append(first[name])
    return GroupedCall(call, program, inputs, shared, tuple(updated), written)


def tiling_of(grouped: GroupedCall, target: Target) -> Tiling:
    """How the call is cut into tasks for a target."""
    tensors = {o: grouped.program.tensors[n] for o, n in grouped.call.operands.items()}
    return get_op(grouped.call.op).tile(Call(grouped.call.name, tensors, grouped.call.attrs), target)


def with_panels(grouped: GroupedCall, tiling: Tiling) -> GroupedCall | None:
    """The call with its weights packed as the device's tasks read them; None where a weight does not fill its panels.

    On the CPU a float32 weight [n, k] is [n / 32, k, 32], a bfloat16 one [n / 32, k / 2, 32, 2]; on a GPU a bfloat16 one is
    [n / 8, k / 32, 8, 32], whose pieces of 8 elements are swizzled (PANEL8 in device/cuda/runtime.cuh).
    """
    inputs, panels = dict(grouped.inputs), {}
    for operand, layout in tiling.layouts.items():
        tensor = inputs.get(operand)
        if tensor is None:
            return None
        shape = _panel_shape(layout, tensor)
        if shape is None:
            return None
        n, k = (as_int(e) for e in tensor.shape)
        assert n is not None and k is not None
        made = Program("panels").tensor("w", shape, tensor.dtype, "weight").tensor
        inputs[operand] = replace(made, name=tensor.name)
        panels[operand] = (n, k)
    return replace(grouped, inputs=inputs, panels=panels)


def _panel_shape(layout: str, tensor: Tensor) -> tuple[int, ...] | None:
    n, k = (as_int(e) for e in tensor.shape)
    if n is None or k is None:
        return None
    if layout == f"panel{CUDA_PANEL_ROWS}.cuda":
        fits = tensor.dtype == "bfloat16" and n % CUDA_PANEL_ROWS == 0 and k % 32 == 0
        return (n // CUDA_PANEL_ROWS, k // 32, CUDA_PANEL_ROWS, 32) if fits else None
    step = {"float32": 1, "bfloat16": 2}.get(tensor.dtype)
    if not layout.startswith(f"panel{PANEL_ROWS}.") or step is None or n % PANEL_ROWS or k % step:
        return None
    return (n // PANEL_ROWS, k // step, PANEL_ROWS, *((step,) if step > 1 else ()))
