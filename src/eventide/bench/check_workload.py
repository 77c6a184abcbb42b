"""Whether a workload fits its definition: axes, inputs, constraints, stored tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .schema_definition import Definition, Shape
from .schema_expr import UnevaluableError, evaluate
from .schema_trace import RandomInput, SafetensorsInput, ScalarInput, Workload

Finding = tuple[str, str, str]
"""Field of the workload, message, level."""

_STORED = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def check_workload(definition: Definition, workload: Workload, root: Path | None) -> Iterator[Finding]:
    """What does not fit; stored tensors are looked at where `root` (the data set's folder) is given."""
    axes_fit = True
    for axis in definition.var_axes:
        if axis not in workload.axes and any(axis in (s.shape or ()) for s in definition.inputs.values()):
            axes_fit = False
            yield "axes", f"needs the axis {axis!r}", "error"
    for axis in workload.axes:
        if axis in definition.const_axes:
            if workload.axes[axis] != definition.const_axes[axis]:
                yield f"axes.{axis}", f"is {definition.const_axes[axis]} in the definition", "error"
        elif axis not in definition.axes:
            yield f"axes.{axis}", "the definition has no such axis", "error"
    for name in definition.inputs:
        if name not in workload.inputs and not definition.is_optional(name):
            yield "inputs", f"needs the input {name!r}", "warning"
    shapes = dict(zip(definition.inputs, definition.get_input_shapes(workload.axes))) if axes_fit else {}
    scalars: dict[str, Any] = {}
    for name, spec in workload.inputs.items():
        tensor = definition.inputs.get(name)
        if tensor is None:
            yield f"inputs.{name}", "the definition has no such input", "error"
        elif isinstance(spec, ScalarInput):
            scalars[name] = spec.value
            if tensor.shape is not None:
                yield f"inputs.{name}", "is a tensor in the definition, not a scalar", "error"
        elif tensor.shape is None:
            yield f"inputs.{name}", "is a scalar in the definition and needs a value", "error"
        elif isinstance(spec, SafetensorsInput) and root is not None and name in shapes:
            yield from _check_blob(definition, name, spec, shapes[name], root)
        elif isinstance(spec, (RandomInput, SafetensorsInput)):
            continue
    values = {**definition.const_axes, **workload.axes, **scalars}
    strict = definition.eventide.constraints or [] if definition.eventide else []
    for text, level in [(t, "warning") for t in definition.constraints] + [(t, "error") for t in strict]:
        try:
            holds = bool(evaluate(text, values))
        except UnevaluableError:  # needs the tensors themselves: the runner checks it
            continue
        if not holds:
            yield "axes", f"breaks the constraint {text!r}", level


def _check_blob(
    definition: Definition, name: str, spec: SafetensorsInput, shape: Shape, root: Path
) -> Iterator[Finding]:
    from safetensors import SafetensorError, safe_open

    file = root / spec.path
    if not file.is_file():
        yield f"inputs.{name}.path", f"{spec.path} is not in the data set", "warning"
        return
    if not file.resolve().is_relative_to(root.resolve()):
        yield f"inputs.{name}.path", f"{spec.path} leads out of the data set", "error"
        return
    try:
        with safe_open(file, framework="np") as stored:
            if spec.tensor_key not in stored.keys():  # noqa: SIM118  (not a mapping)
                yield f"inputs.{name}.tensor_key", f"{spec.path} holds no tensor {spec.tensor_key!r}", "error"
                return
            tensor = stored.get_slice(spec.tensor_key)
            found, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
    except SafetensorError as error:
        yield f"inputs.{name}.path", f"{spec.path} is not a safetensors file: {error}", "error"
        return
    if found != shape:
        yield f"inputs.{name}", f"should have the shape {shape}, but {spec.path} holds {found}", "error"
    expected = {definition.dtype_of(name), str(definition.inputs[name].dtype)}
    if dtype in _STORED and _STORED[dtype] not in expected:
        yield (
            f"inputs.{name}",
            f"should be {definition.dtype_of(name)}, but {spec.path} holds {_STORED[dtype]}",
            "error",
        )
