"""Where expressions and regions can lie, for all tasks of a grid at once.

A table whose contents are not known here is bounded by its declared invariants; a table drawn for this step by its
values. Intervals are inclusive and exact where no unknown table takes part.

    facts = Facts(view)
    facts.interval(parse("16*m + tile_indptr[i]"), env)  -> (lowest, highest), integers or one for each task
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import PlanError
from ...ir.expr import Expr, FloorDiv, Load, Max, Min, Mod, Product, Sum, Var, evaluate
from ...ir.instance import StepView
from ...ir.tables import DERIVED

Ends = tuple[Any, Any]


def same(a: Any, b: Any) -> bool:
    return a is b or bool(np.all(np.asarray(a) == b))


def least(a: Any) -> int:
    return int(a.min()) if isinstance(a, np.ndarray) else int(a)


def most(a: Any) -> int:
    return int(a.max()) if isinstance(a, np.ndarray) else int(a)


class Facts:
    """What is known of one step: its symbols, the tables drawn for it, and what the other tables promise."""

    def __init__(self, view: StepView) -> None:
        self.view, self.plan = view, view.plan
        self._kinds: dict[str, set[str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def kinds(self, table: str) -> set[str]:
        if table not in self._kinds:
            t = self.plan.tensors.get(table)
            if t is None:
                raise PlanError(f"a map looks up '{table}', which is no tensor of the plan")
            self._kinds[table] = {i.kind for i in t.invariants}
        return self._kinds[table]

    def shape(self, tensor: str) -> tuple[int, ...]:
        if tensor not in self._shapes:
            self._shapes[tensor] = self.view.shape(self.plan.tensors[tensor].shape)
        return self._shapes[tensor]

    def interval(self, e: Expr, env: Mapping[str, Any]) -> Ends:
        """The lowest and highest value; where they are known to be equal, one object twice."""
        if not e.table_names:
            v = evaluate(e, env)
            return v, v
        if isinstance(e, Sum):
            lo: Any = e.const
            hi: Any = e.const
            for c, a in e.terms:
                x, y = self.interval(a, env)
                if lo is hi and x is y:
                    lo = hi = lo + c * x
                else:
                    lo, hi = (lo + c * x, hi + c * y) if c > 0 else (lo + c * y, hi + c * x)
            return lo, hi
        if isinstance(e, Load):
            return self._load(e, env)
        assert not isinstance(e, Var)
        (a, b), (c, d) = (self.interval(x, env) for x in e.children)
        exact = a is b and c is d
        if isinstance(e, (Min, Max)) and exact:
            v = np.minimum(a, c) if isinstance(e, Min) else np.maximum(a, c)
            return v, v
        if isinstance(e, Min):
            return np.minimum(a, c), np.minimum(b, d)
        if isinstance(e, Max):
            return np.maximum(a, c), np.maximum(b, d)
        if isinstance(e, Product):
            corners = [a * c] if exact else [a * c, a * d, b * c, b * d]
        elif isinstance(e, FloorDiv):
            if np.any(np.asarray(c) < 1):
                raise PlanError(f"the divisor of {e} may be zero or negative")
            corners = [a // c] if exact else [a // c, a // d, b // c, b // d]
        else:
            assert isinstance(e, Mod)
            if same(a, b) and same(c, d):
                v = a % c
                return v, v
            return 0 * a, 0 * b + d - 1
        if exact:
            return corners[0], corners[0]
        return np.minimum.reduce(corners), np.maximum.reduce(corners)

    def _load(self, e: Load, env: Mapping[str, Any]) -> Ends:
        kinds = self.kinds(e.table)
        shape = self.shape(e.table)
        if len(shape) != len(e.index):
            raise PlanError(f"{e} gives {len(e.index)} indices to a table of {len(shape)} dimensions")
        index = [self.interval(i, env) for i in e.index]
        for i, (lo, hi), n in zip(e.index, index, shape):
            if np.size(lo) and (least(lo) < 0 or most(hi) >= n):
                raise PlanError(
                    f"the lookup {e} reaches index {int(np.min(lo)) if np.min(lo) < 0 else int(np.max(hi))} of '{e.table}' "
                    f"through {i}; the table has {n} entries there"
                )
        if e.table in self.view.tables:
            exact = all(same(lo, hi) for lo, hi in index)
            table = np.asarray(self.view.tables[e.table])
            if exact:
                found = table[tuple(np.asarray(lo) for lo, _ in index)].astype(np.int64)
                return found, found
            return int(table.min(initial=0)), int(table.max(initial=0))
        lo, hi = self.values(e.table)
        if "increasing" in kinds and len(index) == 1:  # the entry at place i lies at least i above the first
            a, b = index[0]
            return lo + a, hi - (shape[0] - 1 - b)
        return lo, hi

    def values(self, table: str) -> tuple[int, int]:
        """The lowest and highest value that a table may hold."""
        found = None
        for inv in self.plan.tensors[table].invariants:
            if inv.kind in ("within", "partition"):
                lo, hi = self.view.value(inv.lo), self.view.value(inv.hi)
                found = (lo, hi - (inv.kind == "within"))
            elif inv.kind in DERIVED:
                n = int(np.prod(self.shape(inv.of)))
                found = (0, n - (inv.kind == "grouping"))
        if found is None:
            raise PlanError(
                f"a map looks up '{table}', whose values have no declared bounds; declare an invariant such as "
                'Invariant("within", lo, hi) on it'
            )
        return found
