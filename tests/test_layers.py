"""The package graph is the layers of the design: imports go down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import eventide

ROOT = Path(eventide.__file__).parent
LAYERS = [
    {"errors", "env", "dtypes", "target"},
    {"ir"},
    {"ops"},
    {"passes", "schedule"},
    {"backends", "profile"},
    {"compile"},
    {"models", "frontend", "bench"},
    {"engine"},
    {"cli"},
]
RANK = {name: i for i, names in enumerate(LAYERS) for name in names}
# a step's tables are named after the model's limits, and the command line's entry point
ALLOWED: set[tuple[str, str]] = set()


def imports(path: Path) -> set[tuple[str, ...]]:
    """Modules that a file imports at any depth, absolute, but not under TYPE_CHECKING."""
    package = ["eventide", *path.relative_to(ROOT).with_suffix("").parts][:-1]
    tree = ast.parse(path.read_text())
    checks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    hidden = {id(x) for n in checks for x in ast.walk(n)}
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found |= {(*module, a.name) for a in node.names}
    return found


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def sources() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT or p.stem not in ("__init__", "__main__")]


def test_every_module_has_a_layer() -> None:
    assert {layer_of(p) for p in sources()} <= set(RANK)


def test_imports_go_down() -> None:
    wrong = []
    for path in sources():
        here = layer_of(path)
        for module in imports(path):
            if module[0] != "eventide" or len(module) < 2 or module[1] not in RANK:
                continue
            if RANK[module[1]] > RANK[here] and (here, module[1]) not in ALLOWED:
                wrong.append(f"{path.relative_to(ROOT)} imports {'.'.join(module)}")
    assert not wrong, "\n".join(wrong)


def test_the_lowest_layer_needs_the_standard_library_alone() -> None:
    """ml_dtypes and NumPy are imported inside functions of dtypes.py, if at all."""
    for name in LAYERS[0]:
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        tops = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        modules = {a.name for n in tops if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module or "" for n in tops if isinstance(n, ast.ImportFrom) and not n.level}
        assert {m.split(".")[0] for m in modules} <= {*sys.stdlib_module_names, "eventide"}, name


def test_the_core_knows_no_torch() -> None:
    for path in sources():
        if layer_of(path) in ("ir", "passes", "schedule", "ops", "compile"):
            assert not any(m[0] in ("torch", "transformers") for m in imports(path)), path


def test_passes_know_operators_through_their_declaration_alone() -> None:
    allowed = {"declaration", "program", "registry", "get_op", "list_ops", "Op", "Call", "Program"}
    for path in sources():
        if layer_of(path) in ("passes", "schedule", "ir"):
            for m in imports(path):
                if m[:2] == ("eventide", "ops"):
                    assert m[2] in allowed, f"{path}: {m}"


def test_ops_are_declared_without_numpy() -> None:
    """References are NumPy's, but declarations load without them: tools may list operators anywhere."""
    code = (
        "import sys\n"
        "import eventide.ops as ops\n"
        "[ops.get_op(name) for name in ops.list_ops()]\n"
        "assert 'numpy' not in sys.modules and 'torch' not in sys.modules, 'loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
