"""From a description of code to a callable: a Python file, a shared library or a torch extension."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["python", "library", "torch-extension"]
Style = Literal["objects", "pointers"]
"""Whether the callable takes arrays or tensors, or ctypes arguments made from DLPack structures."""


@dataclass(frozen=True)
class Loaded:
    function: Callable[..., Any]
    style: Style


def load(code: dict[str, Any]) -> Loaded:
    """`code` holds kind, path and function, and for Python the folder of all sources. Lets every error through."""
    kind: Kind = code["kind"]
    if kind == "python":
        return Loaded(_python(Path(code["root"]), code["path"], code["function"]), "objects")
    if kind == "torch-extension":
        import torch  # noqa: F401  the extension links against it

        return Loaded(getattr(_from_file(code["module"], Path(code["path"])), code["function"]), "objects")
    from eventide.bench.worker import calls

    if calls.exports_tvm_ffi(code["path"], code["function"]):
        return Loaded(calls.tvm_ffi_function(code["path"], code["function"]), "objects")
    return Loaded(calls.c_function(code["path"], code["function"]), "pointers")


def _python(root: Path, file: str, function: str) -> Callable[..., Any]:
    sys.path.insert(0, str(root))
    parts = Path(file).with_suffix("").parts
    packaged = len(parts) > 1 and all(
        (root.joinpath(*parts[:n]) / "__init__.py").exists() for n in range(1, len(parts))
    )
    module = importlib.import_module(".".join(parts)) if packaged else _from_file("solution_" + parts[-1], root / file)
    found: Any = module
    for name in function.split("."):
        if not hasattr(found, name):
            raise LookupError(f"{file} defines no {function}")
        found = getattr(found, name)
    if not callable(found):
        raise LookupError(f"{function} in {file} is not callable")
    result: Callable[..., Any] = found
    return result


def _from_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LookupError(f"{path.name} is nothing that Python can import")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
