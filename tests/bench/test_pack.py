"""Folders and solutions: packing undoes unpacking, and what is new can be checked and built on."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventide.bench import Definition, Solution
from eventide.bench.check import check, check_python_entry
from eventide.bench.pack import pack, unpack
from eventide.bench.pack_new import ENTRY_FILES, new_data, new_definition, new_solution
from eventide.errors import BenchError, SchemaError, UsageError

from .records import DEFINITION, SOLUTION, changed

SOURCES = [
    {"path": "z/last.h", "content": "#pragma once\r\n// ü\n"},
    {"path": "main.py", "content": "def run(x, alpha, y):\n    y[...] = x * alpha"},
    {"path": "a.py", "content": "\n"},
]


def test_pack_undoes_unpack(tmp_path: Path) -> None:
    solution = Solution.model_validate(changed(SOLUTION, "sources", SOURCES))
    files = unpack(solution, tmp_path / "s")
    assert sorted(str(f.relative_to(tmp_path / "s")) for f in files) == ["a.py", "main.py", "solution.json", "z/last.h"]
    assert (tmp_path / "s/z/last.h").read_bytes() == "#pragma once\r\n// ü\n".encode()
    packed = pack(tmp_path / "s")
    assert packed.solution.content_hash == solution.content_hash
    assert packed.solution == solution and packed.left_out == []


def test_a_manifest_without_sources_takes_every_text_file(tmp_path: Path) -> None:
    manifest = {k: v for k, v in SOLUTION.items() if k != "sources"}
    (tmp_path / "solution.json").write_text(json.dumps(manifest))
    (tmp_path / "main.py").write_text("def run(): pass")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/util.py").write_text("x = 1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_text("secret")
    (tmp_path / "kernel.so").write_bytes(b"\x7fELF\xff")
    (tmp_path / "empty").write_text("")
    packed = pack(tmp_path)
    assert [s.path for s in packed.solution.sources] == ["main.py", "sub/util.py"]
    assert sorted(packed.left_out) == [".git/config", "empty", "kernel.so"]


def test_packing_what_is_no_solution(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is not a folder"):
        pack(tmp_path / "absent")
    with pytest.raises(BenchError, match=r"has no solution\.json: write one with name, definition, author and spec"):
        pack(tmp_path)
    (tmp_path / "solution.json").write_text("{")
    with pytest.raises(SchemaError, match=r"solution\.json: not valid JSON"):
        pack(tmp_path)
    (tmp_path / "solution.json").write_text("[]")
    with pytest.raises(SchemaError, match="expected an object, got list"):
        pack(tmp_path)
    manifest = changed(SOLUTION, "author", "")
    (tmp_path / "solution.json").write_text(json.dumps(manifest, indent=1))
    (tmp_path / "main.py").write_text("def run(): pass")
    with pytest.raises(SchemaError, match=r"solution\.json:4: author: string should have at least 1"):
        pack(tmp_path)
    (tmp_path / "solution.json").write_text(json.dumps(changed(SOLUTION, "sources", [{"path": "gone.py"}])))
    with pytest.raises(BenchError, match=r"gone\.py does not exist"):
        pack(tmp_path)


def test_unpacking_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(BenchError, match="is not an empty folder"):
        unpack(Solution.model_validate(SOLUTION), tmp_path)
    clash = [*SOLUTION["sources"], {"path": "./solution.json", "content": "x"}]
    with pytest.raises(BenchError, match=r"a source named solution\.json cannot be unpacked"):
        unpack(Solution.model_validate(changed(SOLUTION, "sources", clash)), tmp_path / "new")


def test_new_data(tmp_path: Path) -> None:
    data = new_data(tmp_path / "d")
    data.add_definition(new_definition("mine", "elementwise"))
    assert check(tmp_path / "d").problems == []
    with pytest.raises(BenchError, match="is not an empty folder"):
        new_data(tmp_path / "d")


@pytest.mark.parametrize("language", list(ENTRY_FILES))
@pytest.mark.parametrize("writes_outputs", [True, False])
def test_new_solutions_are_valid(language: str, writes_outputs: bool) -> None:
    solution = new_solution(new_definition("d", "e"), language, "s", "me", writes_outputs=writes_outputs)
    assert solution.spec.destination_passing_style is writes_outputs
    assert solution.entry_file == ENTRY_FILES[language]
    assert check_python_entry(solution) == []
    if solution.entry_file.endswith(".py"):
        names = [a.arg for f in ast.parse(solution.entry_source.content).body
                 if isinstance(f, ast.FunctionDef) and f.name == "run" for a in f.args.args]  # fmt: skip
        assert names == (["x", "alpha", "y"] if writes_outputs else ["x", "alpha"])


def test_a_new_python_solution_computes_the_reference() -> None:
    definition = Definition.model_validate(DEFINITION)
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    for writes_outputs in (True, False):
        solution = new_solution(definition, "python", "s", "me", writes_outputs=writes_outputs)
        scope: dict[str, Any] = {}
        exec(solution.entry_source.content, scope)
        if writes_outputs:
            y = np.zeros_like(x)
            assert scope["run"](x, 0.5, y) is None
        else:
            y = scope["run"](x, 0.5)
        np.testing.assert_array_equal(y, x * 0.5)


def test_new_python_solutions_of_the_official_definitions(official: Path) -> None:
    from eventide.bench import TraceSet

    for definition in TraceSet.load(official).definitions.values():
        solution = new_solution(definition, "python", "s", "me")
        assert check_python_entry(solution) == []
        functions = [f.name for f in ast.parse(solution.entry_source.content).body if isinstance(f, ast.FunctionDef)]
        assert functions.count("run") == 1 and "reference" in functions, definition.name


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_new_cpp_solution_compiles(tmp_path: Path) -> None:
    import eventide.bench

    solution = new_solution(new_definition("d", "e"), "cpp", "s", "me")
    unpack(solution, tmp_path / "s")
    include = Path(eventide.bench.__file__).parent / "builders/include"
    if not include.is_dir():
        pytest.skip("the builders' header is not there")
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include}", "main.cpp"]
    subprocess.run(command, cwd=tmp_path / "s", check=True)


def test_an_unknown_language() -> None:
    with pytest.raises(UsageError, match="unknown language 'rust'; known are python, triton"):
        new_solution(new_definition("d", "e"), "rust", "s", "me")
