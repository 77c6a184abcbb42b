"""Constraints and sizes as expressions, evaluated without ``eval``.

A constraint of the format is any Python expression, and most official ones read run-time data
(``num_kv_indices == kv_indptr[-1].item()``). What is needed to check them is small: names, integers, arithmetic,
comparisons, boolean operators, indexing, and a few array methods. This module walks the syntax tree of that subset and
refuses everything else, so that a data set from a stranger can be checked without running its code.

    >>> evaluate("len_indptr == batch_size + 1", {"len_indptr": 4, "batch_size": 3})
    True

Arrays are NumPy or torch: only ``shape``, ``item``, ``min``, ``max``, ``sum``, ``all``, ``any``, ``numel`` are called.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (abs, all, any, bool, float, int, len, max, min, sum)
}
_METHODS = frozenset({"item", "min", "max", "sum", "all", "any", "numel"})
_MAX_EXPONENT = 64


class UnevaluableError(ValueError):
    """The expression steps outside the subset, or a name in it has no value."""


def parse_expression(text: str) -> ast.expr:
    """Parse `text` as one Python expression; raises ValueError with the parser's reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise ValueError(f"{text[:80]!r} is not a Python expression: {reason}") from None


def names_of(text: str) -> set[str]:
    """The variables that an expression reads (the functions of the subset are not variables)."""
    return {n.id for n in ast.walk(parse_expression(text)) if isinstance(n, ast.Name)} - set(_FUNCTIONS)


def check_subset(text: str) -> None:
    """Raise UnevaluableError where `text` uses syntax that `evaluate` refuses, whatever the values."""
    for node in ast.walk(parse_expression(text)):
        _check_node(node, text)


def evaluate(text: str, values: Mapping[str, Any]) -> Any:
    """The value of an expression of the subset; raises UnevaluableError for anything else."""
    check_subset(text)
    try:
        return _eval(parse_expression(text), values)
    except UnevaluableError:
        raise
    except Exception as error:  # an index out of range, a division by zero, a shape that does not broadcast
        raise UnevaluableError(f"{text!r} has no value here: {error}") from None


_ALLOWED = (
    ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.USub, ast.UAdd, ast.Not, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.IfExp, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Attribute, ast.Call, ast.Pow,
    *_BINARY, *_COMPARE,
)  # fmt: skip


def _check_node(node: ast.AST, text: str) -> None:
    if not isinstance(node, _ALLOWED):
        raise UnevaluableError(f"{text!r} uses {type(node).__name__}, which constraints here may not")
    if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, bool, str, type(None))):
        raise UnevaluableError(f"{text!r} holds a constant of an unknown kind")
    if isinstance(node, ast.Call):
        callee = node.func
        known = isinstance(callee, ast.Name) and callee.id in _FUNCTIONS
        known = known or (isinstance(callee, ast.Attribute) and callee.attr in _METHODS and not node.args)
        if not known or node.keywords:
            raise UnevaluableError(f"{text!r} calls {ast.unparse(callee)}, which constraints here may not")
    if isinstance(node, ast.Attribute) and node.attr not in _METHODS | {"shape"}:
        raise UnevaluableError(f"{text!r} reads the attribute {node.attr!r}, which constraints here may not")


def _eval(node: ast.expr | None, values: Mapping[str, Any]) -> Any:
    match node:
        case None:
            return None
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            if name not in values:
                raise UnevaluableError(f"{name!r} has no value")
            return values[name]
        case ast.Tuple(elts=elts) | ast.List(elts=elts):
            return tuple(_eval(e, values) for e in elts)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _eval(left, values), _eval(right, values)
            if isinstance(op, ast.Pow):
                if not (isinstance(b, int) and abs(b) <= _MAX_EXPONENT):
                    raise UnevaluableError(f"exponents are integers up to {_MAX_EXPONENT}, got {b!r}")
                return a**b
            if isinstance(a, (str, tuple)) or isinstance(b, (str, tuple)):
                raise UnevaluableError("arithmetic is for numbers and arrays")
            return _BINARY[type(op)](a, b)
        case ast.UnaryOp(op=op_, operand=operand):
            value = _eval(operand, values)
            return not value if isinstance(op_, ast.Not) else (-value if isinstance(op_, ast.USub) else +value)
        case ast.BoolOp(op=bool_op, values=parts):
            stop = isinstance(bool_op, ast.Or)
            value = not stop
            for part in parts:
                value = _eval(part, values)
                if bool(value) is stop:
                    break
            return value
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            a = _eval(left, values)
            for cmp_op, right in zip(ops, comparators):
                b = _eval(right, values)
                holds = _COMPARE[type(cmp_op)](a, b)
                if len(ops) == 1:
                    return holds
                if not holds:
                    return False
                a = b
            return True
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _eval(body if _eval(test, values) else orelse, values)
        case ast.Subscript(value=base, slice=index):
            return _eval(base, values)[_eval(index, values)]
        case ast.Slice(lower=lower, upper=upper, step=step):
            return slice(_eval(lower, values), _eval(upper, values), _eval(step, values))
        case ast.Attribute(value=base, attr="shape"):
            return tuple(_eval(base, values).shape)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_eval(a, values) for a in args))
        case ast.Call(func=ast.Attribute(value=base, attr=attr)):
            target = _eval(base, values)
            if attr == "item" and isinstance(target, (int, float)):
                return target
            return getattr(target, attr)()
    raise UnevaluableError(f"cannot evaluate {type(node).__name__}")
