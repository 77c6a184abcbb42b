"""C++ that follows from operator declarations: argument structs, one translation unit for each instruction set, a registry.

Run by the build (`python -m eventide.ops.codegen OUTPUT_FOLDER --isas portable avx2 ...`) with the standard library alone,
and by the CPU backend for operators registered from outside. For the declaration

    Op("scale", operands=[Operand("x"), Operand("y", "write")], attrs=[Attr("factor", float)], axes=["m"], tile_attrs=["tile_m"])

it writes

    struct scale_args { Operand x, y; float factor; int64_t tile_m; };
    struct scale_coords { int64_t m; };

and `scale.avx2.cpp`, which includes the operator's cpu.h with EV_ISA = avx2 (a namespace inside `ev`) and exports its
entry. An attribute with choices becomes `enum class <op>_<attr>`; a string attribute without choices is for the
compiler alone and left out. Every operator that has a cpu.h beside its declaration is found; nothing lists them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ProgramError
from .declaration import Attr, Op
from .registry import get_op, list_ops

ISAS = ("portable", "avx2", "avx512", "avx512bf16")
_SCALARS = {int: ("int64_t", "i64"), float: ("float", "f32"), bool: ("bool", "boolean")}


def device_attrs(op: Op) -> list[Attr]:
    """The attributes that device code sees: all but strings without choices."""
    return [a for a in op.attrs if a.type is not str or a.choices]


def enumerator(choice: object) -> str:
    """The C++ name of a choice."""
    name = re.sub(r"\W", "_", str(choice))
    return f"_{name}" if name[:1].isdigit() else name


def attr_value(attr: Attr, value: object) -> float | int:
    """What the runtime stores for an attribute: a number, or the index of the choice."""
    if attr.choices:
        return attr.choices.index(value)
    if not isinstance(value, (int, float)):
        raise ProgramError(f"attribute '{attr.name}' must be a number on the CPU, got {value!r}")
    return value if attr.type is float else int(value)


def args_header(op: Op) -> str:
    """The structs `<op>_args` and `<op>_coords`."""
    lines = [f"// Generated from the declaration of operator '{op.name}'.", "#pragma once", '#include "device/cpu/task.h"', ""]
    lines += ["namespace ev {", ""]
    for a in op.attrs:
        if a.choices:
            names = ", ".join(map(enumerator, a.choices))
            lines.append(f"enum class {op.name}_{a.name} : int32_t {{ {names} }};")
    lines += [f"struct {op.name}_args {{"]
    lines += [f"  Operand {name};" for name in op.operand_names]
    for a in device_attrs(op):
        lines.append(f"  {f'{op.name}_{a.name}' if a.choices else _scalar(op, a)[0]} {a.name};")
    lines += [f"  int64_t {name};" for name in op.tile_attrs]
    lines += ["};", f"struct {op.name}_coords {{"]
    lines += [f"  int64_t {name};" for name in op.axes]
    lines += ["};", "", "}  // namespace ev", ""]
    return "\n".join(lines)


def entry_source(op: Op, isa: str, cpu_header: str) -> str:
    """A translation unit: the operator's cpu.h compiled for one instruction set, and its entry."""
    name, symbol = op.name, entry_symbol(op.name, isa)
    fields = [(a.name, "choice" if a.choices else _scalar(op, a)[1]) for a in device_attrs(op)]
    fields += [(a, "i64") for a in op.tile_attrs]
    attrs = ", ".join(f'{{"{n}", AttrKind::{k}, offsetof({name}_args, {n})}}' for n, k in fields)
    return f"""// Generated: operator '{name}' for {isa}.
#define EV_ISA {isa}
#include <cstddef>

#include "{name}_args.h"
#include "device/cpu/runtime_entry.h"

#include "{cpu_header}"

namespace ev {{
namespace {{
int64_t scratch_bytes(const void* a) {{
  return EV_ISA::{name}_scratch(*static_cast<const {name}_args*>(a));
}}
void task(const void* a, const int64_t* c, Scratch s) {{
  EV_ISA::{name}_task(*static_cast<const {name}_args*>(a), *reinterpret_cast<const {name}_coords*>(c), s);
}}
const char* const operand_names[] = {{{", ".join(f'"{n}"' for n in op.operand_names)}}};
const int32_t operand_offsets[] = {{{", ".join(f"offsetof({name}_args, {n})" for n in op.operand_names)}}};
const AttrField attrs[] = {{{attrs or '{"", AttrKind::i64, 0}'}}};
}}  // namespace
extern "C" __attribute__((visibility("default"))) const OpEntry {symbol} = {{
    "{name}", "{isa}", sizeof({name}_args), {len(op.operand_names)}, operand_names, operand_offsets, {len(fields)}, attrs,
    {len(op.axes)}, scratch_bytes, task}};
}}  // namespace ev
"""


def entry_symbol(name: str, isa: str) -> str:
    return f"ev_op_{name}_{isa}"


def registry_source(names: Iterable[str], isas: Sequence[str]) -> str:
    """The table of all compiled entries."""
    symbols = [entry_symbol(n, i) for n in names for i in isas]
    declared = "\n".join(f'extern "C" const OpEntry {s};' for s in symbols)
    listed = "".join(f"    &{s},\n" for s in symbols)
    return f"""// Generated: every operator with a cpu.h, for every instruction set of this build.
#include "device/cpu/runtime_entry.h"

namespace ev {{
{declared}
extern const OpEntry* const builtin_entries[];
const OpEntry* const builtin_entries[] = {{
{listed}    nullptr}};
}}  // namespace ev
"""


def generate(folder: Path, isas: Sequence[str]) -> list[Path]:
    """Writes all files, touching only those that changed; returns the sources to compile."""
    folder.mkdir(parents=True, exist_ok=True)
    ops = [op for op in map(get_op, list_ops()) if op.folder is not None and (op.folder / "cpu.h").exists()]
    sources = {}
    for op in ops:
        _write(folder / f"{op.name}_args.h", args_header(op))
        for isa in isas:
            sources[folder / f"{op.name}.{isa}.cpp"] = entry_source(op, isa, f"ops/{op.name}/cpu.h")
    sources[folder / "registry.cpp"] = registry_source([op.name for op in ops], isas)
    for path, text in sources.items():
        _write(path, text)
    for old in set(folder.glob("*.cpp")) - set(sources):
        old.unlink()
    return list(sources)


def _scalar(op: Op, attr: Attr) -> tuple[str, str]:
    if attr.type not in _SCALARS:
        raise ProgramError(
            f"operator '{op.name}': the attribute '{attr.name}' is {attr.type.__name__}; device code can have int, float, "
            "bool, or a string with choices"
        )
    return _SCALARS[attr.type]


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--isas", nargs="+", default=["portable"], choices=ISAS)
    args = parser.parse_args()
    for path in generate(args.folder, args.isas):
        print(path)


if __name__ == "__main__":
    main()
