"""Integer expressions: the sizes, coordinates, counts and maps of a plan.

An expression is immutable and kept in one canonical form, so that two spellings of the same thing compare equal:

    Sum       constant + Σ coefficient · atom        (an integer is a Sum without atoms)
    Var       a symbol (`num_tokens`) or a task coordinate (`n`)
    Product   atom · atom, where neither is a constant
    FloorDiv  a // b      Mod  a % b      Min, Max
    Load      table[i, j]: the value that a run-time integer tensor holds when the step runs

Worked example. `T = Var("num_tokens")`, tile 16: the extent `ceildiv(T, 16)` prints as `(num_tokens + 15) // 16`;
with coordinate `m`, the tile's end is `min(16*m + 16, num_tokens)`. `evaluate` computes either for one step, also for
NumPy arrays of coordinates at once; `bounds` gives an interval that holds for every value in the declared ranges;
`to_c` writes it as C++; `parse` reads the printed form back.

Division rounds toward minus infinity as Python's does. Divisors are positive.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

from ..errors import ProgramError

IntLike = Union[int, "Expr"]
Interval = tuple[int, int]
Tables = Mapping[str, Any]


class Expr:
    """Base of all expressions; arithmetic on it returns canonical expressions."""

    def __add__(self, other: IntLike) -> Expr:
        return _sum([(1, self), (1, wrap(other))])

    def __radd__(self, other: IntLike) -> Expr:
        return wrap(other) + self

    def __sub__(self, other: IntLike) -> Expr:
        return _sum([(1, self), (-1, wrap(other))])

    def __rsub__(self, other: IntLike) -> Expr:
        return wrap(other) - self

    def __neg__(self) -> Expr:
        return _sum([(-1, self)])

    def __mul__(self, other: IntLike) -> Expr:
        return _mul(self, wrap(other))

    def __rmul__(self, other: IntLike) -> Expr:
        return _mul(wrap(other), self)

    def __floordiv__(self, other: IntLike) -> Expr:
        return _floordiv(self, wrap(other))

    def __rfloordiv__(self, other: IntLike) -> Expr:
        return _floordiv(wrap(other), self)

    def __mod__(self, other: IntLike) -> Expr:
        return _mod(self, wrap(other))

    def __rmod__(self, other: IntLike) -> Expr:
        return _mod(wrap(other), self)

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    @cached_property
    def text(self) -> str:
        raise NotImplementedError

    # asked for so often that every node keeps its own
    @cached_property
    def variable_names(self) -> frozenset[str]:
        own = {self.name} if isinstance(self, Var) else set()
        return frozenset(own).union(*(c.variable_names for c in self.children))

    @cached_property
    def table_names(self) -> frozenset[str]:
        own = {self.table} if isinstance(self, Load) else set()
        return frozenset(own).union(*(c.table_names for c in self.children))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        raise TypeError(f"the expression {self.text} has no truth value; compare evaluated integers instead")


@dataclass(frozen=True, repr=False)
class Var(Expr):
    name: str

    @cached_property
    def text(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Sum(Expr):
    const: int
    terms: tuple[tuple[int, Expr], ...] = ()  # (coefficient != 0, atom), sorted by the atom's text

    @property
    def children(self) -> tuple[Expr, ...]:
        return tuple(atom for _, atom in self.terms)

    @cached_property
    def text(self) -> str:
        parts: list[str] = []
        for coef, atom in self.terms:
            body = _factor(atom) if abs(coef) == 1 else f"{abs(coef)}*{_factor(atom)}"
            sign = "-" if coef < 0 else "+"
            parts.append(f" {sign} {body}" if parts else (f"-{body}" if coef < 0 else body))
        if self.const or not parts:
            c = self.const
            parts.append(f" {'-' if c < 0 else '+'} {abs(c)}" if parts else str(c))
        return "".join(parts)


@dataclass(frozen=True, repr=False)
class Pair(Expr):
    """Base of what has two operands."""

    a: Expr
    b: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.a, self.b)


class Product(Pair):
    @cached_property
    def text(self) -> str:
        return f"{_factor(self.a)}*{_factor(self.b)}"


class FloorDiv(Pair):
    @cached_property
    def text(self) -> str:
        return f"{_factor(self.a)} // {_factor(self.b)}"


class Mod(Pair):
    @cached_property
    def text(self) -> str:
        return f"{_factor(self.a)} % {_factor(self.b)}"


class Min(Pair):
    @cached_property
    def text(self) -> str:
        return f"min({self.a.text}, {self.b.text})"


class Max(Pair):
    @cached_property
    def text(self) -> str:
        return f"max({self.a.text}, {self.b.text})"


@dataclass(frozen=True, repr=False)
class Load(Expr):
    """The run-time value ``table[index]`` of an integer tensor."""

    table: str
    index: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index

    @cached_property
    def text(self) -> str:
        return f"{self.table}[{', '.join(i.text for i in self.index)}]"


# --------------------------------------------------------------------------------------------------- construction


def wrap(value: IntLike) -> Expr:
    if isinstance(value, Expr):
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ProgramError(f"an integer or an expression was expected here, got {value!r} ({type(value).__name__})")
    return Sum(int(value))


def as_int(expr: IntLike) -> int | None:
    """The value of a constant expression, None for any other."""
    if isinstance(expr, int):
        return expr
    return expr.const if isinstance(expr, Sum) and not expr.terms else None


def ceildiv(a: IntLike, b: IntLike) -> Expr:
    return (wrap(a) + b - 1) // wrap(b)


def minimum(a: IntLike, b: IntLike) -> Expr:
    return _minmax(Min, min, wrap(a), wrap(b))


def maximum(a: IntLike, b: IntLike) -> Expr:
    return _minmax(Max, max, wrap(a), wrap(b))


def load(table: str, *index: IntLike) -> Expr:
    return Load(table, tuple(wrap(i) for i in index))


def product(values: Any) -> Expr:
    out: Expr = Sum(1)
    for v in values:
        out = out * v
    return out


def linear(expr: Expr) -> tuple[int, dict[Expr, int]]:
    """``(constant, {atom: coefficient})`` of any expression; what isn't a sum is its own atom."""
    if isinstance(expr, Sum):
        return expr.const, {atom: coef for coef, atom in expr.terms}
    return 0, {expr: 1}


def _factor(e: Expr) -> str:
    plain = isinstance(e, (Var, Load, Min, Max)) or (isinstance(e, Sum) and not e.terms and e.const >= 0)
    return e.text if plain else f"({e.text})"


def _sum(parts: list[tuple[int, Expr]]) -> Expr:
    const, terms = 0, dict[Expr, int]()
    for factor, expr in parts:
        c, ts = linear(expr)
        const += factor * c
        for atom, coef in ts.items():
            terms[atom] = terms.get(atom, 0) + factor * coef
    kept = sorted(((c, a) for a, c in terms.items() if c), key=lambda t: t[1].text)
    if not const and len(kept) == 1 and kept[0][0] == 1:
        return kept[0][1]
    return Sum(const, tuple(kept))


def _mul(a: Expr, b: Expr) -> Expr:
    ca, cb = as_int(a), as_int(b)
    if ca is not None:
        return _sum([(ca, b)])
    if cb is not None:
        return _sum([(cb, a)])
    ka, ta = linear(a)
    kb, tb = linear(b)
    parts: list[tuple[int, Expr]] = [(ka * kb, Sum(1))]
    parts += [(kb * c, x) for x, c in ta.items()] + [(ka * c, y) for y, c in tb.items()]
    for x, c in ta.items():
        for y, d in tb.items():
            lo, hi = sorted((x, y), key=lambda e: e.text)
            parts.append((c * d, Product(lo, hi)))
    return _sum(parts)


def _split(a: Expr, d: int) -> tuple[Expr, Expr]:
    """``a == d * quotient + rest`` with every coefficient of the rest outside d's multiples."""
    const, terms = linear(a)
    whole = _sum([(c // d, x) for x, c in terms.items() if c % d == 0] + [(const // d, Sum(1))])
    rest = _sum([(c, x) for x, c in terms.items() if c % d] + [(const % d, Sum(1))])
    return whole, rest


def _positive(b: Expr, what: str) -> int | None:
    d = as_int(b)
    if d is not None and d <= 0:
        raise ProgramError(f"the {what} of an expression must be positive, got {d}")
    return d


def _floordiv(a: Expr, b: Expr) -> Expr:
    d = _positive(b, "divisor")
    if d is None:
        return FloorDiv(a, b) if a != b else Sum(1)
    whole, rest = _split(a, d)
    r = as_int(rest)
    if r is not None:
        return whole + r // d
    if isinstance(rest, FloorDiv) and (e := as_int(rest.b)) is not None:
        return whole + FloorDiv(rest.a, Sum(e * d))  # (x // e) // d == x // (e d)
    return whole + FloorDiv(rest, b) if d > 1 else whole + rest


def _mod(a: Expr, b: Expr) -> Expr:
    d = _positive(b, "modulus")
    if d is None:
        return Mod(a, b) if a != b else Sum(0)
    rest = _split(a, d)[1]
    r = as_int(rest)
    return Sum(r % d) if r is not None else Mod(rest, b)


def _minmax(cls: type[Min] | type[Max], pick: Callable[..., int], a: Expr, b: Expr) -> Expr:
    diff = as_int(a - b)
    if diff is not None:
        return a if pick(diff, 0) == diff else b
    for x, y in ((a, b), (b, a)):
        if isinstance(x, cls) and y in (x.a, x.b):
            return x
    lo, hi = sorted((a, b), key=lambda e: e.text)
    return cls(lo, hi)


# -------------------------------------------------------------------------------------------------------- analysis


def walk(expr: Expr) -> Iterator[Expr]:
    yield expr
    for c in expr.children:
        yield from walk(c)


def variables(expr: Expr) -> set[str]:
    return set(expr.variable_names)


def tables(expr: Expr) -> set[str]:
    return set(expr.table_names)


def substitute(expr: Expr, values: Mapping[str, IntLike]) -> Expr:
    """The expression with variables replaced, in canonical form again."""
    if isinstance(expr, Var):
        return wrap(values.get(expr.name, expr))
    if isinstance(expr, Sum):
        return _sum([(1, Sum(expr.const))] + [(c, substitute(a, values)) for c, a in expr.terms])
    if isinstance(expr, Load):
        return Load(expr.table, tuple(substitute(i, values) for i in expr.index))
    a, b = (substitute(c, values) for c in expr.children)
    return _REBUILD[type(expr)](a, b)


_REBUILD: dict[type[Expr], Callable[[Expr, Expr], Expr]] = {
    Product: _mul, FloorDiv: _floordiv, Mod: _mod,
    Min: lambda a, b: minimum(a, b), Max: lambda a, b: maximum(a, b),
}  # fmt: skip


def evaluate(expr: Expr, env: Mapping[str, Any], tables: Tables | None = None) -> Any:
    """The value, an int, or an integer array where `env` holds arrays of coordinates (they broadcast)."""
    if isinstance(expr, Sum):
        total: Any = expr.const
        for c, a in expr.terms:
            total = total + c * evaluate(a, env, tables)
        return total
    if isinstance(expr, Var):
        try:
            return env[expr.name]
        except KeyError:
            raise ProgramError(f"no value was given for '{expr.name}'; known are: {', '.join(sorted(env))}") from None
    if isinstance(expr, Load):
        if tables is None or expr.table not in tables:
            raise ProgramError(f"the run-time table '{expr.table}' has no value here")
        index = tuple(evaluate(i, env, tables) for i in expr.index)
        value = tables[expr.table][index]
        return int(value) if getattr(value, "ndim", 0) == 0 else value.astype("int64")
    a, b = (evaluate(c, env, tables) for c in expr.children)
    if isinstance(expr, Product):
        return a * b
    if isinstance(expr, FloorDiv):
        return a // b
    if isinstance(expr, Mod):
        return a % b
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b) if isinstance(expr, Min) else max(a, b)
    import numpy as np

    return np.minimum(a, b) if isinstance(expr, Min) else np.maximum(a, b)


def bounds(expr: Expr, ranges: Mapping[str, Interval], loads: Callable[[Load], Interval] | None = None) -> Interval:
    """An interval that holds the value for all variables in `ranges` (inclusive); `loads` bounds table values."""
    if isinstance(expr, Sum):
        lo = hi = expr.const
        for coef, atom in expr.terms:
            x, y = bounds(atom, ranges, loads)
            lo, hi = lo + min(coef * x, coef * y), hi + max(coef * x, coef * y)
        return lo, hi
    if isinstance(expr, Var):
        if expr.name not in ranges:
            raise ProgramError(f"'{expr.name}' has no declared range")
        return ranges[expr.name]
    if isinstance(expr, Load):
        if loads is None:
            raise ProgramError(f"the values of the run-time table '{expr.table}' have no declared bounds")
        return loads(expr)
    (a, b), (c, d) = (bounds(x, ranges, loads) for x in expr.children)
    if isinstance(expr, Product):
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if isinstance(expr, FloorDiv):
        corners = (a // max(c, 1), a // d, b // max(c, 1), b // d)
        return min(corners), max(corners)
    if isinstance(expr, Mod):
        return (a, b) if a >= 0 and b < c else (0, d - 1)
    return (min(a, c), min(b, d)) if isinstance(expr, Min) else (max(a, c), max(b, d))


def to_c(expr: Expr, name: Callable[[str], str] = lambda n: n, load: Callable[[Load], str] | None = None) -> str:
    """C++ text; `name` spells a variable and `load` a table access. Uses ev_min, ev_max, ev_floordiv, ev_mod."""
    if isinstance(expr, Sum):
        parts = [f"{c} * {to_c(a, name, load)}" if c != 1 else to_c(a, name, load) for c, a in expr.terms]
        if expr.const or not parts:
            parts.append(str(expr.const))
        return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"
    if isinstance(expr, Var):
        return name(expr.name)
    if isinstance(expr, Load):
        if load is None:
            raise ProgramError(f"the run-time table '{expr.table}' cannot be read here")
        return load(expr)
    a, b = (to_c(c, name, load) for c in expr.children)
    if isinstance(expr, Product):
        return f"({a} * {b})"
    if isinstance(expr, (FloorDiv, Mod)) and (n := as_int(expr.b)) is not None and n > 0 and n & (n - 1) == 0:
        return f"({a} >> {n.bit_length() - 1})" if isinstance(expr, FloorDiv) else f"({a} & {n - 1})"  # a third of the instructions
    return f"{_C_NAMES[type(expr)]}({a}, {b})"


_C_NAMES: dict[type[Expr], str] = {FloorDiv: "ev_floordiv", Mod: "ev_mod", Min: "ev_min", Max: "ev_max"}


def parse(text: str) -> Expr:
    """Reads the printed form."""
    try:
        return _from_ast(ast.parse(re.sub(r"\.(?=\d)", "._N", text.strip()), mode="eval").body)
    except SyntaxError as e:
        raise ProgramError(f"'{text}' is not an integer expression: {e.msg}") from None


_AST_OPS: dict[type[ast.operator], Callable[[Expr, Expr], Expr]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b, ast.Mod: lambda a, b: a % b,
}  # fmt: skip


def _name(node: ast.expr) -> str:
    return ast.unparse(node).replace("._N", ".")  # names such as layers.0.topk are no Python, so parse() escapes them


def _from_ast(node: ast.expr) -> Expr:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return wrap(node.value)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return Var(_name(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_from_ast(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _AST_OPS:
        return _AST_OPS[type(node.op)](_from_ast(node.left), _from_ast(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
        a, b = (_from_ast(x) for x in node.args)
        return minimum(a, b) if node.func.id == "min" else maximum(a, b)
    if isinstance(node, ast.Subscript):
        index = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return Load(_name(node.value), tuple(_from_ast(i) for i in index))
    raise ProgramError(f"'{ast.unparse(node)}' is not part of an integer expression")
