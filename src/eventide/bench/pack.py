"""Solutions as folders, and back: what a person edits and what a data set keeps.

    scale_numpy/
      solution.json     name, definition, author, spec, description; no sources
      main.py           every other file is a source, at its path

`pack` joins such a folder into one Solution, `unpack` spreads a Solution out; each undoes the other. Hidden files,
``__pycache__`` and files that are not text are left out of a pack, by name, so that nothing is lost in silence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from ..errors import BenchError, SchemaError
from .dataset_problems import problems_in
from .dataset_read import read_text
from .schema_solution import Solution

MANIFEST = "solution.json"


@dataclass(frozen=True)
class Packed:
    """A packed solution and the files that are not in it."""

    solution: Solution
    left_out: list[str]


def pack(folder: str | Path) -> Packed:
    """The solution of a folder; raises BenchError without a manifest, SchemaError where a rule is broken."""
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not folder.is_dir():
        raise BenchError(f"{folder} is not a folder")
    if not manifest.is_file():
        raise BenchError(f"{folder} has no {MANIFEST}: write one with name, definition, author and spec")
    text = read_text(manifest)
    try:
        data: Any = from_json(text)
    except ValueError as error:
        raise SchemaError(f"{manifest}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise SchemaError(f"{manifest}: expected an object, got {type(data).__name__}")
    wanted = data.get("sources")
    names = [s["path"] for s in wanted if isinstance(s, dict) and "path" in s] if isinstance(wanted, list) else None
    sources, left_out = _sources(folder, names)
    data["sources"] = sources
    try:
        return Packed(Solution.model_validate_json(json.dumps(data)), left_out)
    except ValidationError as error:
        raise SchemaError(str(problems_in(text, error, str(manifest))[0])) from None


def _sources(folder: Path, names: list[str] | None) -> tuple[list[dict[str, str]], list[str]]:
    # a manifest may name its sources, which then keep their order; the content is always that of the files
    left_out: list[str] = []
    if names is None:
        names = []
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            relative = file.relative_to(folder)
            if str(relative) == MANIFEST:
                continue
            if any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
                left_out.append(relative.as_posix())
            else:
                names.append(relative.as_posix())
    sources = []
    for name in names:
        try:
            content = read_text(folder / name)
        except SchemaError:
            left_out.append(name)
            continue
        if not content:
            left_out.append(name)
            continue
        sources.append({"path": name, "content": content})
    return sources, left_out


def unpack(solution: Solution, folder: str | Path) -> list[Path]:
    """Write a solution into a new or empty folder; returns the files. Raises BenchError where the folder is in use."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BenchError(f"{folder} is not an empty folder")
    if any(Path(s.path).as_posix() == MANIFEST for s in solution.sources):
        raise BenchError(f"{solution.name}: a source named {MANIFEST} cannot be unpacked beside the manifest")
    data = json.loads(solution.model_dump_json())
    # naming the sources keeps their order, which the content hash depends on
    data["sources"] = [{"path": s.path} for s in solution.sources]
    files = [folder / MANIFEST]
    folder.mkdir(parents=True, exist_ok=True)
    files[0].write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for source in solution.sources:
        file = folder / source.path
        file.parent.mkdir(parents=True, exist_ok=True)
        # newline="" keeps the bytes, so that packing again gives the same hash
        with file.open("w", encoding="utf-8", newline="") as out:
            out.write(source.content)
        files.append(file)
    return files
