"""One of Eventide's own task implementations on a GPU as a solution: its `cuda.cuh` in the persistent kernel, alone.

The solution holds the kernel that the CUDA backend generates for a plan of this one call (the same workers, ring, loader
and task code as in a whole model) as `kernel.cu`, and a `launch.py` that gives it one step:

    plan       one task grid; every tensor is an address, so that the bench's tensors are what the tasks read and write
    kernel.cu  compiled by NVRTC where it runs
    launch.py  LaunchBlock(args=[class, x, w, y, rotation], symbols=[len(x)], num_steps=1)  →  eventide_kernel

Unpacked, edited and packed again, it is a candidate for the operator itself. An operand that is updated is copied into
its output first, which is part of the time.
"""

from __future__ import annotations

import ctypes
import pprint
from dataclasses import replace
from typing import Any

from ..backends.cuda.codegen import Source
from ..backends.cuda.fit import compile_plan_source, divisions
from ..backends.cuda.launch import LaunchBlock
from ..backends.cuda.nvrtc import OPTIONS
from ..errors import DeviceError, MissingDependencyError, PlanError, ProgramError
from ..ir.expr import variables
from ..ir.nodes import Plan
from ..ops.program import Program
from ..ops.registry import get_op
from ..passes.tile import tile
from ..schedule import schedule
from ..target import Target
from .pack_calls import GroupedCall
from .schema_definition import Definition
from .schema_solution import BuildSpec, MegakernelTask, Solution, SolutionExtension, SourceFile, SupportedLanguages

_THREADS = 384
_LAUNCH = """\
# One step of the persistent kernel: every multiprocessor runs its share of this operator's tasks.
import ctypes

import torch

from eventide.bench.worker.nvrtc import Module

WORKERS, THREADS, SHARED_BYTES = {workers}, {threads}, {shared}
NUM_CELLS, INPUT_BYTES = {cells}, {inputs}
NAMES = {names}
UPDATED = {updated}  # what each output holds before the call
ARGUMENTS = {arguments}  # the class, then its arguments
SYMBOLS = {symbols}  # where the length of each stands


class LaunchBlock(ctypes.Structure):
    _fields_ = [
{fields}
    ]


kernel = Module.from_file(__file__, "kernel.cu", {options})["eventide_kernel"]
kernel.allow_shared_memory(SHARED_BYTES)
words = torch.zeros(2 * NUM_CELLS * 32 + 1024, dtype=torch.int32, device="cuda")  # counters, barrier, flags
nothing = torch.zeros(INPUT_BYTES + 256, dtype=torch.uint8, device="cuda")
tables = {{}}  # by the arguments' addresses and lengths, which seldom change
steps = 0


def run({parameters}):
    global steps
    given = dict(zip(NAMES, ({parameters},)))
    for output, held in UPDATED.items():
        given[output].copy_(given[held])
    numbers = [given[n].data_ptr() if isinstance(n, str) else n for n in ARGUMENTS]
    lengths = [given[at[0]].shape[at[1]] if at else 0 for at in SYMBOLS] or [0]
    key = (*numbers, *lengths)
    if key not in tables:
        numbers = [n - (1 << 64) if n >> 63 else n for n in numbers]  # torch has no tensors of unsigned integers here
        tables[key] = (
            torch.tensor(numbers + [0] * ({stride} - len(numbers)), dtype=torch.int64, device="cuda"),
            torch.tensor(lengths, dtype=torch.int32, device="cuda"),
        )
    table, symbols = tables[key]
    barrier = words.data_ptr() + 2 * NUM_CELLS * 128
    known = {{
        "args": table.data_ptr(),
        "symbols": symbols.data_ptr(),
        "inputs": nothing.data_ptr(),
        "tables": nothing.data_ptr(),
        "outputs": nothing.data_ptr(),
        "counters": words.data_ptr(),
        "barrier": barrier,
        "stop": barrier + 512,
        "status": barrier + 1024,
        "host_stop": barrier + 1536,
        "host_progress": barrier + 2048,
        "spin_limit": 2_000_000_000,
        "barrier_base": steps * WORKERS & 0xFFFFFFFF,
        "first_step": steps & 0xFFFFFFFF,
        "num_segments": 1,
        "num_steps": 1,
        "last_segment": 1,
    }}
    block = LaunchBlock(**{{name: value for name, value in known.items() if name in FIELDS}})
    kernel(grid=(WORKERS,), block=(THREADS,), arguments=(block,), shared_bytes=SHARED_BYTES)
    steps += 1


FIELDS = {{name for name, _ in LaunchBlock._fields_}}
"""


def cuda_task_solution(grouped: GroupedCall, definition: Definition, target: Target) -> Solution | None:
    """The operator's CUDA tasks as a solution of `definition`.

    None where the operator has no `cuda.cuh`, its code is not made for these sizes or types, or a symbol that its tasks
    need is the length of no tensor.
    """
    op = get_op(grouped.call.op)
    if op.folder is None or not (op.folder / "cuda.cuh").exists():
        return None
    try:
        plan = _plan(grouped, target)
        source = _source(plan)
        launch = _launch(grouped, definition, plan, source)
    except (DeviceError, PlanError, ProgramError, KeyError):
        return None
    tiling = {k: int(v) for k, v in plan.grids[0].attrs.items() if k in op.tile_attrs}
    return Solution(
        name=f"{definition.name}_cuda_task",
        definition=definition.name,
        author="eventide",
        description=f"The tasks of Eventide's operator {op.name} in its persistent kernel.",
        spec=BuildSpec(language=SupportedLanguages.CUDA, target_hardware=["NVIDIA H200"], entry_point="launch.py::run"),
        sources=[SourceFile(path="launch.py", content=launch), SourceFile(path="kernel.cu", content=source.text)],
        eventide=SolutionExtension(
            version=1,
            task=MegakernelTask(
                operator=op.name, backend="cuda", tile=tiling or None, scratch_bytes=source.config.scratch
            ),
        ),
    )


def _plan(grouped: GroupedCall, target: Target) -> Plan:
    """The call alone, with every tensor at an address of its own, as states and weights have."""
    program = Program(grouped.call.op)
    program.symbols = dict(grouped.program.symbols)
    names = dict.fromkeys(grouped.call.operands.values())
    program.tensors = {n: grouped.program.tensors[n] for n in names}
    for operand in grouped.panels:  # packed where it lies, not by the engine
        name = grouped.call.operands[operand]
        program.tensors[name] = replace(program.tensors[name], role="weight")
    program.calls = [replace(grouped.call, waits=None, notifies=None)]
    plan = schedule(tile(program, target), "static", target.num_workers)
    weights = {grouped.call.operands[operand] for operand in grouped.panels}
    tensors = {n: t if n in weights else replace(t, role="state", layout="plain") for n, t in plan.tensors.items()}
    if any(t.layout != "plain" and n not in weights for n, t in plan.tensors.items()):
        raise ProgramError(f"call '{grouped.call.name}' reads packed weights")
    used = {v for t in tensors.values() for e in t.shape for v in variables(e)}
    used |= {v for _, extent in plan.grids[0].axes for v in variables(extent)}
    return replace(plan, tensors=tensors, symbols={n: r for n, r in plan.symbols.items() if n in used}, requires=())


def _source(plan: Plan) -> Source:
    try:
        return compile_plan_source(plan)[0]
    except MissingDependencyError:  # packed where nothing compiles: the division with the most scratch memory
        from ..backends.cuda.codegen import generate

        return generate(plan, divisions(plan)[-1])


def _launch(grouped: GroupedCall, definition: Definition, plan: Plan, source: Source) -> str:
    names = [*definition.inputs, *definition.outputs]
    # which argument of `run` a tensor of the plan is: outputs of updated operands are written, not their inputs
    places: dict[str, str] = {}
    for operand, tensor in grouped.call.operands.items():
        first = grouped.shared.get(operand, operand)
        places[tensor] = f"{first}_out" if first in grouped.updated else first
    specs = {**definition.inputs, **definition.outputs}
    where: list[tuple[str, int] | None] = []
    for symbol in source.layout.symbols:
        found = [(n, (specs[n].shape or []).index(symbol)) for n in names if symbol in (specs[n].shape or [])]
        if not found:
            raise ProgramError(f"no tensor has the length {symbol}")
        where.append(found[0])
    arguments: list[str | int] = []
    for argument in source.segments[0]:
        if argument.kind in ("event", "maps"):
            raise ProgramError("a call alone has no events, and no descriptions of its weights")
        arguments.append(places[str(argument.value)] if argument.kind == "tensor" else int(argument.value))
    fields = [f'        ("{f[0]}", ctypes.{_c_type(f[1])}),' for f in LaunchBlock._fields_]
    return _LAUNCH.format(
        workers=plan.schedule.num_workers if plan.schedule else 0,
        threads=_THREADS,
        shared=source.config.shared_bytes,
        cells=source.layout.num_cells,
        inputs=source.layout.input_bytes,
        names=pprint.pformat(tuple(names), width=110, compact=True),
        updated={f"{n}_out": n for n in grouped.updated},
        arguments=pprint.pformat(arguments, width=110, compact=True),
        symbols=where,
        fields="\n".join(fields),
        options=[o for o in OPTIONS if o.startswith("--device-as")],
        parameters=", ".join(names),
        stride=source.stride,
    )


def _c_type(kind: Any) -> str:
    # ctypes calls its 64-bit types by what they are on this platform
    sign = "u" if kind in (ctypes.c_uint64, ctypes.c_uint32) else ""
    return f"c_{sign}int{8 * ctypes.sizeof(kind)}"
