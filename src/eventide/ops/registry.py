"""Finds operators: every subfolder of this package that defines `OP`, and those registered from outside."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from ..errors import ProgramError
from .declaration import Op

_registered: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Makes an operator known under its name; the same name twice is an error unless it is the same declaration."""
    if _registered.setdefault(op.name, op) is not op or (Path(__file__).parent / op.name).is_dir():
        raise ProgramError(f"an operator named '{op.name}' exists already; choose another name")
    return op


def list_ops() -> list[str]:
    """The names of all operators, sorted."""
    here = [m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.ispkg]
    return sorted([*here, *_registered])


def get_op(name: str) -> Op:
    return _registered.get(name) or _find(name)


@cache
def _find(name: str) -> Op:
    if name not in list_ops():
        raise ProgramError(f"unknown operator '{name}'; known are: {', '.join(list_ops())}")
    op = importlib.import_module(f"{__package__}.{name}").OP
    assert isinstance(op, Op)
    return op
