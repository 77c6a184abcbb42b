"""What the build generates from declarations: without NumPy, for every operator with a cpu.h, rewriting only what changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eventide import _native
from eventide.errors import ProgramError
from eventide.ops import Attr, Op, Operand, get_op, list_ops
from eventide.ops.codegen import ISAS, args_header, entry_source, generate

SRC = Path(__file__).parents[2] / "src"


def test_generating_needs_the_standard_library_alone(tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(SRC)!r}); from eventide.ops import codegen; "
    program += f"sys.argv = ['', {str(tmp_path)!r}]; codegen.main(); assert 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/linear.portable.cpp" in done.stdout.splitlines()


def test_every_operator_with_a_cpu_header_is_compiled_for_every_instruction_set() -> None:
    compiled = set(_native.compiled_ops())
    isas = {pair.split(":")[1] for pair in compiled}
    assert "portable" in isas and isas <= set(ISAS)
    headers = [name for name in list_ops() if (SRC / "eventide" / "ops" / name / "cpu.h").exists()]
    assert compiled == {f"{op}:{isa}" for op in headers for isa in isas}


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    files = generate(tmp_path, ["portable"])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    (tmp_path / "gone.portable.cpp").write_text("")
    files[0].write_text("stale")
    assert generate(tmp_path, ["portable"]) == files
    after = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert [p for p in after if after[p] != before[p]] == [files[0]]


def test_structs_follow_the_declaration() -> None:
    op = Op(
        "toy",
        [Operand("x"), Operand("y", "write")],
        get_op("add").outputs_of,
        get_op("add").tile,
        ["m", "h"],
        attrs=[Attr("eps", float), Attr("n", int), Attr("on", bool), Attr("mode", str, choices=("a-b", "2")), Attr("note", str)],
        tile_attrs=["tile_m"],
    )
    header = args_header(op)
    assert "enum class toy_mode : int32_t { a_b, _2 };" in header
    body = header[header.index("struct toy_args") :]
    fields = [line.strip() for line in body[: body.index("};")].splitlines()[1:]]
    assert fields == ["Operand x;", "Operand y;", "float eps;", "int64_t n;", "bool on;", "toy_mode mode;", "int64_t tile_m;"]
    assert "int64_t m;\n  int64_t h;" in header
    assert "note" not in entry_source(op, "avx2", "toy/cpu.h")


def test_attributes_that_device_code_cannot_have() -> None:
    op = Op("toy", [Operand("y", "write")], get_op("add").outputs_of, get_op("add").tile, ["m"], attrs=[Attr("sizes", tuple)])
    with pytest.raises(ProgramError, match="operator 'toy': the attribute 'sizes' is tuple; device code can have int, float, bool"):
        args_header(op)
