"""apply() under torch.compile: a definition as one custom operator that the compiler does not look into.

The operator's schema and its shape function come from the definition; what runs inside is the same dispatch as in eager
mode, on the real tensors:

    rmsnorm_h4096(x, weight) -> eventide_bench::rmsnorm_h4096_0(Tensor a0, Tensor a1) -> Tensor
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from .schema_definition import Definition

Kernel = Callable[..., Any]
_COUNTER = itertools.count()


def custom_operator(definition: Definition, eager: Kernel, *, writes_outputs: bool) -> Kernel | None:
    """The operator that calls `eager`; None where a definition has no such form (an output that is a Python number)."""
    import torch

    if any(s.shape is None for s in definition.outputs.values()) or not definition.outputs:
        return None
    inputs = [_type(definition, name) for name in definition.inputs]
    parameters = [f"{t} a{i}" for i, t in enumerate(inputs)]
    num_in, num_out = len(inputs), len(definition.outputs)
    if writes_outputs:
        written = [f"a{num_in + i}" for i in range(num_out)]
        # (a!), (b!), ...: arguments that are written
        parameters += [f"Tensor({chr(97 + i)}!) {name}" for i, name in enumerate(written)]
        returns = "()"
    else:
        written = []
        returns = "Tensor" if num_out == 1 else f"({', '.join(['Tensor'] * num_out)})"
    name = f"{re.sub(r'[^0-9A-Za-z_]', '_', definition.name)}_{next(_COUNTER)}"

    def run(*args: Any) -> Any:
        result = eager(*args)
        if writes_outputs:
            return None
        values = result if isinstance(result, (tuple, list)) else (result,)
        # an operator's results must not share memory with its arguments, which a fallback may well return
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        fresh = tuple(v.clone() if v.untyped_storage().data_ptr() in given else v for v in values)
        return fresh[0] if num_out == 1 else fresh

    def shapes_only(*args: Any) -> Any:
        if writes_outputs:
            return None
        outs = _empty_outputs(definition, args)
        return outs[0] if num_out == 1 else outs

    schema = f"({', '.join(parameters)}) -> {returns}"
    operator = torch.library.custom_op(f"eventide_bench::{name}", run, mutates_args=written, schema=schema)
    operator.register_fake(shapes_only)
    overload: Kernel = getattr(torch.ops.eventide_bench, name).default
    return overload


def _type(definition: Definition, name: str) -> str:
    spec = definition.inputs[name]
    if spec.shape is None:
        kind = str(spec.dtype)
        return "bool" if kind == "bool" else ("int" if kind.startswith("int") else "float")
    return "Tensor?" if definition.is_optional(name) else "Tensor"


def _empty_outputs(definition: Definition, args: Sequence[Any]) -> tuple[Any, ...]:
    import torch

    from .worker.arrays import torch_dtype

    # lengths may be symbols here, so nothing compares them
    lengths: dict[str, Any] = dict(definition.const_axes)
    device = None
    for spec, value in zip(definition.inputs.values(), args):
        if spec.shape is not None and value is not None:
            device = value.device
            for axis, length in zip(spec.shape, value.shape):
                lengths.setdefault(axis, length)
    return tuple(
        torch.empty([lengths[a] for a in spec.shape or ()], dtype=torch_dtype(definition.dtype_of(n)), device=device)
        for n, spec in definition.outputs.items()
    )
