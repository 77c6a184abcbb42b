"""What is kept of the calls that a program makes: which tensors' contents, and which calls.

    dump     "none"            shapes and numbers only; tensors are drawn when the workload runs
             "int"             contents of integer and boolean tensors (page tables, row pointers)
             "all"             contents of every tensor
             ["kv_indptr"]     contents of these inputs
    filter   "all" "none" "first"
             "first_k"         the first `k` calls
             "first_k_by_axes" the first `k` calls of every combination of axes
             "attention"       the first `k` calls of every (batch, mean query length, mean key-value length), read from
                               the row pointers, rounded to whole tokens

The names of flashinfer-bench ("dump_int", "keep_first_k_by_axes", ...) are understood too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .schema_definition import Definition

DUMPS = ("all", "none", "int")
FILTERS = ("all", "none", "first", "first_k", "first_k_by_axes", "attention")


@dataclass(frozen=True)
class TracingConfig:
    """How the calls of a definition are recorded."""

    dump: str | Sequence[str] = "int"
    filter: str = "first_k_by_axes"
    k: int = 1
    """Calls to keep of each kind that the filter tells apart."""

    def __post_init__(self) -> None:
        if isinstance(self.dump, str):
            object.__setattr__(self, "dump", self.dump.removeprefix("dump_"))
            if self.dump not in DUMPS:
                raise UsageError(f"dump must be one of {', '.join(DUMPS)} or a list of inputs, got {self.dump!r}")
        object.__setattr__(self, "filter", self.filter.removeprefix("keep_"))
        if self.filter not in FILTERS:
            raise UsageError(f"filter must be one of {', '.join(FILTERS)}, got {self.filter!r}")
        if self.k < 1:
            raise UsageError(f"k must be at least 1, got {self.k}")

    def check(self, definition: Definition) -> None:
        """Raise UsageError where the list of inputs does not fit a definition."""
        for name in () if isinstance(self.dump, str) else self.dump:
            if name not in definition.inputs:
                raise UsageError(f"dump names {name!r}, which is no input of {definition.name}")

    def dumps(self, definition: Definition, name: str) -> bool:
        """Whether the contents of a tensor are kept."""
        if not isinstance(self.dump, str):
            return name in self.dump
        dtype = definition.dtype_of(name)
        return self.dump == "all" or (self.dump == "int" and dtype.startswith(("int", "uint", "bool")))


class Filter:
    """Decides, call by call, which calls of one definition are kept."""

    def __init__(self, config: TracingConfig) -> None:
        self.config = config
        self._seen: Counter[Any] = Counter()

    def keeps(self, axes: Mapping[str, int], inputs: Mapping[str, Any]) -> bool:
        """Whether to keep this call; `inputs` are its arguments by name."""
        kind = self.config.filter
        if kind in ("all", "none"):
            return kind == "all"
        most = 1 if kind == "first" else self.config.k
        key: Any = None
        if kind == "first_k_by_axes":
            key = tuple(sorted(axes.items()))
        elif kind == "attention":
            key = _lengths(axes, inputs)
        if self._seen[key] >= most:
            return False
        self._seen[key] += 1
        return True


def _lengths(axes: Mapping[str, int], inputs: Mapping[str, Any]) -> Any:
    # without row pointers the axes say it all
    found = []
    for name, value in inputs.items():
        is_indptr = "indptr" in name or name.startswith("cu_seqlens")
        if is_indptr and hasattr(value, "shape") and len(value.shape) == 1 and value.shape[0] > 1:
            count = int(value.shape[0]) - 1
            found.append((name, count, round(float(value[-1] - value[0]) / count)))
    return tuple(found) or tuple(sorted(axes.items()))
