"""What an evaluator is asked and what it answers, and the element-wise comparison that most of them share.

    Case(expected={"y": ...}, actual={"y": ...}, ...)  ──check──▶  Verdict(ok, max errors, reason)

Rules of `compare`: an element fails when its absolute **and** its relative error exceed the limits. Infinities match
when they are the reference's own, with the same sign (a log-sum-exp of nothing is legitimately −inf), NaN matches
where the reference has NaN; anything else that is not finite fails whatever share of elements may miss. Booleans and
integers of 32 or 64 bits are indices and counts, which must be equal; narrower integers are quantised values and have
the limits.

Where zeros would pass, since as many of the reference's elements as must match lie within the absolute limit, that limit
decides nothing (a softmax over a vocabulary lies below 1e-2 as a whole). It is then `rtol` of the largest of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from eventide.bench.schema import Definition
from eventide.bench.worker.arrays import PACKED, Array

_E2M1 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
_EXACT = {"bool", "int32", "int64", "uint32", "uint64"}
_CHUNK = 1 << 20  # elements compared at a time, so that large outputs need no large temporaries


@dataclass(frozen=True)
class Tolerance:
    """Limits for one definition; `matched_ratio` None leaves it to the evaluator."""

    rtol: float = 1e-2
    atol: float = 1e-2
    matched_ratio: float | None = None


@dataclass(frozen=True)
class Case:
    """One call: what came out, what should have, and what went in."""

    definition: Definition
    axes: Mapping[str, int]
    tolerance: Tolerance
    expected: Mapping[str, Array]
    actual: Mapping[str, Array]
    inputs: Mapping[str, Any]
    """Host inputs by name (arrays, or numbers for scalars); complete when the evaluator's `needs_inputs` is set."""
    untouched: frozenset[str] = frozenset()
    """Outputs that still hold the bytes with which they were poisoned: nothing was written."""


@dataclass(frozen=True)
class Verdict:
    """ok, or why not; the largest errors among what was compared."""

    ok: bool
    max_absolute_error: float = 0.0
    max_relative_error: float = 0.0
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def merged(self, other: Verdict) -> Verdict:
        """Both in one: the first failure's reason, the larger errors."""
        return Verdict(
            self.ok and other.ok,
            _larger(self.max_absolute_error, other.max_absolute_error),
            _larger(self.max_relative_error, other.max_relative_error),
            self.reason if not self.ok else other.reason,
            {**other.extra, **self.extra},
        )


def _larger(a: float, b: float) -> float:
    return float("nan") if np.isnan(a) or np.isnan(b) else max(a, b)


@dataclass(frozen=True)
class Trial:
    """A question about many calls: fill the inputs with `inputs`, call `calls` times, give all outputs to `judge`."""

    inputs: Mapping[str, Array]
    calls: int
    judge: Callable[[list[dict[str, Array]]], Verdict]


class Evaluator(Protocol):
    """One set of rules. `needs_inputs`: `check` reads them, so the host draws them even for a GPU."""

    name: str
    needs_inputs: bool

    def accepts(self, definition: Definition) -> bool:
        """Whether this evaluator is the natural one for `definition`."""

    def optional_outputs(self, definition: Definition) -> frozenset[str]:
        """Outputs that a solution may leave out."""

    def check(self, case: Case) -> Verdict:
        """Judge one call."""

    def trials(self, definition: Definition, inputs: Mapping[str, Any], rng: np.random.Generator) -> list[Trial]:
        """Questions about many calls; usually none."""

    def figures(self, case: Case) -> list[float]:
        """What of one checked call is to be judged together with other calls; usually nothing."""

    def conclude(self, figures: Sequence[float]) -> Verdict:
        """Judge the figures of all checked calls of a measurement."""


class BaseEvaluator:
    """What most evaluators have in common."""

    name = "base"
    needs_inputs = False
    matched_ratio = 1.0

    def optional_outputs(self, definition: Definition) -> frozenset[str]:
        return frozenset()

    def trials(self, definition: Definition, inputs: Mapping[str, Any], rng: np.random.Generator) -> list[Trial]:
        return []

    def figures(self, case: Case) -> list[float]:
        return []

    def conclude(self, figures: Sequence[float]) -> Verdict:
        return Verdict(True)

    def check(self, case: Case) -> Verdict:
        result = Verdict(True)
        for name in case.definition.outputs:
            if name in case.untouched:
                if name not in self.optional_outputs(case.definition):
                    nan = float("nan")
                    result = result.merged(Verdict(False, nan, nan, f"{name} was not written"))
                continue
            ratio = case.tolerance.matched_ratio or self.matched_ratio
            dtype = case.definition.dtype_of(name)
            result = result.merged(compare(name, dtype, case.actual[name], case.expected[name], case.tolerance, ratio))
        return result


def as_float(array: Array, dtype: str) -> Array:
    """Values as float32 or float64, packed types unpacked."""
    if dtype in PACKED:
        low, high = _E2M1[array & 15], _E2M1[array >> 4]
        return np.stack((low, high), axis=-1).reshape(*array.shape[:-1], -1)
    wide = array.dtype.itemsize > 2 and dtype not in ("float32",)
    return array.astype(np.float64 if wide else np.float32, copy=False)


def compare(name: str, dtype: str, actual: Array, expected: Array, tolerance: Tolerance, ratio: float = 1.0) -> Verdict:
    """Element-wise comparison by the rules above."""
    if dtype in _EXACT:
        wrong = int(np.count_nonzero(actual.view(np.uint8) != expected.view(np.uint8)))
        if dtype != "bool":
            wrong = int(np.count_nonzero(actual != expected))
        if not wrong:
            return Verdict(True)
        gap = np.abs(as_float(actual, dtype) - as_float(expected, dtype))
        relative = gap / (np.abs(as_float(expected, dtype)) + 1e-8)
        reason = f"{name}: {wrong} of {expected.size} elements of type {dtype} differ"
        ok = 1 - wrong / max(expected.size, 1) >= ratio and ratio < 1
        return Verdict(ok, float(gap.max()), float(relative.max()), "" if ok else reason)
    flat_actual, flat_expected = actual.reshape(-1), expected.reshape(-1)
    failed, bad, largest, largest_relative = 0, 0, 0.0, 0.0
    atol = _absolute_limit(flat_expected, dtype, tolerance, ratio)
    for start in range(0, flat_expected.size, _CHUNK):
        a = as_float(flat_actual[start : start + _CHUNK], dtype)
        e = as_float(flat_expected[start : start + _CHUNK], dtype)
        finite = np.isfinite(a) & np.isfinite(e)
        if not finite.all():
            same = (a == e) | (np.isnan(a) & np.isnan(e))
            bad += int(np.count_nonzero(~finite & ~same))
            a, e = a[finite], e[finite]
        if not a.size:
            continue
        gap = np.abs(a - e)
        relative = gap / (np.abs(e) + 1e-8)
        failed += int(np.count_nonzero((gap > atol) & (relative > tolerance.rtol)))
        largest = max(largest, float(gap.max()))
        largest_relative = max(largest_relative, float(relative.max()))
    count = flat_expected.size * (2 if dtype in PACKED else 1)
    if bad:
        reason = f"{name}: {bad} of {count} elements are NaN or infinite where the reference is not, or the reverse"
        nan = float("nan")
        return Verdict(False, nan, nan, reason)
    matched = 1 - failed / max(count, 1)
    extra = {"matched_ratio": matched} if ratio < 1 else {}
    if matched >= ratio:
        return Verdict(True, largest, largest_relative, "", extra)
    limits = f"atol={atol:g} and rtol={tolerance.rtol:g}"
    found = f"(largest {largest:.3g} absolute, {largest_relative:.3g} relative)"
    reason = f"{name}: {failed} of {count} elements are off by more than {limits} {found}"
    return Verdict(False, largest, largest_relative, reason, extra)


def _absolute_limit(expected: Array, dtype: str, tolerance: Tolerance, ratio: float) -> float:
    """The absolute limit, tightened where an output of zeros would be within it."""
    small, peak = 0, 0.0
    for start in range(0, expected.size, _CHUNK):
        size = np.abs(as_float(expected[start : start + _CHUNK], dtype))
        within = size <= tolerance.atol
        small += int(np.count_nonzero(within | ~np.isfinite(size)))
        peak = max(peak, float(size[within].max(initial=0.0)))
    count = expected.size * (2 if dtype in PACKED else 1)
    # of zeros alone nothing better is known, and without a relative limit the absolute one is meant
    if small < ratio * count or not peak or not tolerance.rtol:
        return tolerance.atol
    return min(tolerance.atol, tolerance.rtol * peak)
