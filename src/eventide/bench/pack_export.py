"""`export`: the operators of a program as definitions and workloads, with the shapes that the program gives them.

Each distinct call of a program (operator, attributes, element types, constant sizes) becomes a definition; symbols become
var axes. For rms_norm in a model of width 1024:

    eventide_rms_norm_1024_bfloat16_5f0c21      axes num_tokens (var), dim_1024; inputs x, w; output y
    reference: run_operator("rms_norm", {"eps": 1e-06}, {"x": x, "w": w})

Operands that are one tensor are one input; an operand that is updated is an input, and an output named `<operand>_out`.
Each step that is given (symbols and tables, as the engine makes them) becomes one workload of every definition: tables
are stored, activations and weights are drawn. What one call writes in several parts belongs together (partial results
and their sums), so such operands are computed by their producer and stored.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dtypes import to_numpy
from ..errors import ProgramError
from ..ir.expr import Var, as_int, evaluate
from ..ir.nodes import Tensor
from ..ops.program import OpCall, Program
from ..ops.registry import get_op
from ..target import Target
from .dataset import TraceSet
from .pack_calls import GroupedCall, group_call, tiling_of, with_panels
from .pack_reference import run_operator
from .pack_task import task_solution
from .pack_task_cuda import cuda_task_solution
from .schema_definition import AxisConst, AxisVar, Definition, DefinitionExtension, DType, TensorSpec
from .schema_init import NormalInit
from .schema_solution import Solution
from .schema_trace import RandomInput, SafetensorsInput, ScalarInput, Trace, Workload

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ExportStep:
    """One step of a program: values of its symbols and of its input tensors."""

    name: str
    symbols: Mapping[str, int]
    inputs: Mapping[str, Array]


@dataclass
class Exported:
    """A definition, its workloads, and the contents that the workloads store, by uuid."""

    definition: Definition
    workloads: list[Trace] = field(default_factory=list)
    contents: dict[str, dict[str, Array]] = field(default_factory=dict)
    solution: Solution | None = None
    """The operator's own tasks."""


def export_program(
    program: Program, steps: Sequence[ExportStep], tags: Sequence[str] = (), *, tasks: Target | None = None
) -> list[Exported]:
    """The distinct calls of a program, in order; each step gives a workload to the calls that it can feed.

    With `tasks`, operators with code for that target bring it as a solution; where it reads packed weights, that is for a
    definition of its own whose weights come packed.
    """
    found: dict[str, Exported] = {}
    producers = {call.operands[o.name]: call for call in program.calls for o in get_op(call.op).operands
                 if o.mode == "write" and o.name in call.operands}  # fmt: skip
    for call in program.calls:
        plain = group_call(program, call)
        tiling = tiling_of(plain, tasks) if tasks else None
        packed = with_panels(plain, tiling) if tiling and tiling.layouts else None
        for grouped in (plain, packed) if packed else (plain,):
            definition = _definition(grouped, tags)
            if definition.name in found:
                continue
            one = found[definition.name] = Exported(definition)
            for step in steps:
                if all(_known(t, step) for t in grouped.inputs.values()):
                    _add_workload(one, grouped, step, producers)
            if tasks is not None and tiling is not None and bool(tiling.layouts) == bool(grouped.panels):
                one.solution = (
                    task_solution(grouped, definition, tiling)
                    if tasks.kind == "cpu"
                    else cuda_task_solution(grouped, definition, tasks)
                )
    return list(found.values())


def write_exported(data: TraceSet, exported: Sequence[Exported]) -> Iterator[tuple[str, int]]:
    """Add to a data set what it does not have yet: (definition, workloads added) of each."""
    from safetensors.numpy import save_file

    for one in exported:
        if one.definition.name not in data.definitions:
            data.add_definition(one.definition)
        if one.solution is not None and one.solution.name not in data.solution_names:
            data.add_solution(one.solution)
        known = {t.uuid for t in data.workloads[one.definition.name]}
        fresh = [t for t in one.workloads if t.uuid not in known]
        for trace in fresh:
            contents = one.contents.get(trace.uuid)
            if contents and data.root is not None:
                file = data.root / data.blob_path(one.definition.name, trace.uuid)
                file.parent.mkdir(parents=True, exist_ok=True)
                save_file(contents, str(file))
        yield one.definition.name, data.add_traces(fresh)


def _axis_name(grouped: GroupedCall, operand: str, dim: int, extent: Any) -> tuple[str, AxisConst | AxisVar]:
    length = as_int(extent)
    if length is not None:
        return f"dim_{length}", AxisConst(type="const", value=length)
    if isinstance(extent, Var):
        return extent.name, AxisVar(type="var", description="A symbol of the program.")
    return f"{operand}_{dim}", AxisVar(type="var", description=f"{extent} in the program.")


def _definition(grouped: GroupedCall, tags: Sequence[str]) -> Definition:
    call, op = grouped.call, get_op(grouped.call.op)
    axes: dict[str, AxisConst | AxisVar] = {}

    def spec(operand: str, tensor: Tensor) -> TensorSpec:
        names = []
        for dim, extent in enumerate(tensor.shape):
            name, axis = _axis_name(grouped, operand, dim, extent)
            axes[name] = axis
            names.append(name)
        return TensorSpec(shape=names, dtype=DType(tensor.dtype), description=op.operand(operand).doc or None)

    inputs = {n: spec(n, t) for n, t in grouped.inputs.items()}
    outputs = {f"{n}_out": spec(n, grouped.inputs[n]) for n in grouped.updated}
    outputs |= {n: spec(n, t) for n, t in grouped.written.items()}
    attrs = dict(sorted(call.attrs.items()))
    identity = json.dumps([call.op, attrs, dict(grouped.shared), {n: [s.shape, str(s.dtype)] for n, s in
                          {**inputs, **outputs}.items()}], sort_keys=True)  # fmt: skip
    wide = max(inputs, key=lambda n: (op.operand(n).streamed, _constant_size(grouped.inputs[n])))
    sizes = [str(as_int(e)) for e in grouped.inputs[wide].shape if as_int(e) is not None]
    if wide in grouped.panels:
        sizes = [*map(str, grouped.panels[wide])]
    digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
    name = "_".join(
        [
            "eventide",
            call.op,
            "x".join(sizes) or "any",
            str(inputs[wide].dtype),
            *(["panels"] if grouped.panels else []),
            digest,
        ]
    )
    init = {
        n: NormalInit(std=0.02 if t.role == "weight" else 1.0)
        for n, t in grouped.inputs.items()
        if not t.dtype.startswith(("int", "uint", "bool"))
    }
    return Definition(
        name=name,
        op_type=f"eventide_{call.op}",
        axes=axes,
        inputs=inputs,
        outputs=outputs,
        reference=_reference(grouped, attrs),
        tags=[f"operator:{call.op}", *tags, *(f"{k}:{v}" for k, v in attrs.items())],
        description=(op.doc or call.op).strip().split("\n")[0],
        eventide=DefinitionExtension(version=1, init=init or None),  # type: ignore[arg-type]
    )


def _constant_size(tensor: Tensor) -> int:
    return math.prod(as_int(e) or 1 for e in tensor.shape)


def _reference(grouped: GroupedCall, attrs: Mapping[str, Any]) -> str:
    names = ", ".join(grouped.inputs)
    operands = ", ".join(f'"{n}": {n}' for n in grouped.inputs)
    shared = f", shared={dict(grouped.shared)!r}" if grouped.shared else ""
    shared += f", panels={dict(grouped.panels)!r}" if grouped.panels else ""
    return (
        "from eventide.bench.pack_reference import run_operator\n\n\n"
        f"def run({names}):\n    return run_operator({grouped.call.op!r}, {dict(attrs)!r}, {{{operands}}}{shared})\n"
    )


def _known(tensor: Tensor, step: ExportStep) -> bool:
    if tensor.role == "input" and tensor.name not in step.inputs:
        return False
    return all(as_int(e) is not None or _symbols_known(e, step) for e in tensor.shape)


def _symbols_known(extent: Any, step: ExportStep) -> bool:
    try:
        evaluate(extent, step.symbols)
    except ProgramError:  # a symbol of another kind of step
        return False
    return True


def _shape(tensor: Tensor, step: ExportStep) -> tuple[int, ...]:
    return tuple(int(evaluate(e, step.symbols)) for e in tensor.shape)


def _add_workload(one: Exported, grouped: GroupedCall, step: ExportStep, producers: Mapping[str, OpCall]) -> None:
    definition = one.definition
    rng = np.random.default_rng(int(_digest(definition.name, step.name)[:8], 16))
    shapes = {n: _shape(t, step) for n, t in grouped.inputs.items()}
    axes = definition.get_axes_values(list(shapes.values()))
    for n, t in grouped.written.items():  # axes that only outputs have
        names = definition.outputs[n].shape or []
        axes |= {a: v for a, v in zip(names, _shape(t, step)) if a in definition.var_axes}
    contents: dict[str, Array] = {}
    for n, tensor in grouped.inputs.items():
        value = _value(tensor, shapes[n], step, producers, grouped.program, rng)
        if value is not None:
            contents[n] = np.ascontiguousarray(value)
    # steps that look the same to this operator are one workload
    uuid = _digest(definition.name, repr(sorted(axes.items())), *(a.tobytes().hex() for a in contents.values()))[:32]
    if any(t.uuid == uuid for t in one.workloads):
        return
    path = f"blob/workloads/{definition.op_type}/{definition.name}/{definition.name}_{uuid}.safetensors"
    inputs: dict[str, RandomInput | ScalarInput | SafetensorsInput] = {
        n: SafetensorsInput(type="safetensors", path=path, tensor_key=n)
        if n in contents
        else RandomInput(type="random")
        for n in grouped.inputs
    }
    workload = Workload(axes=axes, inputs=inputs, uuid=uuid)
    one.workloads.append(Trace(definition=definition.name, workload=workload))
    if contents:
        one.contents[uuid] = contents


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _value(
    tensor: Tensor,
    shape: tuple[int, ...],
    step: ExportStep,
    producers: Mapping[str, OpCall],
    program: Program,
    rng: np.random.Generator,
) -> Array | None:
    """The contents to store, or None for what may be drawn when the workload runs."""
    if tensor.name in step.inputs:
        return np.asarray(step.inputs[tensor.name], to_numpy(tensor.dtype))
    producer = producers.get(tensor.name)
    if producer is not None and get_op(producer.op).num_outputs > 1:
        grouped = group_call(program, producer)
        operands = {}
        for n, t in grouped.inputs.items():
            given = _value(t, _shape(t, step), step, producers, program, rng)
            operands[n] = _drawn(t, _shape(t, step), rng) if given is None else given
        made = run_operator(producer.op, dict(producer.attrs), operands, grouped.shared)
        names = [*(f"{n}_out" for n in grouped.updated), *grouped.written]
        results = dict(zip(names, made if isinstance(made, tuple) else (made,)))
        return next(np.asarray(results[n]) for n, t in grouped.written.items() if t.name == tensor.name)
    if tensor.dtype.startswith(("int", "uint")):
        return _drawn(tensor, shape, rng)
    return None


def _drawn(tensor: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    # integers that no table gives are token ids: small ones exist in every vocabulary
    if tensor.dtype.startswith(("int", "uint")):
        return rng.integers(0, 100, shape).astype(to_numpy(tensor.dtype))
    scale = 0.02 if tensor.role == "weight" else 1.0
    return (rng.standard_normal(shape) * scale).astype(to_numpy(tensor.dtype))
