"""Small valid records, and ways to damage them; used by the schema tests and by the comparison with the original."""

from __future__ import annotations

import copy
import json
from typing import Any

DELETE = object()
"""Given to `changed` to remove a field."""

DEFINITION: dict[str, Any] = {
    "name": "scale_h8",
    "op_type": "elementwise",
    "axes": {"rows": {"type": "var"}, "hidden": {"type": "const", "value": 8}},
    "inputs": {
        "x": {"shape": ["rows", "hidden"], "dtype": "float32"},
        "alpha": {"shape": None, "dtype": "float32"},
    },
    "outputs": {"y": {"shape": ["rows", "hidden"], "dtype": "float32"}},
    "reference": "def run(x, alpha):\n    return x * alpha\n",
}
SOLUTION: dict[str, Any] = {
    "name": "scale_numpy",
    "definition": "scale_h8",
    "author": "ada",
    "spec": {"language": "python", "target_hardware": ["cpu"], "entry_point": "main.py::run"},
    "sources": [{"path": "main.py", "content": "def run(x, alpha, y):\n    y[...] = x * alpha\n"}],
}
WORKLOAD: dict[str, Any] = {
    "axes": {"rows": 3},
    "inputs": {"x": {"type": "random"}, "alpha": {"type": "scalar", "value": 0.5}},
    "uuid": "w-1",
}
EVALUATION: dict[str, Any] = {
    "status": "PASSED",
    "environment": {"hardware": "cpu", "libs": {"numpy": "2.0"}},
    "timestamp": "2026-01-01T00:00:00Z",
    "log": "",
    "correctness": {"max_relative_error": 0.0, "max_absolute_error": 0.0},
    "performance": {"latency_ms": 1.0, "reference_latency_ms": 2.0, "speedup_factor": 2.0},
}
TRACE: dict[str, Any] = {
    "definition": "scale_h8",
    "workload": WORKLOAD,
    "solution": "scale_numpy",
    "evaluation": EVALUATION,
}


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `record` with the field at the dotted `path` set (list indices are numbers) or deleted."""
    out = copy.deepcopy(record)
    node: Any = out
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for part in parents:
        node = node[part]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    return out


def as_json(record: dict[str, Any]) -> str:
    """The record as JSON text; non-finite floats become the bare words NaN and Infinity, as Python writes them."""
    return json.dumps(record)


def mutations(record: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every field of `record`, at every depth, deleted and replaced by a value of each JSON kind."""
    replacements: list[Any] = [
        None, True, -1, 0, 1.5, "", "text", [], {}, [None], ["text"], {"": 1}, float("nan"), float("inf"),
    ]  # fmt: skip
    found: list[tuple[str, dict[str, Any]]] = []

    def visit(node: Any, path: str) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            here = f"{path}.{key}" if path else str(key)
            found.append((f"delete {here}", changed(record, here, DELETE)))
            found.extend((f"{here} = {value!r}", changed(record, here, value)) for value in replacements)
            visit(child, here)

    visit(record, "")
    return found
