"""From an outcome to the format's record and our extension block: samples, intervals, method, device, settings."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any

from eventide.bench.runner.measure import Outcome
from eventide.bench.runner.settings import Settings
from eventide.bench.schema import (
    Correctness,
    Definition,
    DeviceState,
    Environment,
    Evaluation,
    EvaluationExtension,
    EvaluationStatus,
    Performance,
    Roofline,
    Timing,
    UnevaluableError,
    evaluate,
)
from eventide.bench.timing import estimate, hardware_name, library_versions, ratio

LOG_CHARS = 16_000


def evaluation(
    outcome: Outcome,
    definition: Definition,
    axes: dict[str, int],
    settings: Settings,
    *,
    device: str,
    evaluator: str,
    seed: int,
    solution_hash: str,
    states: tuple[DeviceState, DeviceState] | None = None,
    hardware: str | None = None,
) -> Evaluation:
    """The evaluation block of a trace."""
    status = EvaluationStatus(outcome.status)
    correctness = performance = timing = roofline = None
    if status.has_correctness:
        correctness = Correctness(
            max_relative_error=outcome.verdict.max_relative_error,
            max_absolute_error=outcome.verdict.max_absolute_error,
            extra=outcome.verdict.extra or None,
        )
    if status.has_performance:
        timing, performance = _timing(outcome, settings)
        roofline = _roofline(definition, axes, performance.latency_ms)
    return Evaluation(
        status=status,
        environment=Environment(hardware=hardware or hardware_name(device), libs=library_versions(device)),
        timestamp=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        log=outcome.log[:LOG_CHARS],
        correctness=correctness,
        performance=performance,
        eventide=EvaluationExtension(
            version=1,
            solution_hash=solution_hash,
            evaluator=evaluator,
            seed=seed,
            reason=outcome.reason or None,
            timing=timing,
            device=_mean_state(states),
            roofline=roofline,
            settings={**dataclasses.asdict(settings), "checked_calls": outcome.checked},
        ),
    )


def _timing(outcome: Outcome, settings: Settings) -> tuple[Timing, Performance]:
    own = estimate(outcome.samples, settings.confidence)
    reference = estimate(outcome.reference_samples, settings.confidence)
    speedup = ratio(outcome.reference_samples, outcome.samples, settings.confidence)
    timing = Timing(
        samples_ms=[[round(v, 7) for v in trial] for trial in outcome.samples],
        reference_samples_ms=[[round(v, 7) for v in trial] for trial in outcome.reference_samples],
        confidence=settings.confidence,
        latency_ms=own.interval,
        reference_latency_ms=reference.interval,
        speedup_factor=speedup.interval,
        method=outcome.method,
    )
    performance = Performance(
        latency_ms=own.value,
        reference_latency_ms=reference.value,
        speedup_factor=reference.value / own.value if own.value > 0 else 0.0,
    )
    return timing, performance


def _roofline(definition: Definition, axes: dict[str, int], latency_ms: float) -> Roofline | None:
    """Achieved rates, where the definition says how much work a call is."""
    ext = definition.eventide
    if ext is None or (ext.flops is None and ext.bytes is None) or latency_ms <= 0:
        return None
    values: dict[str, Any] = {**axes, **definition.const_axes}
    try:
        flops = None if ext.flops is None else float(evaluate(ext.flops, values))
        moved = None if ext.bytes is None else float(evaluate(ext.bytes, values))
    except UnevaluableError:
        return None
    return Roofline(
        flops=flops,
        bytes=moved,
        tflops=None if flops is None else flops / latency_ms / 1e9,
        gb_per_s=None if moved is None else moved / latency_ms / 1e6,
    )


def _mean_state(states: tuple[DeviceState, DeviceState] | None) -> DeviceState | None:
    """The mean of the states before and after; notes of both."""
    if states is None:
        return None
    before, after = states

    def mean(name: str) -> float | None:
        values = [v for v in (getattr(before, name), getattr(after, name)) if v is not None]
        return sum(values) / len(values) if values else None

    return DeviceState(
        sm_clock_mhz=mean("sm_clock_mhz"),
        memory_clock_mhz=mean("memory_clock_mhz"),
        temperature_c=mean("temperature_c"),
        power_w=mean("power_w"),
        throttled=None if before.throttled is None else bool(before.throttled or after.throttled),
        notes={"before": before.notes, "after": after.notes},
    )
