"""Merging data sets: one new folder out of several, streamed, with nothing dropped in silence.

Equal records are written once. The same name with different content is a conflict: it stops the merge before anything
is written, with both places named.
"""

from __future__ import annotations

import filecmp
import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BenchError
from .dataset import TraceSet
from .schema_trace import SafetensorsInput, Trace


@dataclass
class Merged:
    """The merged data set, and what was there more than once."""

    data: TraceSet
    written: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)


def merge(sources: Sequence[TraceSet], target: str | Path) -> Merged:
    """Write the union of `sources` into a new or empty folder; raises BenchError for a conflict."""
    _refuse_conflicts(sources)
    root = Path(target)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BenchError(f"{root} is not an empty folder")
    root.mkdir(parents=True, exist_ok=True)
    merged = Merged(TraceSet(root=root))
    data = merged.data
    for source in sources:
        for definition in source.definitions.values():
            if definition.name not in data.definitions:
                data.add_definition(definition)
                merged.written["definitions"] += 1
            else:
                merged.repeated["definitions"] += 1
    for source in sources:
        for name in source.solution_names:
            if name not in data.solution_names:
                data.add_solution(source.get_solution(name))
                merged.written["solutions"] += 1
            else:
                merged.repeated["solutions"] += 1
    seen: set[bytes] = set()
    for source in sources:
        for kind, groups in (("workloads", source.workloads), ("traces", source.traces)):
            for traces in groups.values():
                for trace in traces:
                    key = _fingerprint(trace)
                    if key in seen:
                        merged.repeated[kind] += 1
                        continue
                    seen.add(key)
                    data.add_traces([trace], author=source.author_of(trace.solution or ""))
                    merged.written[kind] += 1
                    if kind == "workloads":
                        _copy_blobs(trace, source, root, merged)
    return merged


def _fingerprint(trace: Trace) -> bytes:
    return hashlib.blake2b(trace.model_dump_json().encode(), digest_size=16).digest()


def _refuse_conflicts(sources: Sequence[TraceSet]) -> None:
    first: dict[tuple[str, str, str], tuple[bytes, TraceSet]] = {}

    def claim(kind: str, scope: str, name: str, content: str, source: TraceSet) -> None:
        digest = hashlib.blake2b(content.encode(), digest_size=16).digest()
        known = first.setdefault((kind, scope, name), (digest, source))
        if known[0] != digest:
            of = f" of {scope}" if scope else ""
            raise BenchError(
                f"{kind} {name!r}{of} differs between {known[1].root} and {source.root}; rename one of them first"
            )

    for source in sources:
        for definition in source.definitions.values():
            claim("definition", "", definition.name, definition.model_dump_json(), source)
        for name in source.solution_names:
            claim("solution", "", name, source.get_solution(name).model_dump_json(), source)
        for trace in source.all_workloads():
            claim("workload", trace.definition, trace.uuid, trace.workload.model_dump_json(), source)


def _copy_blobs(trace: Trace, source: TraceSet, root: Path, merged: Merged) -> None:
    for spec in trace.inputs.values():
        if not isinstance(spec, SafetensorsInput) or source.root is None:
            continue
        here, there = source.root / spec.path, root / spec.path
        if not here.is_file():
            merged.repeated["missing tensors"] += 1
        elif not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.blob_file(spec), there)
            merged.written["tensor files"] += 1
        elif not filecmp.cmp(here, there, shallow=False):
            raise BenchError(f"the tensor file {spec.path} differs between {source.root} and an earlier data set")
