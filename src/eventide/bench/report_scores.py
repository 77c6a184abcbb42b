"""Scores: what the traces of a data set add up to.

    result      the newest trace of one solution on one workload on one hardware
    standing    one solution on one hardware: its results over the definition's workloads
    fast_p      share of workloads on which a solution is correct and its speedup over the reference is above p
    score       mean over workloads of baseline latency / own latency; 0 as soon as one workload fails
    author      mean over the definitions that the author attempted of the best of the author's scores

The baseline of a workload is the fastest passed solution of the author "baseline" on the same hardware; else the
reference. Intervals of a standing are geometric means of the ends of its workloads' intervals, which is wider than the
truth and never narrower. One solution is said to be faster than another only where their intervals do not touch.

Source of fast_p, of the score and of the author's score: flashinfer-bench's documentation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .dataset import TraceSet
from .schema_trace import Evaluation, EvaluationStatus, Trace

BASELINE_AUTHOR = "baseline"
_LOG_CHARS = 4000


@dataclass(frozen=True)
class Result:
    """One solution on one workload, without what the scores do not need."""

    definition: str
    solution: str
    hardware: str
    uuid: str
    axes: Mapping[str, int]
    status: str
    timestamp: str
    latency_ms: float | None = None
    reference_ms: float | None = None
    speedup: float | None = None
    latency_interval: tuple[float, float] | None = None
    speedup_interval: tuple[float, float] | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    tflops: float | None = None
    gb_per_s: float | None = None
    message: str = ""
    """Why it failed, and the end of the log, for results that did not pass."""

    @property
    def passed(self) -> bool:
        """Whether it is correct."""
        return self.status == EvaluationStatus.PASSED.value


@dataclass
class Standing:
    """One solution on one hardware."""

    definition: str
    op_type: str
    solution: str
    author: str
    language: str
    hardware: str
    num_workloads: int
    """Workloads that the definition has, or that anybody ran where it has none of its own."""
    results: list[Result]
    baseline_ms: Mapping[str, float] = field(default_factory=dict)
    """Latency of the baseline by workload."""
    measured: Mapping[str, str] = field(default_factory=dict)
    """How the last passed result was measured: method, clocks, versions; text by name."""

    @property
    def num_passed(self) -> int:
        """Workloads on which it is correct."""
        return sum(r.passed for r in self.results)

    @property
    def complete(self) -> bool:
        """Whether it passed on every workload."""
        return self.num_passed == self.num_workloads

    @cached_property
    def speedups(self) -> list[float]:
        """Speedup over the reference of each passed workload."""
        return [r.speedup for r in self.results if r.passed and r.speedup is not None]

    @cached_property
    def speedup(self) -> float | None:
        """Geometric mean of the speedups of the passed workloads."""
        return geometric_mean(self.speedups)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the speedup's interval, where every passed workload has one."""
        ends = [r.speedup_interval for r in self.results if r.passed]
        known = [e for e in ends if e is not None]
        if not known or len(known) < len(ends):
            return None
        low, high = geometric_mean([e[0] for e in known]), geometric_mean([e[1] for e in known])
        return None if low is None or high is None else (low, high)

    @cached_property
    def score(self) -> float:
        """Mean of baseline latency / own latency; 0 where a workload failed or is missing."""
        if not self.complete or not self.results:
            return 0.0
        ratios = []
        for r in self.results:
            baseline = self.baseline_ms.get(r.uuid, r.reference_ms)
            if baseline is None or not r.latency_ms:
                return 0.0
            ratios.append(baseline / r.latency_ms)
        return sum(ratios) / len(ratios)

    def fast_p(self, p: float) -> float:
        """Share of the workloads that are correct with speedup > p."""
        return sum(s > p for s in self.speedups) / self.num_workloads if self.num_workloads else 0.0

    def beats(self, other: Standing) -> bool:
        """Whether the intervals say that this one is faster (never without intervals)."""
        return self.interval is not None and other.interval is not None and self.interval[0] > other.interval[1]


@dataclass(frozen=True)
class AuthorScore:
    """One author on one hardware."""

    author: str
    hardware: str
    score: float
    num_definitions: int
    best: Mapping[str, str]
    """Best solution by definition."""


def geometric_mean(values: Sequence[float]) -> float | None:
    """The geometric mean of positive numbers; None for none, 0 where one of them is 0."""
    if not values:
        return None
    if min(values) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(v) for v in values) / len(values))


def result_of(trace: Trace) -> Result | None:
    """The result of a trace, None for one without solution or evaluation."""
    e = trace.evaluation
    if e is None or trace.solution is None:
        return None
    timing = e.eventide.timing if e.eventide else None
    roofline = e.eventide.roofline if e.eventide else None
    performance, correctness = e.performance, e.correctness
    return Result(
        definition=trace.definition,
        solution=trace.solution,
        hardware=e.environment.hardware,
        uuid=trace.uuid,
        axes=dict(trace.axes),
        status=str(e.status),
        timestamp=e.timestamp,
        latency_ms=performance.latency_ms if performance else None,
        reference_ms=performance.reference_latency_ms if performance else None,
        speedup=performance.speedup_factor if performance else None,
        latency_interval=timing.latency_ms if timing else None,
        speedup_interval=timing.speedup_factor if timing else None,
        tflops=roofline.tflops if roofline else None,
        gb_per_s=roofline.gb_per_s if roofline else None,
        max_abs=correctness.max_absolute_error if correctness else None,
        max_rel=correctness.max_relative_error if correctness else None,
        message="" if e.status is EvaluationStatus.PASSED else _message(e),
    )


def _measured(e: Evaluation) -> dict[str, str]:
    # what a reader needs to judge a figure, in the words of whoever measured it
    facts: dict[str, str] = {"when": e.timestamp}
    extension = e.eventide
    if extension is not None and extension.timing is not None:
        timing = extension.timing
        facts["confidence"] = f"{timing.confidence:g}"
        if timing.samples_ms:
            facts["samples"] = " + ".join(str(len(trial)) for trial in timing.samples_ms)
        facts |= {k: str(v) for k, v in timing.method.items()}
    if extension is not None and extension.device is not None:
        device = extension.device.model_dump(exclude_none=True, exclude={"notes"})
        facts |= {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in device.items()}
    if extension is not None and extension.evaluator is not None:
        facts["evaluator"] = extension.evaluator
    facts |= {f"{name} version": version for name, version in e.environment.libs.items()}
    return facts


def _message(e: Evaluation) -> str:
    reason = (e.eventide.reason or "") if e.eventide else ""
    log = e.log if len(e.log) <= _LOG_CHARS else "... " + e.log[-_LOG_CHARS:]
    return f"{reason}\n\n{log}".strip() if reason and reason not in log else log


def standings(data: TraceSet, baseline: str = BASELINE_AUTHOR) -> list[Standing]:
    """Every solution on every hardware that it ran on, in one pass over the traces; best first in each definition."""
    newest: dict[tuple[str, str, str], dict[str, Result]] = defaultdict(dict)
    measured: dict[tuple[str, str, str], dict[str, str]] = {}
    for trace in data.all_traces():
        result = result_of(trace)
        if result is None:
            continue
        mine = newest[result.definition, result.hardware, result.solution]
        if result.uuid not in mine or mine[result.uuid].timestamp <= result.timestamp:
            mine[result.uuid] = result
            if result.passed and trace.evaluation is not None:
                measured[result.definition, result.hardware, result.solution] = _measured(trace.evaluation)
    uuids: dict[tuple[str, str], set[str]] = defaultdict(set)
    baselines: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for (definition, hardware, solution), results in newest.items():
        uuids[definition, hardware] |= results.keys()
        if data.author_of(solution) == baseline:
            fastest = baselines[definition, hardware]
            for r in results.values():
                if r.passed and r.latency_ms is not None:
                    fastest[r.uuid] = min(r.latency_ms, fastest.get(r.uuid, math.inf))
    own = {name: {w.uuid for w in workloads} for name, workloads in data.workloads.items()}
    found = []
    for (definition, hardware, solution), results in newest.items():
        wanted = own.get(definition) or uuids[definition, hardware]
        found.append(
            Standing(
                definition=definition,
                op_type=data.op_type_of(definition),
                solution=solution,
                author=data.author_of(solution) or "unknown",
                language=_language(data, solution),
                hardware=hardware,
                num_workloads=len(wanted),
                # results on workloads that were taken out of the set no longer count
                results=[r for r in results.values() if r.uuid in wanted],
                baseline_ms=baselines[definition, hardware],
                measured=measured.get((definition, hardware, solution), {}),
            )
        )
    return sorted(found, key=lambda s: (s.definition, s.hardware, *rank_key(s)))


def rank_key(standing: Standing) -> tuple[float, float, float, str]:
    """Sorts the better standing first: by score, workloads passed, speedup, then name."""
    return (-standing.score, -standing.num_passed, -(standing.speedup or 0.0), standing.solution)


def _language(data: TraceSet, solution: str) -> str:
    if solution not in data.solution_names:
        return "unknown"
    found = data.get_solution(solution)
    return (found.eventide.dialect if found.eventide else None) or str(found.spec.language)


def fast_p_curve(rows: Iterable[Standing], points: Sequence[float]) -> list[float]:
    """fast_p at each point over the workloads of several standings together."""
    total, speedups = 0, []
    for s in rows:
        total += s.num_workloads
        speedups += s.speedups
    return [sum(v > p for v in speedups) / total if total else 0.0 for p in points]


def best_by_definition(rows: Iterable[Standing]) -> dict[tuple[str, str], list[Standing]]:
    """Standings by (definition, hardware), best first."""
    groups: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for s in rows:
        groups[s.definition, s.hardware].append(s)
    return {key: sorted(group, key=rank_key) for key, group in sorted(groups.items())}


def author_scores(rows: Iterable[Standing]) -> list[AuthorScore]:
    """Authors by hardware, best first."""
    best: dict[tuple[str, str], dict[str, Standing]] = defaultdict(dict)
    for s in rows:
        mine = best[s.hardware, s.author]
        if s.definition not in mine or rank_key(s) < rank_key(mine[s.definition]):
            mine[s.definition] = s
    scores = [
        AuthorScore(
            author=author,
            hardware=hardware,
            score=math.fsum(s.score for s in mine.values()) / len(mine),
            num_definitions=len(mine),
            best={name: s.solution for name, s in sorted(mine.items())},
        )
        for (hardware, author), mine in best.items()
    ]
    return sorted(scores, key=lambda a: (a.hardware, -a.score, a.author))
