"""Evaluators: by which rules an output is right. The first registered one that accepts a definition judges it.

A definition may name its evaluator in its extension block. `register` adds one:

    >>> [e.name for e in registered()]
    ['sampling', 'topk-indexer', 'sparse-attention', 'low-bit', 'default']
"""

from __future__ import annotations

from eventide.bench.evaluators.base import BaseEvaluator, Case, Evaluator, Tolerance, Trial, Verdict, compare
from eventide.bench.evaluators.numeric import DefaultEvaluator, LowBitEvaluator, SparseAttentionEvaluator
from eventide.bench.evaluators.sampling import SamplingEvaluator
from eventide.bench.evaluators.topk import TopKIndexerEvaluator
from eventide.bench.schema import Definition
from eventide.errors import BenchError, UsageError

__all__ = [
    "BaseEvaluator",
    "Case",
    "Evaluator",
    "Tolerance",
    "Trial",
    "Verdict",
    "compare",
    "evaluator_for",
    "register",
    "registered",
    "unregister",
]

_REGISTRY: list[Evaluator] = [
    SamplingEvaluator(),
    TopKIndexerEvaluator(),
    SparseAttentionEvaluator(),
    LowBitEvaluator(),
    DefaultEvaluator(),
]


def register(evaluator: Evaluator) -> None:
    """Put `evaluator` before all others; raises UsageError when its name is taken."""
    if any(evaluator.name == known.name for known in _REGISTRY):
        raise UsageError(f"an evaluator called {evaluator.name!r} is registered already; give yours another name")
    _REGISTRY.insert(0, evaluator)


def unregister(name: str) -> None:
    """Take an evaluator out again; raises UsageError for an unknown name."""
    _REGISTRY.remove(_named(name))


def registered() -> tuple[Evaluator, ...]:
    """All evaluators, in the order in which they are asked."""
    return tuple(_REGISTRY)


def _named(name: str) -> Evaluator:
    for evaluator in _REGISTRY:
        if evaluator.name == name:
            return evaluator
    raise UsageError(f"no evaluator is called {name!r}; known: {', '.join(e.name for e in _REGISTRY)}")


def evaluator_for(definition: Definition) -> Evaluator:
    """The evaluator of a definition: the one it names, else the first that accepts it."""
    if definition.eventide is not None and definition.eventide.evaluator is not None:
        return _named(definition.eventide.evaluator)
    for evaluator in _REGISTRY:
        if evaluator.accepts(definition):
            return evaluator
    raise BenchError(f"no evaluator accepts the definition {definition.name!r}; register one")
