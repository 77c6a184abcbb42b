"""Solution: one implementation of a definition, with its sources and how to build and call it.

    {"name": "rmsnorm_triton_v1", "definition": "rmsnorm_h4096", "author": "ada",
     "spec": {"language": "triton", "target_hardware": ["NVIDIA H200"], "entry_point": "main.py::run",
              "dependencies": [], "destination_passing_style": true, "binding": null},
     "sources": [{"path": "main.py", "content": "..."}]}

`target_hardware` is free text. A binding of null means tvm-ffi where the language is compiled. The content hash names
what is built: sha1 over definition, language, entry point, binding, dependencies, then each source's path and content,
joined without separators.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .schema_base import Extension, ExtensionBlock, Flag, NonEmptyText, Record, Size, StrEnum, Text
from .schema_init import Expression


class SupportedLanguages(StrEnum):
    """The languages of the original format."""

    PYTHON = "python"
    TRITON = "triton"
    CPP = "cpp"
    CUDA = "cuda"
    TILELANG = "tilelang"


class SupportedBindings(StrEnum):
    """How compiled code meets Python."""

    TVM_FFI = "tvm-ffi"
    TORCH = "torch"


def check_relative_path(path: str) -> str:
    """Raise ValueError unless `path` names a file below its root: relative, without `..`, not a folder."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    if posix.is_absolute() or windows.root:
        raise ValueError(f"the path must be relative, got {path!r}")
    if ".." in posix.parts or ".." in windows.parts:
        raise ValueError(f"the path must not hold '..', got {path!r}")
    if "\0" in path or path.endswith(("/", "/.")) or not posix.parts:
        raise ValueError(f"the path must name a file, got {path!r}")
    return path


class SourceFile(Record):
    """One file of a solution."""

    path: NonEmptyText
    """Relative, without `..`, unique in its solution."""
    content: NonEmptyText

    @field_validator("path")
    @classmethod
    def _path_stays_inside(cls, path: str) -> str:
        return check_relative_path(path)


class BuildSpec(Record):
    """How to build and call a solution."""

    language: SupportedLanguages
    target_hardware: Annotated[list[Text], Field(min_length=1)]
    """At least one name."""
    entry_point: NonEmptyText
    """`file::function`."""
    dependencies: list[NonEmptyText] = []
    destination_passing_style: Flag = True
    """Outputs come as further arguments and are written; otherwise they are returned."""
    binding: SupportedBindings | None = None

    @field_validator("entry_point")
    @classmethod
    def _one_separator(cls, entry: str) -> str:
        path, *rest = entry.split("::")
        if len(rest) != 1 or not path or not rest[0].strip():
            raise ValueError(f"the entry point must be file::function with exactly one '::', got {entry!r}")
        return entry


class MegakernelTask(Extension):
    """A solution that is one task of Eventide's megakernel: it sees arguments, tile coordinates and scratch only."""

    operator: NonEmptyText
    """Name of the operator in `eventide.ops`."""
    backend: Literal["cpu", "cuda"]
    variant: NonEmptyText | None = None
    """The variant that it would be, by name; null where it replaces the default."""
    tile: dict[NonEmptyText, Size] | None = None
    """Extent of one task along each axis of the task grid."""
    scratch_bytes: Size | None = None
    """Shared memory (cuda) or worker scratch (cpu) that a task needs."""


class SolutionExtension(ExtensionBlock):
    """What Eventide adds to a solution."""

    task: MegakernelTask | None = None
    dialect: NonEmptyText | None = None
    """The language where the original has no name for it, such as cute-dsl; `language` is then its nearest."""
    compile_flags: list[NonEmptyText] | None = None
    supports: list[Expression] | None = None
    """Conditions over the axes under which the solution is valid; apply() never dispatches outside them."""


class Solution(Record):
    """An implementation of a definition."""

    name: NonEmptyText
    """Unique in a data set."""
    definition: NonEmptyText
    author: NonEmptyText
    spec: BuildSpec
    sources: Annotated[list[SourceFile], Field(min_length=1)]
    description: Text | None = None
    eventide: SolutionExtension | None = None

    @model_validator(mode="after")
    def _sources_agree(self) -> Solution:
        seen: dict[PurePosixPath, str] = {}
        for source in self.sources:
            key = PurePosixPath(source.path)
            if key in seen:
                raise ValueError(f"source paths must be unique, but {source.path!r} and {seen[key]!r} are one file")
            seen[key] = source.path
        entry = self.spec.entry_point.split("::")[0]
        if entry not in seen.values():
            raise ValueError(
                f"the entry point names the file {entry!r}, which is not among the sources ({', '.join(seen.values())})"
            )
        return self

    @property
    def entry_file(self) -> str:
        """Path of the file that holds the entry function."""
        return self.spec.entry_point.split("::")[0]

    @property
    def entry_function(self) -> str:
        """Name of the entry function."""
        return self.spec.entry_point.split("::")[1]

    @property
    def entry_source(self) -> SourceFile:
        """The file that holds the entry function."""
        return next(s for s in self.sources if s.path == self.entry_file)

    @cached_property
    def content_hash(self) -> str:
        """40 hex digits that change with anything that is built; the name, author and description do not count."""
        spec = self.spec
        digest = hashlib.sha1(usedforsecurity=False)
        parts = [self.definition, str(spec.language), spec.entry_point, str(spec.binding or ""), *spec.dependencies]
        for source in self.sources:
            parts += [source.path, source.content]
        for part in parts:
            digest.update(part.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
