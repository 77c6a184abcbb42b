"""Eventide: language-model inference as one persistent kernel, with Event Tensors as its intermediate representation.

    import eventide
    llm = eventide.LLM("eventide-tiny")
    print(llm.generate("Once upon a time").text)

    LLM, SamplingParams, Completion, Piece, TokenLogprob     a model, and what it generates
    Engine, Request, Output                                  requests that come and go while the model runs
    Program, compile                                         an own program of operators, compiled and called on arrays
    errors                                                   every error raised on purpose, as one tree

Names load when they are first used, so that `import eventide` takes milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import errors as errors
    from .compile import compile as compile
    from .engine.engine import Engine as Engine
    from .engine.engine import Output as Output
    from .engine.engine import Request as Request
    from .engine.llm import LLM as LLM
    from .engine.outputs import Completion as Completion
    from .engine.outputs import Piece as Piece
    from .engine.outputs import TokenLogprob as TokenLogprob
    from .engine.sampling import SamplingParams as SamplingParams
    from .ops.program import Program as Program

_WHERE = {
    "Engine": "engine.engine",
    "LLM": "engine.llm",
    "Output": "engine.engine",
    "Request": "engine.engine",
    "SamplingParams": "engine.sampling",
    "Completion": "engine.outputs",
    "Piece": "engine.outputs",
    "TokenLogprob": "engine.outputs",
    "Program": "ops.program",
    "compile": "compile",
    "errors": "",
}

__all__ = [
    "LLM",
    "Completion",
    "Engine",
    "Output",
    "Piece",
    "Program",
    "Request",
    "SamplingParams",
    "TokenLogprob",
    "__version__",
    "compile",
    "errors",
]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # importing the submodule `compile` would put it in place of the function
        if name == "compile" and isinstance(value, ModuleType):
            value = value.compile
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'eventide' has no attribute {name!r}")
    where = _WHERE[name]
    if not where:
        return importlib.import_module(f".{name}", __name__)
    value = getattr(importlib.import_module(f".{where}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
