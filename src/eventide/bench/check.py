"""`check`: every problem of files, folders and whole data sets, not only the first.

What stands alone is checked alone: each record against its schema. What belongs together is checked together: names
used twice, lines in the wrong folder, workloads that do not fit their definition, results of unknown solutions, stored
tensors of the wrong shape. A contradiction is an error; something that is merely absent or untidy is a warning, since
parts of data sets travel without the rest.

    >>> report = check("my_dataset")                                          # doctest: +SKIP
    >>> [str(p) for p in report.errors]                                       # doctest: +SKIP
    ['workloads/gemm/gemm_n128.jsonl:3: workload.axes: needs the axis M']
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from ..errors import BenchError, SchemaError
from .check_workload import check_workload
from .dataset import TraceSet, files_in, misplaced
from .dataset_problems import Problem, problems_in
from .dataset_read import iter_lines, read_text
from .schema_definition import Definition
from .schema_solution import Solution, SupportedLanguages
from .schema_trace import Evaluation, SafetensorsInput, Trace, Workload

Kind = Literal["definition", "solution", "workload", "evaluation", "trace"]
MODELS: dict[Kind, type[BaseModel]] = {
    "definition": Definition,
    "solution": Solution,
    "workload": Workload,
    "evaluation": Evaluation,
    "trace": Trace,
}
FOLDERS = ("definitions", "solutions", "workloads", "traces")
_KEYS: dict[Kind, frozenset[str]] = {
    "definition": frozenset({"op_type", "reference", "outputs", "axes", "inputs", "constraints", "tags", "name"}),
    "solution": frozenset({"spec", "sources", "author", "definition", "name"}),
    "trace": frozenset({"workload", "evaluation", "solution", "definition"}),
    "evaluation": frozenset({"status", "environment", "timestamp", "correctness", "performance", "log"}),
    "workload": frozenset({"uuid", "axes", "inputs"}),
}


@dataclass
class Report:
    """The problems found, in the order of the files, and how many records were looked at."""

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> list[Problem]:
        """Problems that break the format or contradict each other."""
        return [p for p in self.problems if p.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """Problems that a reader may live with."""
        return [p for p in self.problems if p.level == "warning"]

    def extend(self, problems: list[Problem]) -> None:
        """Add problems."""
        self.problems.extend(problems)


def check(path: str | Path, kind: Kind | None = None) -> Report:
    """Check a file, a folder of files, or a data set (a folder that holds definitions/, workloads/, ...).

    `kind` says what a file holds where neither its folder nor its fields tell. Raises BenchError for a path that does
    not exist or a folder without a single record.
    """
    path = Path(path)
    report = Report()
    if path.is_dir():
        if any((path / name).is_dir() for name in FOLDERS):
            _DataSetCheck(path, report).run()
        else:
            files = sorted([*files_in(path, ".json"), *files_in(path, ".jsonl")])
            if not files:
                raise BenchError(f"{path} holds neither a data set nor a .json or .jsonl file")
            for file in files:
                _check_file(file, kind, report)
    else:
        _check_file(path, kind, report)
    return report


def guess_kind(data: Any, path: Path) -> Kind:
    """What a record is: by the nearest folder of a data set, else by its fields."""
    kinds: tuple[Kind, ...] = ("definition", "solution", "trace", "evaluation", "workload")
    for part in reversed(path.parts[:-1]):
        if part in ("definitions", "solutions"):
            return "definition" if part == "definitions" else "solution"
        if part in FOLDERS:
            kinds = ("trace", "evaluation", "workload")
            break
    if isinstance(data, dict):
        scores = {kind: len(_KEYS[kind] & data.keys()) for kind in kinds}
        best = max(kinds, key=lambda k: scores[k])
        if scores[best]:
            return best
    raise SchemaError(
        f"{path}: cannot tell whether this is a definition, solution, workload, evaluation or trace; say it with --kind"
    )


def _check_file(path: Path, kind: Kind | None, report: Report) -> None:
    if path.suffix == ".jsonl":
        for number, text in _lines(path, str(path), report):
            kind_here: Kind = kind or _guess_line(text, path)
            _validate(MODELS[kind_here], text, str(path), number, report, kind_here)
        return
    text = read_text(path)
    if kind is None:
        try:
            kind = guess_kind(from_json(text), path)
        except ValueError as error:
            if isinstance(error, SchemaError):
                raise
            report.extend([Problem(str(path), _line_of(error), "", f"not valid JSON: {error}")])
            return
    _validate(MODELS[kind], text, str(path), None, report, kind)


def _guess_line(text: str, path: Path) -> Kind:
    try:
        kind = guess_kind(from_json(text), Path(path.name))
    except ValueError:
        return "trace"
    return kind if kind in ("workload", "evaluation") else "trace"


def _line_of(error: ValueError) -> int | None:
    words = str(error).replace(",", "").split()
    return int(words[words.index("line") + 1]) if "line" in words[:-1] else None


def _lines(path: Path, shown: str, report: Report) -> Iterator[tuple[int, str]]:
    for number, _, line in iter_lines(path):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            report.extend([Problem(shown, number, "", f"not UTF-8 text: {error.reason} at byte {error.start}")])


def _validate(model: type[BaseModel], text: str, shown: str, line: int | None, report: Report, kind: str) -> Any:
    report.counts[kind] += 1
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        report.extend(problems_in(text, error, shown, line))
        return None


class _DataSetCheck:
    """One pass over a data set; definitions and names are kept, traces are not."""

    def __init__(self, root: Path, report: Report) -> None:
        self.root, self.report = root, report
        self.definitions: dict[str, Definition] = {}
        self.solutions: dict[str, tuple[str, str]] = {}
        self.workload_ids: dict[str, set[str]] = {}
        self.layout = TraceSet(root=root)
        self.has_blobs = (root / "blob").is_dir()
        self.num_stored = 0

    def run(self) -> None:
        for file in files_in(self.root / "definitions", ".json"):
            self._definition(file)
        self.layout.definitions.update(self.definitions)
        for file in files_in(self.root / "solutions", ".json"):
            self._solution(file)
        for file in files_in(self.root / "workloads", ".jsonl"):
            self._traces(file, "workloads")
        for file in files_in(self.root / "traces", ".jsonl"):
            self._traces(file, "traces")
        if self.num_stored and not self.has_blobs:
            message = f"the tensors of {self.num_stored} inputs are not here: copy the data set's blob folder"
            self.report.extend([Problem("blob", None, "", message, "warning")])

    def _add(self, file: Path, line: int | None, where: str, message: str, warning: bool = False) -> None:
        shown = str(file.relative_to(self.root))
        self.report.extend([Problem(shown, line, where, message, "warning" if warning else "error")])

    def _read(self, model: type[BaseModel], file: Path, kind: str) -> Any:
        try:
            text = read_text(file)
        except BenchError as error:
            self._add(file, None, "", str(error))
            return None
        return _validate(model, text, str(file.relative_to(self.root)), None, self.report, kind)

    def _placed(self, file: Path, expected: Path, line: int | None = None) -> None:
        if file.relative_to(self.root) != expected:
            self._add(file, line, "", f"by its fields this file belongs at {expected}", warning=True)

    def _definition(self, file: Path) -> None:
        definition = self._read(Definition, file, "definition")
        if definition is None:
            return
        if definition.name in self.definitions:
            self._add(file, None, "name", f"the name {definition.name!r} is taken by another definition")
            return
        self.definitions[definition.name] = definition
        self._placed(file, self.layout.definition_path(definition))

    def _solution(self, file: Path) -> None:
        solution = self._read(Solution, file, "solution")
        if solution is None:
            return
        if solution.name in self.solutions:
            self._add(file, None, "name", f"the name {solution.name!r} is taken by another solution")
            return
        self.solutions[solution.name] = (solution.definition, solution.content_hash)
        if solution.definition not in self.definitions:
            self._add(file, None, "definition", f"no definition {solution.definition!r} in this data set", warning=True)
        else:
            self._placed(file, self.layout.solution_path(solution))
        for where, message in check_python_entry(solution):
            self._add(file, None, where, message, warning=True)

    def _traces(self, file: Path, folder: str) -> None:
        kind = "workload" if folder == "workloads" else "trace"
        shown, placed = str(file.relative_to(self.root)), False
        for number, text in _lines(file, shown, self.report):
            trace = _validate(Trace, text, shown, number, self.report, kind)
            if trace is None:
                continue
            if trace.is_workload != (folder == "workloads"):
                self._add(file, number, "", misplaced(folder))
                continue
            definition = self.definitions.get(trace.definition)
            if definition is None:
                message = f"no definition {trace.definition!r} in this data set"
                self._add(file, number, "definition", message, warning=True)
            elif not placed:
                placed = True  # one word a file is enough
                parts = file.relative_to(self.root).parts
                author = parts[1] if folder == "traces" and len(parts) > 1 else None
                self._placed(file, self.layout.trace_path(trace, author), number)
            if folder == "workloads":
                self._workload(file, number, trace, definition)
            else:
                self._result(file, number, trace, definition)

    def _workload(self, file: Path, number: int, trace: Trace, definition: Definition | None) -> None:
        seen = self.workload_ids.setdefault(trace.definition, set())
        if trace.uuid in seen:
            self._add(file, number, "workload.uuid", f"{trace.uuid!r} names another workload of this definition too")
        seen.add(trace.uuid)
        self.num_stored += sum(isinstance(i, SafetensorsInput) for i in trace.inputs.values())
        if definition is not None:
            root = self.root if self.has_blobs else None
            for where, message, level in check_workload(definition, trace.workload, root):
                self._add(file, number, f"workload.{where}", message, level == "warning")

    def _result(self, file: Path, number: int, trace: Trace, definition: Definition | None) -> None:
        if definition is not None:
            if trace.uuid not in self.workload_ids.get(trace.definition, ()):
                message = f"the workload {trace.uuid!r} is not among the definition's workloads"
                self._add(file, number, "workload.uuid", message, warning=True)
            for where, message, level in check_workload(definition, trace.workload, None):
                self._add(file, number, f"workload.{where}", message, level == "warning")
        if trace.solution is None:
            self._add(file, number, "solution", "a result without the name of its solution", warning=True)
            return
        if trace.evaluation is None:
            self._add(file, number, "evaluation", "a solution without its result", warning=True)
        known = self.solutions.get(trace.solution)
        if known is None:
            message = f"no solution {trace.solution!r} in this data set"
            self._add(file, number, "solution", message, warning=True)
        elif known[0] != trace.definition:
            self._add(file, number, "solution", f"{trace.solution!r} solves {known[0]!r}, not {trace.definition!r}")
        elif trace.evaluation is not None and trace.evaluation.eventide is not None:
            ran = trace.evaluation.eventide.solution_hash
            if ran is not None and ran != known[1]:
                message = f"measured on other sources than those of {trace.solution!r} here; run it again"
                self._add(file, number, "evaluation.eventide.solution_hash", message, warning=True)


def check_python_entry(solution: Solution) -> list[tuple[str, str]]:
    """Whether the entry function stands in its file, for the languages that are Python; (field, message) pairs."""
    if solution.spec.language not in (SupportedLanguages.PYTHON, SupportedLanguages.TRITON):
        return []
    index = [s.path for s in solution.sources].index(solution.entry_file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(solution.entry_source.content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [(f"sources.{index}.content", f"is not valid Python: {error}")]
    names = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    names |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    names |= {a.asname or a.name for n in tree.body if isinstance(n, (ast.ImportFrom, ast.Import)) for a in n.names}
    if solution.entry_function not in names:
        return [("spec.entry_point", f"{solution.entry_file} defines no {solution.entry_function!r} at its top level")]
    return []
