"""Operators: one folder each, found by name.

`get_op(name)` gives the declaration; `register` adds one from outside the package (`examples/` shows how).
"""

from __future__ import annotations

from .declaration import Attr, Call, Op, Operand, Tiling
from .program import EventRef, OpCall, Program, TensorRef
from .registry import get_op, list_ops, register

__all__ = [
    "Attr", "Call", "EventRef", "Op", "OpCall", "Operand", "Program", "TensorRef", "Tiling", "get_op", "list_ops", "register",
]  # fmt: skip
