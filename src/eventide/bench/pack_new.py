"""`new`: a data set, a definition or a solution to start from.

A new solution is written for the definition at hand: its arguments in the right order, in the language and calling
convention asked for, and it runs at once. What it computes is the reference where the language is Python; elsewhere the
body is marked as the place to write the kernel, and stops with a message until somebody has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import BenchError, UsageError
from .dataset import TraceSet
from .schema_definition import Definition
from .schema_solution import BuildSpec, Solution, SourceFile, SupportedLanguages

ENTRY_FILES: dict[str, str] = {
    "python": "main.py",
    "triton": "main.py",
    "tilelang": "main.py",
    "cpp": "main.cpp",
    "cuda": "main.cu",
}


def new_data(path: str | Path) -> TraceSet:
    """An empty data set in a new or empty folder."""
    root = Path(path)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BenchError(f"{root} is not an empty folder")
    for folder in ("definitions", "workloads", "solutions", "traces", "blob/workloads"):
        (root / folder).mkdir(parents=True)
    return TraceSet(root=root)


def new_definition(name: str, op_type: str) -> Definition:
    """A definition that is valid and says where to go on: y = x * alpha over rows of 128."""
    text = files("eventide.bench").joinpath("templates/definition.json").read_text(encoding="utf-8")
    return Definition.model_validate({**json.loads(text), "name": name, "op_type": op_type})


def new_solution(
    definition: Definition, language: str, name: str, author: str, *, writes_outputs: bool = True
) -> Solution:
    """A solution to start from; with `writes_outputs` it takes its outputs as further arguments.

    Raises UsageError for an unknown language.
    """
    import jinja2

    if language not in ENTRY_FILES:
        raise UsageError(f"unknown language {language!r}; known are {', '.join(ENTRY_FILES)}")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eventide.bench", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    file = ENTRY_FILES[language]
    content = environment.get_template(f"solution_{language}.j2").render(_facts(definition, name, writes_outputs))
    return Solution(
        name=name,
        definition=definition.name,
        author=author,
        spec=BuildSpec(
            language=SupportedLanguages(language),
            target_hardware=["cpu"] if language in ("python", "cpp") else ["NVIDIA GPU"],
            entry_point=f"{file}::run",
            destination_passing_style=writes_outputs,
        ),
        sources=[SourceFile(path=file, content=content)],
    )


def _facts(definition: Definition, name: str, writes_outputs: bool) -> Mapping[str, Any]:
    tensors = {**definition.inputs, **definition.outputs}
    return {
        "name": name,
        "definition": definition,
        "inputs": list(definition.inputs),
        "outputs": list(definition.outputs),
        "writes_outputs": writes_outputs,
        "shapes": {n: "scalar" if s.shape is None else f"[{', '.join(s.shape)}]" for n, s in tensors.items()},
        "dtypes": {n: definition.dtype_of(n) for n in tensors},
        "scalars": {
            n: "double" if str(s.dtype).startswith("float") else "int64_t"
            for n, s in definition.inputs.items()
            if s.shape is None
        },
    }
