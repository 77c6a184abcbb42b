"""Python, Triton and TileLang: the sources as they are; what they compile, they compile while they warm up."""

from __future__ import annotations

import ast
import importlib.util
import re

from eventide.bench.builders.base import BuildContext, BuildError, Built, digest, write_sources
from eventide.bench.schema import Solution

_COMPILES = re.compile(r"torch\s*\.\s*compile|@torch\.compile|import triton|from triton|cpp_extension|numba")


def imports(source: str) -> set[str]:
    """Top-level names that a Python source imports, anywhere in it; empty when it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def framework_of(sources: list[str]) -> str:
    """ "torch" when any source imports torch or something built on it, else "numpy": what the arguments are made of."""
    names: set[str] = set().union(*(imports(s) for s in sources))
    return "torch" if names & {"torch", "triton", "tilelang", "flashinfer", "flash_attn", "cutlass"} else "numpy"


class PythonBuilder:
    """Language python; the arguments are torch tensors when a source imports torch, NumPy arrays otherwise."""

    name = "python"

    def accepts(self, solution: Solution) -> bool:
        return str(solution.spec.language) == "python"

    def missing(self, solution: Solution, context: BuildContext) -> str | None:
        texts = [s.content for s in solution.sources if s.path.endswith(".py")]
        if (context.is_cuda or framework_of(texts) == "torch") and importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed"
        return None

    def build(self, solution: Solution, context: BuildContext) -> Built:
        root = write_sources(solution, context, digest(solution, self.name))
        texts = [s.content for s in solution.sources if s.path.endswith(".py")]
        try:
            ast.parse(solution.entry_source.content)
        except (SyntaxError, ValueError) as error:
            raise BuildError(f"{solution.entry_file} is not valid Python: {error}") from None
        framework = "torch" if context.is_cuda else framework_of(texts)
        return Built(
            {"kind": "python", "root": str(root), "path": solution.entry_file, "function": solution.entry_function},
            framework,
            (str(root),),
            starts_processes=any(_COMPILES.search(text) for text in texts),
        )


class TritonBuilder(PythonBuilder):
    """Languages triton and tilelang, on CUDA devices."""

    name = "triton"

    def accepts(self, solution: Solution) -> bool:
        return str(solution.spec.language) in ("triton", "tilelang")

    def missing(self, solution: Solution, context: BuildContext) -> str | None:
        language = str(solution.spec.language)
        if not context.is_cuda:
            return f"{language} solutions need a CUDA device, and this run is on {context.device}"
        if importlib.util.find_spec(language) is None:
            return f"the package {language} is not installed"
        return super().missing(solution, context)
