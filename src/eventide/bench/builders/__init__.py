"""Builders: how each language becomes something callable. The first that accepts a solution builds it.

`register` adds one:

    >>> [b.name for b in registered()]
    ['python', 'triton', 'cpp', 'cuda']
"""

from __future__ import annotations

from eventide.bench.builders.base import BuildContext, Builder, BuildError, Built
from eventide.bench.builders.native import CppBuilder, CudaBuilder
from eventide.bench.builders.python import PythonBuilder, TritonBuilder
from eventide.bench.schema import Solution
from eventide.errors import UsageError

__all__ = ["BuildContext", "BuildError", "Builder", "Built", "builder_for", "register", "registered"]

_REGISTRY: list[Builder] = [PythonBuilder(), TritonBuilder(), CppBuilder(), CudaBuilder()]


def register(builder: Builder) -> None:
    """Put `builder` before all others; raises UsageError when its name is taken."""
    if any(builder.name == known.name for known in _REGISTRY):
        raise UsageError(f"a builder called {builder.name!r} is registered already; give yours another name")
    _REGISTRY.insert(0, builder)


def unregister(name: str) -> None:
    """Take a builder out again; raises UsageError for an unknown name."""
    for builder in _REGISTRY:
        if builder.name == name:
            _REGISTRY.remove(builder)
            return
    raise UsageError(f"no builder is called {name!r}; known: {', '.join(b.name for b in _REGISTRY)}")


def registered() -> tuple[Builder, ...]:
    """All builders, in the order in which they are asked."""
    return tuple(_REGISTRY)


def builder_for(solution: Solution) -> Builder:
    """The builder of a solution; raises UsageError when none accepts it."""
    for builder in _REGISTRY:
        if builder.accepts(solution):
            return builder
    language = solution.spec.language
    raise UsageError(f"no builder accepts the solution {solution.name!r} (language {language}); register one")
