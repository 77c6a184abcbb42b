"""Reading records from files, and lists of records that stay in their files.

A data set of gigabytes is mostly lines of traces. `TraceList` keeps 16 bytes a line (which file, which offset) and
parses a line when it is asked for; iterating reads each file once, in order, and keeps nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar, overload

from pydantic import BaseModel, ValidationError

from ..errors import BenchError, SchemaError
from .dataset_problems import problems_in
from .schema_solution import Solution
from .schema_trace import Trace

M = TypeVar("M", bound=BaseModel)


def read_text(path: Path) -> str:
    """The text of a file; raises BenchError where it is absent or not UTF-8."""
    try:
        # not read_text, which would turn \r\n into \n and change a source's hash
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise BenchError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None


def parse(model: type[M], text: str, path: str, line: int | None = None) -> M:
    """One record of JSON text; raises SchemaError with file, line and field of the first failure."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = problems_in(text, error, path, line)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SchemaError(f"{problems[0]}{more}") from None


def read_record(model: type[M], path: Path) -> M:
    """The one record of a JSON file."""
    return parse(model, read_text(path), str(path))


def iter_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Every line of a file that is not blank, as (number from 1, offset in bytes, the line)."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line.strip()
                offset += len(line)
    except FileNotFoundError:
        raise BenchError(f"{path} does not exist") from None
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None


def parse_line(line: bytes, path: Path, number: int | None) -> Trace:
    """One line of a .jsonl file as a Trace; raises SchemaError with file, line and field."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path}:{number}: not UTF-8 text: {error.reason}") from None
    return parse(Trace, text, str(path), number)


def iter_traces(path: Path) -> Iterator[Trace]:
    """The records of a .jsonl file, one at a time."""
    for number, _, line in iter_lines(path):
        yield parse_line(line, path, number)


class TraceList(Sequence[Trace]):
    """Traces that stay in their files, followed by traces that are held (of a data set without files)."""

    def __init__(self, held: Iterable[Trace] = ()) -> None:
        self._files: list[Path] = []
        self._file_ids: array[int] = array("Q")
        self._offsets: array[int] = array("Q")
        self._held: list[Trace] = list(held)

    def append_at(self, path: Path, offset: int) -> None:
        """Add the line of `path` that starts at `offset` bytes."""
        if not self._files or self._files[-1] != path:
            self._files.append(path)
        self._file_ids.append(len(self._files) - 1)
        self._offsets.append(offset)

    def append(self, trace: Trace) -> None:
        """Add a trace that is held in memory."""
        self._held.append(trace)

    def __len__(self) -> int:
        return len(self._offsets) + len(self._held)

    @overload
    def __getitem__(self, index: int) -> Trace: ...
    @overload
    def __getitem__(self, index: slice) -> list[Trace]: ...
    def __getitem__(self, index: int | slice) -> Trace | list[Trace]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"trace {index} of {len(self)}")
        index %= len(self)
        if index >= len(self._offsets):
            return self._held[index - len(self._offsets)]
        path = self._files[self._file_ids[index]]
        with path.open("rb") as file:
            return self._read(file, path, self._offsets[index])

    def __iter__(self) -> Iterator[Trace]:
        start, count = 0, len(self._offsets)
        while start < count:
            path = self._files[self._file_ids[start]]
            with path.open("rb") as file:
                while start < count and self._files[self._file_ids[start]] == path:
                    yield self._read(file, path, self._offsets[start])
                    start += 1
        yield from list(self._held)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (TraceList, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TraceList({len(self)} traces)"

    @staticmethod
    def _read(file: BinaryIO, path: Path, offset: int) -> Trace:
        file.seek(offset)
        return parse_line(file.readline().strip(), path, None)


class SolutionList(Sequence[Solution]):
    """Solutions of one definition; each stays in its file until it is asked for."""

    def __init__(self, loaders: Iterable[Callable[[], Solution]] = ()) -> None:
        self._loaders = list(loaders)

    def append_loader(self, loader: Callable[[], Solution]) -> None:
        """Add a solution by the function that reads it."""
        self._loaders.append(loader)

    def __len__(self) -> int:
        return len(self._loaders)

    @overload
    def __getitem__(self, index: int) -> Solution: ...
    @overload
    def __getitem__(self, index: slice) -> list[Solution]: ...
    def __getitem__(self, index: int | slice) -> Solution | list[Solution]:
        if isinstance(index, slice):
            return [loader() for loader in self._loaders[index]]
        return self._loaders[index]()

    def __iter__(self) -> Iterator[Solution]:
        return (loader() for loader in list(self._loaders))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (SolutionList, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SolutionList({len(self)} solutions)"
