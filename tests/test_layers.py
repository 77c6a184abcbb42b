"""Imports go strictly downward through the layers, and the core never imports torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "eventide"

# bottom first; modules of one row may import each other
LAYERS = (
    ("errors", "env", "dtypes", "target"),
    ("ir",),
    ("ops",),
    ("passes", "schedule"),
    ("backends", "profile", "_native"),
    ("compile",),
    ("models", "frontend", "bench"),
    ("engine",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# who may import torch, and why
TORCH = {"bench": "its subject is kernels in PyTorch programs", "frontend": "imports PyTorch modules"}
STANDARD_LIBRARY_ONLY = {"errors", "env", "dtypes", "target"}


def modules() -> list[Path]:
    return sorted(path for path in SRC.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in a file, those inside functions included."""
    package = ("eventide", *path.relative_to(SRC).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield node.lineno, module
            if module == "eventide":
                yield from ((node.lineno, f"eventide.{alias.name}") for alias in node.names)


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "eventide" and len(parts) > 1 else None


def own_layer(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def test_every_module_has_a_layer() -> None:
    assert {own_layer(path) for path in modules()} - {"__init__"} <= set(RANK)


def test_imports_go_down() -> None:
    wrong = []
    for path in modules():
        layer = own_layer(path)
        if layer == "__init__":  # the package's front door
            continue
        for line, module in imported(path):
            other = layer_of(module)
            # `from .. import __version__` and the like name no layer
            if other in RANK and RANK[other] > RANK[layer]:
                wrong.append(f"{path.relative_to(SRC)}:{line}: {layer} must not import {module}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", ["torch", "transformers", "pydantic"])
def test_heavy_packages_stay_out(package: str) -> None:
    wrong = [
        f"{path.relative_to(SRC)}:{line}"
        for path in modules()
        if own_layer(path) not in TORCH
        for line, module in imported(path)
        if module.split(".")[0] == package
    ]
    # cli/bench_*.py and the bench's own files may need pydantic; nothing else does
    assert not [place for place in wrong if not place.startswith("cli/bench")]


def test_the_lowest_layer_needs_the_standard_library_alone() -> None:
    import sys

    for path in modules():
        if own_layer(path) in STANDARD_LIBRARY_ONLY:
            top_level = ast.parse(path.read_text()).body
            names = [
                name.split(".")[0]
                for node in top_level
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
            ]
            assert set(names) <= {*sys.stdlib_module_names, "eventide", ""}, path


def test_the_check_sees_a_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ir").mkdir()
    (tmp_path / "ir" / "bad.py").write_text("def f():\n    from ..engine.llm import LLM\n    import torch\n")
    monkeypatch.setattr("tests.test_layers.SRC", tmp_path)
    with pytest.raises(AssertionError, match=r"ir/bad.py:2: ir must not import eventide.engine.llm"):
        test_imports_go_down()
    with pytest.raises(AssertionError):
        test_heavy_packages_stay_out("torch")
