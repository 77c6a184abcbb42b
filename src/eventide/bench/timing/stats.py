"""From raw samples to an estimate and its interval, and the rule for saying that one kernel is faster.

The estimate is the format's: the median within a trial, the mean of the medians over trials. Its interval must hold
for a run that somebody repeats, in new processes, at another minute, so it joins two sources of error:

    within trials    block bootstrap of the median: neighbouring samples share a state of the machine, so blocks of them
                     are drawn, not single ones (Künsch 1989, doi:10.1214/aos/1176347265)
    between trials   the trials' medians scatter more than that; their standard error with Student's t for trials - 1
                     degrees of freedom

and takes the wider of the two, but never past the fastest and the slowest sample seen. Worked example: the trials
[1.0, 1.1, 1.0] and [1.2, 1.2, 1.3] have medians 1.0 and 1.2, so the estimate is 1.1, and as they disagree the interval
is as wide as the samples, 1.0 to 1.3.

``a is faster than b`` is said only when the interval of their ratio excludes 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = Sequence[Sequence[float]]
"""One sequence of latencies a trial."""
_RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A value and the interval that holds it with the stated confidence, in the unit of the samples."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        return (self.low, self.high)

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


def center(samples: Samples) -> float:
    """Mean over trials of the median within a trial; raises ValueError without samples."""
    medians = [float(np.median(trial)) for trial in samples if len(trial)]
    if not medians:
        raise ValueError("no samples to take a median of")
    return float(np.mean(medians))


def student_t(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t, by bisection on its cumulative distribution (a sum for integer degrees).

    Source: Abramowitz & Stegun 26.7.3 and 26.7.4. Accurate to 1e-9; `degrees` is 1 or more.
    """

    def inside(t: float) -> float:
        theta = math.atan(t / math.sqrt(degrees))
        sine, cosine = math.sin(theta), math.cos(theta)
        if degrees % 2:
            term, total = cosine, 0.0
            for k in range(1, degrees - 1, 2):
                total += term
                term *= cosine * cosine * (k + 1) / (k + 2)
            return 2 / math.pi * (theta + sine * total)
        term, total = 1.0, 0.0
        for k in range(0, degrees, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        return sine * total

    low, high = 0.0, 1e6
    while high - low > 1e-9 * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


def _bootstrap_medians(trial: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Medians of `_RESAMPLES` circular block resamples of one trial."""
    count = len(trial)
    block = max(1, round(count ** (1 / 3)))
    starts = rng.integers(0, count, (_RESAMPLES, -(-count // block)))
    places = (starts[:, :, None] + np.arange(block)) % count
    return np.asarray(np.median(trial[places.reshape(_RESAMPLES, -1)[:, :count]], axis=1))


def _logs(samples: Samples) -> list[npt.NDArray[np.float64]]:
    # latencies are positive and their errors are relative
    return [np.log(np.maximum(np.asarray(trial, dtype=np.float64), 1e-12)) for trial in samples if len(trial)]


def _half_width(draws: npt.NDArray[np.float64], medians: npt.NDArray[np.float64], confidence: float) -> float:
    """The wider of the bootstrap's and the trials' half widths, around the mean of the medians."""
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(draws, [tail, 100 - tail])
    middle = float(np.mean(medians))
    width = max(high - middle, middle - low, 0.0)
    if len(medians) > 1:
        error = float(np.std(medians, ddof=1)) / math.sqrt(len(medians))
        width = max(width, student_t(confidence, len(medians) - 1) * error)
    return float(width)


def estimate(samples: Samples, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The centre of `samples` and its interval; raises ValueError without samples. Deterministic for a given seed."""
    logs = _logs(samples)
    if not logs:
        raise ValueError("no samples to estimate from")
    rng = np.random.default_rng(seed)
    draws = np.mean([_bootstrap_medians(trial, rng) for trial in logs], axis=0)
    medians = np.asarray([float(np.median(trial)) for trial in logs])
    width = _half_width(draws, medians, confidence)
    value = center(samples)
    fastest, slowest = (math.exp(edge(np.concatenate(logs))) for edge in (np.min, np.max))
    return _clipped(value, width, fastest, slowest)


def _clipped(value: float, width: float, least: float, most: float) -> Estimate:
    """value * exp(± width), kept within what was observed."""
    low, high = value * math.exp(-width), value * math.exp(width)
    return Estimate(value, min(value, max(low, least)), max(value, min(high, most)))


def ratio(top: Samples, bottom: Samples, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """centre(top) / centre(bottom) with its interval. Trials are paired where both have as many (interleaved runs)."""
    tops, bottoms = _logs(top), _logs(bottom)
    if not tops or not bottoms:
        raise ValueError("no samples to compare")
    rng = np.random.default_rng(seed)
    draws = np.mean([_bootstrap_medians(t, rng) for t in tops], axis=0) - np.mean(
        [_bootstrap_medians(t, rng) for t in bottoms], axis=0
    )
    top_medians = np.asarray([float(np.median(t)) for t in tops])
    bottom_medians = np.asarray([float(np.median(t)) for t in bottoms])
    value = center(top) / center(bottom)
    if len(tops) == len(bottoms):
        width = _half_width(draws, top_medians - bottom_medians, confidence)
    else:
        parts = [m for m in (top_medians, bottom_medians) if len(m) > 1]
        error = math.sqrt(sum(float(np.var(m, ddof=1)) / len(m) for m in parts))
        middle = float(np.mean(draws))
        tail = (1 - confidence) / 2 * 100
        low, high = np.percentile(draws, [tail, 100 - tail])
        width = max(float(high) - middle, middle - float(low))
        if parts:
            width = max(width, student_t(confidence, min(len(m) for m in parts) - 1) * error)
    (top_least, top_most), (least, most) = (
        (float(np.min(joined)), float(np.max(joined))) for joined in (np.concatenate(tops), np.concatenate(bottoms))
    )
    return _clipped(value, width, math.exp(top_least - most), math.exp(top_most - least))


def is_faster(a: Samples, b: Samples, confidence: float = 0.95) -> bool:
    """Whether `a` may be called faster than `b`: the interval of b / a lies above 1."""
    return ratio(b, a, confidence).low > 1.0
