"""One solution on one workload: correctness, then trials of timed calls that are checked too, then the clocks.

    rounds   a few calls on fresh inputs, compared with the reference
    trial    (CPU: in a new process) warm-up; then per iteration fresh inputs, cold caches, solution and reference in
             random order on the same inputs, outputs compared after the clock stopped; now and then the worker is left
             running for a moment and its outputs are looked at again; at the end a warm batch under one order, timed
             by both clocks
    verdict  the first failure, or PASSED with all samples

Worked example of the clock's check: a solution claims 1 us a call. In a batch of 64 calls by this process's clock it
took 6.4 ms, and an empty order takes 0.1 ms: 6.3 ms for calls that claim 0.064 ms, so the run is void.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eventide.bench.evaluators import Case, Evaluator, Tolerance, Verdict
from eventide.bench.runner.bound import BoundWorker, Call, SharedInputs
from eventide.bench.runner.process import WorkerFailure
from eventide.bench.runner.settings import Settings
from eventide.bench.schema import Definition
from eventide.bench.timing.priority import prompt_thread

_BATCH_NS = 20_000_000  # a batch should take this long, so that an order's own cost does not matter
_LINGER_S = 0.003
_LINGER_SHARE = 0.1
_CLOCK_ATTEMPTS = 4
_OVERHEAD_CALLS = 9
_LEAST_SLACK_NS, _MOST_SLACK_NS = 200_000, 4_000_000
_VOID = "timing void"


@dataclass
class Outcome:
    """What came of it. `samples` are milliseconds, one list a trial."""

    status: str
    reason: str = ""
    log: str = ""
    verdict: Verdict = field(default_factory=lambda: Verdict(True))
    samples: list[list[float]] = field(default_factory=list)
    reference_samples: list[list[float]] = field(default_factory=list)
    checked: int = 0
    method: dict[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """Ends a measurement with a status of the format."""

    def __init__(self, status: str, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.log = status, reason, log


class ReferenceFailed(Exception):
    """The definition's reference failed on this workload: nothing can be said of any solution."""


@dataclass(frozen=True)
class Subject:
    """What is measured: `start` makes a loaded and bound worker; each call makes a new process."""

    start: Callable[[], BoundWorker]
    starts_processes: bool = False


class Measurement:
    """State of one run. `reference` is bound to the same shared inputs."""

    def __init__(
        self,
        definition: Definition,
        axes: dict[str, int],
        shared: SharedInputs,
        reference: BoundWorker,
        evaluator: Evaluator,
        settings: Settings,
        seed: int,
        *,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.definition, self.axes, self.shared = definition, axes, shared
        self.reference, self.evaluator, self.settings, self.seed = reference, evaluator, settings, seed
        self.progress = progress
        self.random = random.SystemRandom()  # what is checked, and in which order, must not be guessable
        self.outcome = Outcome("PASSED")
        self._prints: list[tuple[int, int]] = []
        self._figures: list[float] = []
        self._reference_ms = 0.0
        self._call_ms = 0.0
        self._check_s = 0.0
        self._slack_ns = float(_LEAST_SLACK_NS)

    # single calls

    def _reference_call(self, slot: int, *, flush: bool) -> Call:
        try:
            self.reference.prepare([slot], flush=flush)
            call = self.reference.call([slot])
            if self.reference.cuda:
                self.reference.inspect(slot)
            return call
        except WorkerFailure as failure:
            raise ReferenceFailed(f"the reference of {self.definition.name} failed: {failure.reason}") from failure

    def _solution_call(self, subject: BoundWorker, slot: int, *, flush: bool) -> Call:
        subject.prepare([slot], flush=flush)
        call = subject.call([slot])
        if call.late:
            raise Failed("RUNTIME_ERROR", call.late)
        return call

    def _check(self, subject: BoundWorker, slot: int) -> None:
        """Compare the outputs in `slot` with the reference's, which were computed from the same inputs."""
        started = time.monotonic()
        if subject.cuda:
            seen = subject.inspect(slot)
            if seen.late:
                raise Failed("RUNTIME_ERROR", seen.late)
        case = Case(
            self.definition,
            self.axes,
            Tolerance(self.settings.rtol, self.settings.atol, self.settings.required_matched_ratio),
            self.reference.views(slot),
            subject.views(slot),
            self.shared.values(slot),
            subject.untouched(slot),
        )
        with np.errstate(all="ignore"):
            verdict = self.evaluator.check(case)
        self.outcome.checked += 1
        self._judge(verdict)
        self._figures += self.evaluator.figures(case)
        self._prints.append((_print(case.expected), _print(case.actual)))
        self._check_s = time.monotonic() - started

    def _judge(self, verdict: Verdict) -> None:
        self.outcome.verdict = self.outcome.verdict.merged(verdict)
        if not verdict.ok:
            raise Failed("INCORRECT_NUMERICAL", verdict.reason)

    def _linger(self, subject: BoundWorker, slot: int) -> None:
        if subject.changed_after(slot, _LINGER_S):
            raise Failed("RUNTIME_ERROR", "outputs changed after the call had returned: work was left running")
        late = subject.check_order(slot, (self.seed, 3001, self.random.randrange(1 << 30)))
        if late:
            raise Failed("RUNTIME_ERROR", late)

    # phases

    def run(self, subject: Subject) -> Outcome:
        """The whole measurement; failures of the solution end in the outcome, those of the reference are raised."""
        bound: BoundWorker | None = None
        try:
            bound = subject.start()
            self._rounds(bound)
            self._trials_of_calls(bound)
            if subject.starts_processes:
                bound.request({"op": "lock"})
            self._no_processes(bound)
            for trial in range(self.settings.trials):
                if trial and not bound.cuda:
                    bound.close()
                    bound = subject.start()
                    if subject.starts_processes:
                        self._reference_call(0, flush=False)
                        self._solution_call(bound, 0, flush=False)
                        bound.request({"op": "lock"})
                with prompt_thread() as priority:
                    self.outcome.method["runner_priority"] = priority
                    self._trial_or_again(bound, trial)
                self._no_processes(bound)
            self._outputs_vary()
            self._judge(self.evaluator.conclude(self._figures))
        except (Failed, WorkerFailure) as failure:
            self.outcome.status, self.outcome.reason = failure.status, failure.reason
            printed = bound.worker.printed.strip() if bound is not None else ""
            self.outcome.log = failure.log or (failure.reason + (f"\n--- printed ---\n{printed}" if printed else ""))
        finally:
            if bound is not None:
                bound.close()
        return self.outcome

    def _rounds(self, subject: BoundWorker) -> None:
        for number in range(self.settings.correctness_rounds):
            self.progress("checking")
            subject.pause()
            self.shared.fill(0, (self.seed, 0, number))
            reference = self._reference_call(0, flush=False)
            call = self._solution_call(subject, 0, flush=False)
            self._check(subject, 0)
            if number == self.settings.correctness_rounds - 1:
                self._linger(subject, 0)
            self._reference_ms, self._call_ms = reference.wall_ns / 1e6, call.wall_ns / 1e6

    def _trials_of_calls(self, subject: BoundWorker) -> None:
        """Questions that take many calls, such as whether samples follow their distribution."""
        rng = np.random.default_rng(self.random.randrange(1 << 62))
        deadline = time.monotonic() + self.settings.budget_s
        for trial in self.evaluator.trials(self.definition, self.shared.values(0), rng):
            subject.pause()
            self.shared.override(0, dict(trial.inputs))
            outputs = []
            for _ in range(trial.calls):
                subject.prepare([0], flush=False)
                subject.call([0])
                if subject.cuda:
                    subject.inspect(0)
                outputs.append(subject.copies(0))
                if time.monotonic() > deadline:
                    break
            self._judge(trial.judge(outputs))

    def _trial_or_again(self, subject: BoundWorker, trial: int) -> None:
        """A trial; once more when the clocks disagree, as a machine may be disturbed once but a liar lies again."""
        try:
            self._trial(subject, trial)
        except Failed as failure:
            if not failure.reason.startswith(_VOID):
                raise
            self.outcome.method["repeated_trials"] = int(self.outcome.method.get("repeated_trials", 0)) + 1
            self._trial(subject, trial)

    def _trial(self, subject: BoundWorker, trial: int) -> None:
        settings = self.settings
        deadline = time.monotonic() + settings.budget_s / settings.trials
        self._warm_up(subject, trial, deadline)
        overhead_ns = self._overhead(subject)
        self.outcome.method["order_us"] = round(overhead_ns / 1e3, 1)
        per_pair_s = (self._call_ms + self._reference_ms) / 1e3 + 1e-3
        affordable = max(1.0, settings.budget_s / settings.trials / per_pair_s)
        # a reference that is too slow for every iteration is called in some of them, chosen at random
        paired = min(1.0, max(affordable / settings.iterations, 1 / settings.iterations))
        if not settings.profile_baseline:
            paired = min(paired, settings.check_share)
        # comparing large outputs may take longer than calling; half of the time goes to it at most
        checks = settings.budget_s / settings.trials / 2 / max(self._check_s, 1e-6)
        check_share = min(settings.check_share, max(checks / settings.iterations, 3 / settings.iterations))
        samples: list[float] = []
        reference_samples: list[float] = []
        gaps: list[float] = []
        count, certain = settings.iterations, self.random.randrange(settings.min_iterations)
        for iteration in range(count):
            if iteration >= settings.min_iterations and time.monotonic() > deadline:
                break
            self.progress(f"trial {trial + 1}/{settings.trials}")
            subject.pause()
            self.reference.pause()
            self.shared.fill(0, (self.seed, 1 + trial, iteration))
            pair = self.random.random() < paired or iteration == certain
            first = self.random.random() < 0.5
            if pair and first:
                reference_samples.append(self._reference_call(0, flush=settings.cold_cache).ns / 1e6)
            call = self._solution_call(subject, 0, flush=settings.cold_cache)
            samples.append(call.ns / 1e6)
            gaps.append(call.gap_ns)
            if pair and not first:
                reference_samples.append(self._reference_call(0, flush=settings.cold_cache).ns / 1e6)
            if pair and (self.random.random() < check_share or iteration == certain):
                self._check(subject, 0)
            if self.random.random() < _LINGER_SHARE or iteration == count - 1:
                self._linger(subject, 0)
        self._check_clock(subject, trial, samples, gaps, overhead_ns)
        self.outcome.samples.append(samples)
        self.outcome.reference_samples.append(reference_samples)

    def _overhead(self, subject: BoundWorker) -> float:
        """What an order costs when nothing is called: the median over a few, in nanoseconds; sets the slack as well.

        The slack is how late this process may be in reading its clock: twice what such orders scatter, which is little
        with priority or cores to spare, and at most a scheduler's time slice.
        """
        gaps = []
        for _ in range(_OVERHEAD_CALLS):
            subject.prepare([0], flush=self.settings.cold_cache)
            gaps.append(subject.call([0], null=True).gap_ns)
        median = float(np.median(gaps))
        self._slack_ns = min(max(2 * (max(gaps) - median), _LEAST_SLACK_NS), _MOST_SLACK_NS)
        self.outcome.method["clock_slack_us"] = round(self._slack_ns / 1e3, 1)
        return median

    def _warm_up(self, subject: BoundWorker, trial: int, deadline: float) -> None:
        slots = range(self.shared.slots)
        subject.pause()
        for slot in slots:
            self.shared.fill(slot, (self.seed, 1001 + trial, slot))
        subject.prepare(list(slots), flush=False)
        limit = time.monotonic() + max(0.0, deadline - time.monotonic()) / 5
        for number in range(self.settings.warmup_runs):
            call = subject.call([number % self.shared.slots])
            self._call_ms = call.wall_ns / 1e6
            if time.monotonic() > limit:
                break

    def _check_clock(
        self, subject: BoundWorker, trial: int, samples: list[float], gaps: list[float], overhead_ns: float
    ) -> None:
        """Hold the worker's clock against this one: over the single calls, then over a warm batch."""
        typical_ns = float(np.median(samples)) * 1e6
        allowance = 1.5 * overhead_ns + 0.25 * typical_ns + self._slack_ns
        if float(np.median(gaps)) > allowance:
            claim_us, more_us = typical_ns / 1e3, float(np.median(gaps)) / 1e3
            raise Failed(
                "RUNTIME_ERROR",
                f"{_VOID}: calls that claim {claim_us:.1f} us take {more_us:.0f} us more by the runner's clock",
            )
        problem = ""
        for attempt in range(_CLOCK_ATTEMPTS):
            problem = self._batch(subject, trial, attempt, typical_ns, overhead_ns)
            if not problem:
                return
        raise Failed("RUNTIME_ERROR", f"{_VOID}: {problem}")

    def _batch(self, subject: BoundWorker, trial: int, attempt: int, typical_ns: float, overhead_ns: float) -> str:
        """One order for many calls on fresh inputs; its time by both clocks, and one output checked."""
        slots = list(range(self.shared.slots))
        subject.pause()
        for slot in slots:
            self.shared.fill(slot, (self.seed, 2001 + trial, attempt, slot))
        subject.prepare(slots, flush=False)
        # a device's queue takes about a thousand launches, and its pause hides no more than some dozens
        most = 16 if subject.cuda else 200
        repeat = int(min(most, max(1, _BATCH_NS / max(typical_ns, 1.0) / len(slots))))
        if typical_ns * len(slots) > 1e9:
            slots = slots[:1]
        empty = subject.call(slots, repeat=repeat, null=True)
        call = subject.call(slots, repeat=repeat)
        calls = repeat * len(slots)
        self.outcome.method["batch_calls"] = calls
        more_ns = call.gap_ns - max(overhead_ns, empty.gap_ns)
        if more_ns > 0.2 * call.ns + overhead_ns + self._slack_ns:
            claim_ms, more_ms = call.ns / 1e6, more_ns / 1e6
            return (
                f"{calls} calls claim {claim_ms:.3f} ms together and take {more_ms:.3f} ms more by the runner's clock"
            )
        # what a single call could hide behind the cost of an order, a batch of the same calls shows
        warm_ns = (call.ns + more_ns - overhead_ns) / calls
        hidden_ns = warm_ns - typical_ns
        if typical_ns < 0.4 * warm_ns and 5_000 < hidden_ns < 2 * (overhead_ns + self._slack_ns):
            return f"single calls claim {typical_ns / 1e3:.1f} us, in a batch they take {warm_ns / 1e3:.1f} us each"
        slot = self.random.choice(slots)
        self._reference_call(slot, flush=False)
        self._check(subject, slot)
        return ""

    def _no_processes(self, subject: BoundWorker) -> None:
        extra = subject.worker.extra_processes()
        if extra:
            raise Failed("RUNTIME_ERROR", f"left {len(extra)} process(es) running beside its own")

    def _outputs_vary(self) -> None:
        """Outputs that never change although inputs and the reference's outputs do are constant or cached."""
        expected, actual = {e for e, _ in self._prints}, {a for _, a in self._prints}
        size = max((i.num_bytes for i in self.reference.outputs), default=0)
        if len(self._prints) >= 3 and len(expected) == len(self._prints) and len(actual) == 1 and size >= 32:
            raise Failed("INCORRECT_NUMERICAL", "the outputs are the same for different inputs: constant or cached")


def _print(outputs: Any) -> int:
    value = 0
    for array in outputs.values():
        value = zlib.crc32(array.reshape(-1).view(np.uint8), value)
    return value
