"""One of Eventide's own task implementations as a solution: its `cpu.h`, measured alone.

The solution holds the operator's device code as it stands in the megakernel (arguments, tile coordinates, scratch), the
headers that it includes, and a `main.cpp` that fills the arguments from the tensors and runs every task of the grid, one
after another, as one worker would:

    ev_args.x = operand(x, ev::DType::f32);  ev_args.tile_m = 128;
    for (int64_t m = 0; m < extent_m; m++) for (int64_t n = 0; n < extent_n; n++)
      ev::EV_ISA::linear_task(ev_args, {m, n}, {ev_scratch, ev_fresh});

Unpacked, edited and packed again, it is a candidate for the operator itself. An operand that is updated is copied into
its output first, which is part of the time.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ProgramError
from ..ir.expr import to_c, variables
from ..ops.codegen import args_header, device_attrs, enumerator
from ..ops.declaration import Attr, Op, Tiling
from ..ops.registry import get_op
from .pack_calls import GroupedCall
from .schema_definition import Definition
from .schema_solution import BuildSpec, MegakernelTask, Solution, SolutionExtension, SourceFile, SupportedLanguages

_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int32": "i32", "int64": "i64"}
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.M)
_PRELUDE = """\
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "eventide_bench.h"

#if defined(__AVX512F__) && defined(__AVX512BF16__)
#define EV_ISA avx512bf16
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define EV_ISA avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define EV_ISA avx2
#else
#define EV_ISA portable
#endif
"""
_HELPERS = """\
namespace {

inline int64_t ev_floordiv(int64_t a, int64_t b) { return a / b; }
inline int64_t ev_mod(int64_t a, int64_t b) { return a % b; }
inline int64_t ev_min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ev_max(int64_t a, int64_t b) { return a > b ? a : b; }

ev::Operand operand(const DLTensor* t, ev::DType dtype) {
  ev::Operand o;
  o.data = t->data;
  o.dtype = dtype;
  for (int i = 0; i < t->ndim && i < 4; i++) o.shape[i] = t->shape[i];
  return o;
}

// memory of the worker, kept from call to call
char* scratch_of(int64_t bytes) {
  static char* held = nullptr;
  static int64_t size = 0;
  if (bytes > size || !held) {
    std::free(held);
    size = (bytes + 127) / 64 * 64;
    held = static_cast<char*>(std::aligned_alloc(64, size));
  }
  return held;
}

}  // namespace
"""


def task_solution(grouped: GroupedCall, definition: Definition, tiling: Tiling) -> Solution | None:
    """The operator's CPU tasks as a solution of `definition`; None where it has no `cpu.h`, or extents that depend on data."""
    op = get_op(grouped.call.op)
    if op.folder is None or not (op.folder / "cpu.h").exists():
        return None
    try:
        main = _main(op, grouped, definition, tiling)
    except (ProgramError, KeyError):  # an extent that reads a table, or a symbol that no input binds
        return None
    sources = [SourceFile(path="main.cpp", content=main)]
    sources += [SourceFile(path=f"{op.name}_args.h", content=args_header(op))]
    sources += [SourceFile(path=p, content=text) for p, text in _headers(op).items()]
    return Solution(
        name=f"{definition.name}_task",
        definition=definition.name,
        author="eventide",
        description=f"The tasks of Eventide's operator {op.name} on one CPU worker.",
        spec=BuildSpec(language=SupportedLanguages.CPP, target_hardware=["cpu"], entry_point="main.cpp::run"),
        sources=sources,
        eventide=SolutionExtension(
            version=1,
            task=MegakernelTask(
                operator=op.name, backend="cpu", tile={k: int(v) for k, v in tiling.attrs.items()} or None
            ),
        ),
    )


def _headers(op: Op) -> dict[str, str]:
    # the operator's file, and all that it includes, at their places under the package
    assert op.folder is not None
    package = Path(__file__).resolve().parent.parent
    found: dict[str, str] = {}
    waiting = [(op.folder / "cpu.h", f"ops/{op.name}/cpu.h"), (package / "device/cpu/task.h", "device/cpu/task.h")]
    while waiting:
        file, shown = waiting.pop()
        if shown in found:
            continue
        found[shown] = text = file.read_text(encoding="utf-8")
        for name in _INCLUDE.findall(text):
            included = (file.parent / name).resolve()
            if included.is_file() and included.is_relative_to(package):
                waiting.append((included, included.relative_to(package).as_posix()))
    return dict(sorted(found.items()))


def _main(op: Op, grouped: GroupedCall, definition: Definition, tiling: Tiling) -> str:
    lines = [_PRELUDE + f'#include "{op.name}_args.h"', f'#include "ops/{op.name}/cpu.h"', "", _HELPERS]
    parameters = [f"const DLTensor* {n}" for n in definition.inputs] + [f"DLTensor* {n}" for n in definition.outputs]
    lines += [f'extern "C" int run({", ".join(parameters)}) {{']
    needed = set().union(*(variables(extent) for _, extent in tiling.axes)) if tiling.axes else set()
    for symbol in sorted(needed):
        name, dim = definition.var_axes_bindings[symbol]
        lines.append(f"  const int64_t {symbol} = {name}->shape[{dim}];")
    for name in grouped.updated:
        count = f"eventide_bench::numel({name}) * ({name}->dtype.bits / 8)"
        lines.append(f"  std::memcpy({name}_out->data, {name}->data, {count});")
    lines.append(f"  ev::{op.name}_args ev_args;")
    for name, tensor in {**grouped.inputs, **grouped.written}.items():
        source = f"{name}_out" if name in grouped.updated else name
        lines.append(f"  ev_args.{name} = operand({source}, ev::DType::{_DTYPES[tensor.dtype]});")
        if name in grouped.panels:
            n, k = grouped.panels[name]
            lines.append(f"  ev_args.{name}.layout = ev::Layout::panel32;")
            lines += [f"  ev_args.{name}.shape[{i}] = {v};" for i, v in enumerate((n, k, 0, 0))]
    lines += [f"  ev_args.{name} = ev_args.{first};" for name, first in grouped.shared.items()]
    lines += [f"  ev_args.{attr.name} = {_literal(op, attr, grouped)};" for attr in device_attrs(op)]
    lines += [f"  ev_args.{name} = {int(value)};" for name, value in tiling.attrs.items()]
    lines += [f"  const int64_t extent_{name} = {to_c(extent)};" for name, extent in tiling.axes]
    coords = [name for name, _ in tiling.axes]
    lines += [
        f"  char* ev_scratch = scratch_of(ev::EV_ISA::{op.name}_scratch(ev_args));",
        "  bool ev_fresh = true;",
        *(f"  for (int64_t {name} = 0; {name} < extent_{name}; {name}++)" for name, _ in tiling.axes),
        "  {",
        f"    ev::EV_ISA::{op.name}_task(ev_args, {{{', '.join(coords)}}}, {{ev_scratch, ev_fresh}});",
        "    ev_fresh = false;",
        "  }",
        "  return 0;",
        "}",
        "",
    ]
    return "\n".join(lines)


def _literal(op: Op, attr: Attr, grouped: GroupedCall) -> str:
    value = grouped.call.attrs.get(attr.name, attr.default)
    if attr.choices:
        return f"ev::{op.name}_{attr.name}::{enumerator(value)}"
    if attr.type is bool:
        return "true" if value else "false"
    return f"{float(value)!r}f" if attr.type is float else str(int(value))
