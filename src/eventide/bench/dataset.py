"""TraceSet: a data set on disk, and what can be asked of it.

    my_dataset/
      definitions/<op_type>/<name>.json
      workloads/<op_type>/<definition>.jsonl
      solutions/<author>/<op_type>/<definition>/<name>.json
      traces/<author>/<op_type>/<definition>.jsonl
      blob/workloads/<op_type>/<definition>/<definition>_<uuid>.safetensors

Reading searches the four folders recursively and trusts no file name: the records say what they are. Everything is
validated once while loading; definitions are held, solutions and traces stay in their files and are parsed on access.

    >>> data = TraceSet.load("my_dataset")                                    # doctest: +SKIP
    >>> data.workloads["rmsnorm_h4096"][0].axes                               # doctest: +SKIP
    {'batch_size': 7}
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic_core import from_json

from ..errors import BenchError, SchemaError
from .dataset_read import SolutionList, TraceList, iter_lines, parse_line, read_record
from .schema_definition import Definition
from .schema_solution import Solution
from .schema_trace import SafetensorsInput, Trace

V = TypeVar("V")


class ByName(dict[str, V]):
    """A dictionary that answers an unknown name with an empty list instead of an error, without storing it."""

    def __init__(self, empty: Callable[[], V], items: Mapping[str, V] | None = None) -> None:
        super().__init__(items or {})
        self._empty = empty

    def __missing__(self, key: str) -> V:
        return self._empty()

    def slot(self, key: str) -> V:
        """The list of `key`, made where it is absent."""
        return self.setdefault(key, self._empty())


@dataclass(frozen=True)
class Summary:
    """How much a data set holds."""

    definitions: int
    workloads: int
    solutions: int
    traces: int
    statuses: dict[str, int]
    """Traces by status of their evaluation."""
    op_types: dict[str, int]
    """Definitions by operator type."""
    authors: dict[str, int]
    """Solutions by author."""
    hardware: dict[str, int]
    """Traces by hardware."""


def file_name(name: str) -> str:
    """A name as one path component: characters that a file system would take for its own are %-escaped."""
    quoted = quote(name, safe=" !#$&'()+,;=@[]^`{}~")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


@lru_cache(maxsize=128)
def _cached_solution(path: Path, mtime_ns: int) -> Solution:
    return read_record(Solution, path)


def _load_solution(path: Path) -> Solution:
    return _cached_solution(path, path.stat().st_mtime_ns)


class TraceSet:
    """Definitions, workloads, solutions and traces, in a folder or in memory."""

    root: Path | None
    definitions: dict[str, Definition]
    """By name."""
    workloads: ByName[TraceList]
    """By definition: traces without solution and evaluation."""
    solutions: ByName[SolutionList]
    """By definition."""
    traces: ByName[TraceList]
    """By definition: traces with a solution or an evaluation."""

    def __init__(
        self,
        definitions: Iterable[Definition] = (),
        workloads: Iterable[Trace] = (),
        solutions: Iterable[Solution] = (),
        traces: Iterable[Trace] = (),
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.definitions = {}
        self.workloads, self.traces = ByName(TraceList), ByName(TraceList)
        self.solutions = ByName(SolutionList)
        self._solution_files: dict[str, tuple[str, str, Callable[[], Solution]]] = {}
        self._origins: dict[str, Path] = {}
        for definition in definitions:
            self._index_definition(definition, None)
        for solution in solutions:
            self._index_solution(solution, None)
        for trace in (*workloads, *traces):
            (self.workloads if trace.is_workload else self.traces).slot(trace.definition).append(trace)

    # ---- reading

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, validate: bool = True) -> TraceSet:
        """Read the data set of a folder.

        With `validate` every line is checked while loading; without, lines are only indexed and a bad one is reported
        when it is read. Raises BenchError where the folder is absent, SchemaError (file, line, field) for a record
        that breaks a rule, a definition or solution name used twice, or a line in the wrong folder.
        """
        root = Path(path)
        if not root.is_dir():
            raise BenchError(f"{root} is not a folder; a data set is a folder with definitions/, workloads/, ...")
        data = cls(root=root)
        for file in files_in(root / "definitions", ".json"):
            data._index_definition(read_record(Definition, file), file)
        for file in files_in(root / "solutions", ".json"):
            data._index_solution(read_record(Solution, file), file)
        for folder, target in (("workloads", data.workloads), ("traces", data.traces)):
            for file in files_in(root / folder, ".jsonl"):
                data._index_lines(file, folder, target, validate)
        return data

    def _index_definition(self, definition: Definition, file: Path | None) -> None:
        self._claim(f"definition {definition.name!r}", file)
        self.definitions[definition.name] = definition

    def _index_solution(self, solution: Solution, file: Path | None) -> None:
        self._claim(f"solution {solution.name!r}", file)
        loader = partial(_load_solution, file) if file is not None else partial(_identity, solution)
        self._solution_files[solution.name] = (solution.definition, solution.author, loader)
        self.solutions.slot(solution.definition).append_loader(loader)

    def _claim(self, what: str, file: Path | None) -> None:
        if what in self._origins:
            raise SchemaError(
                f"{file or 'the new record'}: name: the {what} is already in {self._origins[what]}; names are unique "
                "in a data set"
            )
        self._origins[what] = file or Path("memory")

    def _index_lines(self, file: Path, folder: str, target: ByName[TraceList], validate: bool) -> None:
        for number, offset, line in iter_lines(file):
            if validate:
                trace = parse_line(line, file, number)
                name = trace.definition
                if trace.is_workload != (folder == "workloads"):
                    raise SchemaError(f"{file}:{number}: {misplaced(folder)}")
            else:
                name = _definition_of(line)
            target.slot(name).append_at(file, offset)

    # ---- asking

    def get_solution(self, name: str) -> Solution:
        """A solution by name; raises BenchError for an unknown one."""
        if name not in self._solution_files:
            raise BenchError(f"the data set has no solution {name!r}")
        return self._solution_files[name][2]()

    def get_definition(self, name: str) -> Definition:
        """A definition by name; raises BenchError for an unknown one."""
        if name not in self.definitions:
            raise BenchError(f"the data set has no definition {name!r} ({len(self.definitions)} others)")
        return self.definitions[name]

    @property
    def solution_names(self) -> dict[str, tuple[str, str]]:
        """(definition, author) of each solution, without reading the solutions."""
        return {name: (definition, author) for name, (definition, author, _) in self._solution_files.items()}

    def author_of(self, solution: str) -> str | None:
        """The author of a solution, or None where the data set does not have it."""
        entry = self._solution_files.get(solution)
        return entry[1] if entry else None

    def all_workloads(self) -> Iterator[Trace]:
        """Every workload, streamed."""
        for traces in self.workloads.values():
            yield from traces

    def all_traces(self) -> Iterator[Trace]:
        """Every trace with a result, streamed."""
        for traces in self.traces.values():
            yield from traces

    def passed_traces(
        self,
        definition: str,
        *,
        max_relative_error: float | None = None,
        max_absolute_error: float | None = None,
        hardware: str | None = None,
    ) -> list[Trace]:
        """PASSED traces of a definition within error limits (None for no further limit), on one hardware."""
        found = []
        for trace in self.traces[definition]:
            result = trace.evaluation
            if not trace.passed or result is None or result.correctness is None:
                continue
            if hardware is not None and result.environment.hardware != hardware:
                continue
            # written so that a NaN error is over any limit
            if max_relative_error is not None and not result.correctness.max_relative_error <= max_relative_error:
                continue
            if max_absolute_error is not None and not result.correctness.max_absolute_error <= max_absolute_error:
                continue
            found.append(trace)
        return found

    def best_trace(self, definition: str, axes: Mapping[str, int] | None = None, **limits: Any) -> Trace | None:
        """The fastest PASSED trace of a definition (on workloads with exactly `axes`), or None.

        `limits` are those of `passed_traces`.
        """
        fitting = [t for t in self.passed_traces(definition, **limits) if axes is None or t.axes == dict(axes)]
        return min(fitting, key=latency_of, default=None)

    def summary(self) -> Summary:
        """Counts, in one pass over the traces."""
        statuses: Counter[str] = Counter()
        hardware: Counter[str] = Counter()
        for trace in self.all_traces():
            if trace.evaluation is not None:
                statuses[str(trace.evaluation.status)] += 1
                hardware[trace.evaluation.environment.hardware] += 1
        return Summary(
            definitions=len(self.definitions),
            workloads=sum(map(len, self.workloads.values())),
            solutions=len(self._solution_files),
            traces=sum(map(len, self.traces.values())),
            statuses=dict(statuses),
            op_types=dict(Counter(d.op_type for d in self.definitions.values())),
            authors=dict(Counter(author for _, author, _ in self._solution_files.values())),
            hardware=dict(hardware),
        )

    def blob_file(self, spec: SafetensorsInput) -> Path:
        """The file of a stored tensor; raises BenchError where it is absent or outside the data set."""
        root = self._need_root().resolve()
        file = (root / spec.path).resolve()
        if not file.is_relative_to(root):
            raise BenchError(f"{spec.path} leads out of the data set")
        if not file.is_file():
            raise BenchError(f"{spec.path} is missing from the data set (tensors may be kept elsewhere: copy blob/)")
        return file

    # ---- writing

    def op_type_of(self, definition: str) -> str:
        """The operator type of a definition, for the layout; `unknown` where the data set does not have it."""
        known = self.definitions.get(definition)
        return known.op_type if known else "unknown"

    def definition_path(self, definition: Definition) -> Path:
        """Where a definition is stored, relative to the root."""
        return Path("definitions", file_name(definition.op_type), f"{file_name(definition.name)}.json")

    def solution_path(self, solution: Solution) -> Path:
        """Where a solution is stored, relative to the root."""
        op_type, name = self.op_type_of(solution.definition), f"{file_name(solution.name)}.json"
        return Path("solutions", file_name(solution.author), file_name(op_type), file_name(solution.definition), name)

    def trace_path(self, trace: Trace, author: str | None = None) -> Path:
        """Where a trace or workload is stored, relative to the root."""
        parts = [file_name(self.op_type_of(trace.definition)), f"{file_name(trace.definition)}.jsonl"]
        if trace.is_workload:
            return Path("workloads", *parts)
        author = author or self.author_of(trace.solution or "") or "unknown"
        return Path("traces", file_name(author), *parts)

    def blob_path(self, definition: str, uuid: str) -> Path:
        """Where the tensors of a workload are stored, relative to the root."""
        name = f"{file_name(definition)}_{file_name(uuid)}.safetensors"
        return Path("blob", "workloads", file_name(self.op_type_of(definition)), file_name(definition), name)

    def add_definition(self, definition: Definition) -> None:
        """Add a definition, on disk too where the set has a folder; raises SchemaError for a name in use."""
        file = self.root / self.definition_path(definition) if self.root else None
        if definition.name not in self.definitions and file is not None:
            _write(file, definition.model_dump_json(indent=2) + "\n")
        self._index_definition(definition, file)

    def add_solution(self, solution: Solution) -> None:
        """Add a solution, on disk too where the set has a folder; raises SchemaError for a name in use."""
        file = self.root / self.solution_path(solution) if self.root else None
        if solution.name not in self._solution_files and file is not None:
            _write(file, solution.model_dump_json(indent=2) + "\n")
        self._index_solution(solution, file)

    def add_traces(self, traces: Iterable[Trace], author: str | None = None) -> int:
        """Append traces or workloads, on disk too where the set has a folder; returns how many."""
        count = 0
        for count, trace in enumerate(traces, 1):  # noqa: B007
            target = (self.workloads if trace.is_workload else self.traces).slot(trace.definition)
            if self.root is None:
                target.append(trace)
                continue
            file = self.root / self.trace_path(trace, author)
            file.parent.mkdir(parents=True, exist_ok=True)
            line = trace.model_dump_json().encode() + b"\n"
            # one write a line, so that two processes that append do not tear each other's lines
            with open(file, "ab", buffering=0) as out:
                end = out.seek(0, os.SEEK_END)
                if end and not _ends_with_newline(file):
                    line = b"\n" + line
                out.write(line)
                target.append_at(file, out.tell() - len(line.lstrip(b"\n")))
        return count

    def save(self, path: str | os.PathLike[str]) -> TraceSet:
        """Write everything into a new or empty folder in the layout above, streamed; returns the new set."""
        root = Path(path)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise BenchError(f"{root} is not an empty folder")
        root.mkdir(parents=True, exist_ok=True)
        copy = TraceSet(root=root)
        for definition in self.definitions.values():
            copy.add_definition(definition)
        for name in self._solution_files:
            copy.add_solution(self.get_solution(name))
        for traces in (*self.workloads.values(), *self.traces.values()):
            copy.add_traces(traces)
        return copy

    def _need_root(self) -> Path:
        if self.root is None:
            raise BenchError("this data set is in memory only and has no folder for tensors")
        return self.root

    def __repr__(self) -> str:
        return (
            f"TraceSet({str(self.root) if self.root else 'in memory'}: {len(self.definitions)} definitions, "
            f"{sum(map(len, self.workloads.values()))} workloads, {len(self._solution_files)} solutions, "
            f"{sum(map(len, self.traces.values()))} traces)"
        )


def files_in(folder: Path, suffix: str) -> Iterator[Path]:
    """The files of a folder with a suffix, recursively, in a stable order; none where the folder is absent."""
    yield from sorted(p for p in folder.rglob(f"*{suffix}") if p.is_file())


def misplaced(folder: str) -> str:
    """What to say of a line in the wrong one of workloads/ and traces/."""
    if folder == "workloads":
        return "a workload has no solution and no evaluation; results belong in traces/"
    return "a trace needs a solution or an evaluation; bare workloads belong in workloads/"


def latency_of(trace: Trace) -> float:
    """Latency in ms of a passed trace, infinity for any other."""
    result = trace.evaluation
    return result.performance.latency_ms if result is not None and result.performance is not None else float("inf")


def _identity(solution: Solution) -> Solution:
    return solution


def _definition_of(line: bytes) -> str:
    try:
        return str(from_json(line)["definition"])
    except (ValueError, KeyError, TypeError):
        return ""


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as data:
        data.seek(-1, os.SEEK_END)
        return data.read(1) == b"\n"


def _write(file: Path, text: str) -> None:
    if file.exists():
        raise BenchError(f"{file} exists and holds a record of another name; rename that file first")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_name(file.name + ".tmp")
    partial_file.write_text(text, encoding="utf-8")
    os.replace(partial_file, file)
