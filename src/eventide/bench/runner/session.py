"""One workload's session: its inputs, the reference's worker, and any number of solutions measured against it.

    with WorkloadSession(definition, workload, host, settings) as session:
        evaluation = session.evaluate(solution, built)

A `Host` is what does not change over a run: device, sandbox, cache folder, the flusher. A reference worker serves all
workloads of its definition.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventide.bench import sandbox
from eventide.bench.builders import BuildContext, Built
from eventide.bench.builders.base import write_sources
from eventide.bench.builders.python import framework_of
from eventide.bench.evaluators import Evaluator, evaluator_for
from eventide.bench.inputs import InputPlan, plan_inputs
from eventide.bench.runner.bound import Allowance, BoundWorker, SharedInputs
from eventide.bench.runner.measure import Measurement, Outcome, ReferenceFailed, Subject
from eventide.bench.runner.process import Limits, WorkerFailure, WorkerProcess
from eventide.bench.runner.records import evaluation
from eventide.bench.runner.settings import Settings
from eventide.bench.schema import (
    BuildSpec,
    Definition,
    Evaluation,
    Solution,
    SourceFile,
    SupportedLanguages,
    UnevaluableError,
    Workload,
)
from eventide.bench.schema import evaluate as evaluate_expression
from eventide.bench.timing import CacheFlusher, device_state
from eventide.bench.worker.arrays import TensorInfo
from eventide.errors import BenchError, OutOfMemoryError

_SLOT_BUDGET = 256 << 20  # bytes of inputs and outputs for the slots of a warm batch
_MOST_SLOTS = 4
_TMP_BYTES = 256 << 20
_START_S = 300.0  # for an interpreter with its libraries on a busy machine


@dataclass
class Host:
    """Where and how solutions run: one device, one sandbox method."""

    device: str
    method: sandbox.Method
    cache: Path
    hide: tuple[str, ...] = ()
    flusher: CacheFlusher | None = None
    hardware: str | None = None
    scratch: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="eventide-bench-")))

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def build_context(self, settings: Settings) -> BuildContext:
        limits = (settings.build_timeout_s, settings.memory_bytes)
        return BuildContext(self.cache, self.device, self.method, self.hidden, *limits)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Folders that no solution may look into: the data set and everything built from it."""
        return (*self.hide, str(self.cache))

    def start_worker(
        self, built: Built, settings: Settings, scratch: Path, *, passing: bool, seconds: float
    ) -> WorkerProcess:
        """A confined process with the code loaded. Raises WorkerFailure."""
        # a namespace has its own /tmp in memory; a folder on disk is for what must outlive one process, compiled kernels
        on_disk = built.starts_processes or self.method != "namespaces"
        scratch.mkdir(parents=True, exist_ok=True)
        policy = sandbox.Policy(
            method=self.method,
            hide=self.hidden,
            keep=built.readable,
            writable=(str(scratch),) if on_disk else (),
            tmp_bytes=_TMP_BYTES,
            gpu=self.is_cuda,
        )
        env = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # its pool of compilers would outlive the warm-up
        worker = WorkerProcess(policy, Limits(settings.memory_bytes, settings.output_bytes), env)
        hello = {
            "op": "hello",
            "framework": built.framework,
            "device": self.device,
            "destination_passing": passing,
        }
        try:
            worker.request(hello, _START_S)  # ours, not the solution's time
            worker.request({"op": "load", "code": built.code, "lock": not built.starts_processes}, seconds)
        except BaseException:
            worker.close()
            raise
        return worker

    def close(self) -> None:
        if self.flusher is not None:
            self.flusher.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Reference:
    """The reference's worker of one definition; made when it is first needed, again when it died."""

    def __init__(self, definition: Definition, host: Host, settings: Settings) -> None:
        self.definition, self.host, self.settings = definition, host, settings
        self._worker: WorkerProcess | None = None

    def _built(self) -> Built:
        framework = "torch" if self.host.is_cuda else framework_of([self.definition.reference])
        holder = Solution(
            name="reference",
            definition=self.definition.name,
            author="reference",
            spec=BuildSpec(
                language=SupportedLanguages.PYTHON,
                target_hardware=["any"],
                entry_point="reference.py::run",
                destination_passing_style=False,
            ),
            sources=[SourceFile(path="reference.py", content=self.definition.reference)],
        )
        name = f"reference-{holder.content_hash}"
        root = write_sources(holder, self.host.build_context(self.settings), name)
        code = {"kind": "python", "root": str(root), "path": "reference.py", "function": "run"}
        return Built(code, framework, (str(root),), starts_processes=True)

    def bind(self, shared: SharedInputs, outputs: list[TensorInfo]) -> BoundWorker:
        """The reference on one workload's inputs. Raises ReferenceFailed."""
        try:
            if self._worker is None:
                self._worker = self.host.start_worker(
                    self._built(),
                    self.settings,
                    self.host.scratch / "reference",
                    passing=False,
                    seconds=max(self.settings.timeout_s, _START_S),
                )
            return BoundWorker(
                self._worker,
                shared,
                outputs,
                cuda=self.host.is_cuda,
                destination_passing=False,
                cast=True,
                flusher=self.host.flusher,
                allowance=Allowance(max(self.settings.timeout_s, _START_S), per_request=True),
                owns_worker=False,
            )
        except WorkerFailure as failure:
            self.close()
            raise ReferenceFailed(f"the reference of {self.definition.name} failed: {failure.reason}") from failure

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class WorkloadSession:
    """Measures solutions on one workload. Raises BenchError where the workload itself is unusable."""

    def __init__(
        self,
        definition: Definition,
        workload: Workload,
        host: Host,
        settings: Settings,
        reference: Reference,
        blob_file: Callable[[Any], Path] | None = None,
    ) -> None:
        self.definition, self.workload, self.host, self.settings = definition, workload, host, settings
        self.evaluator: Evaluator = evaluator_for(definition)
        plan = plan_inputs(definition, workload, blob_file)
        if host.is_cuda and not self.evaluator.needs_inputs:
            plan = plan.on_device()
        self.axes = {name: workload.axes[name] for name in definition.var_axes if name in workload.axes}
        self.seed = _seed(workload, settings)
        self.outputs = self._output_infos()
        try:
            self.shared = SharedInputs(plan, self._slots(plan))
        except OSError as error:
            raise OutOfMemoryError(f"no memory for the inputs of workload {workload.uuid}: {error}") from None
        try:
            self.shared.fill(0, (self.seed, 0, 0))
            self._check_constraints()
            self.reference = reference.bind(self.shared, self.outputs)
        except BaseException:
            self.shared.close()
            raise

    def __enter__(self) -> WorkloadSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.reference.close()
        self.shared.close()

    def _output_infos(self) -> list[TensorInfo]:
        optional = self.evaluator.optional_outputs(self.definition)
        try:
            shapes = self.definition.get_output_shapes(self.workload.axes)
        except ValueError as error:
            raise BenchError(f"workload {self.workload.uuid}: {error}") from None
        return [
            TensorInfo(name, self.definition.dtype_of(name), shape, optional=name in optional)
            for name, shape in zip(self.definition.outputs, shapes)
        ]

    def _slots(self, plan: InputPlan) -> int:
        one = sum(i.num_bytes for i in (*plan.infos, *self.outputs))
        return int(min(_MOST_SLOTS, max(1, _SLOT_BUDGET // max(one, 1))))

    def _check_constraints(self) -> None:
        """Constraints of the extension block hold for what was drawn; the format's own are documentation."""
        extension = self.definition.eventide
        values = {**self.workload.axes, **self.definition.const_axes, **self.shared.values(0)}
        for text in (extension.constraints if extension else None) or ():
            try:
                holds = bool(evaluate_expression(text, values))
            except UnevaluableError as error:
                raise BenchError(f"workload {self.workload.uuid}: constraint {text!r}: {error}") from None
            if not holds:
                raise BenchError(f"workload {self.workload.uuid} of {self.definition.name} violates {text!r}")

    def evaluate(
        self, solution: Solution, built: Built, progress: Callable[[str], None] = lambda _: None
    ) -> Evaluation:
        """Measure one solution. Its failures end in the evaluation; ReferenceFailed and BenchError are raised."""
        settings, host = self.settings, self.host
        allowance = Allowance(settings.timeout_s)
        scratch = Path(tempfile.mkdtemp(prefix="solution-", dir=host.scratch))
        passing = solution.spec.destination_passing_style

        def start() -> BoundWorker:
            worker = host.start_worker(built, settings, scratch, passing=passing, seconds=allowance.left_s)
            return BoundWorker(
                worker,
                self.shared,
                self.outputs,
                cuda=host.is_cuda,
                destination_passing=passing,
                cast=False,
                flusher=host.flusher,
                allowance=allowance,
            )

        measurement = Measurement(
            self.definition,
            dict(self.workload.axes),
            self.shared,
            self.reference,
            self.evaluator,
            settings,
            self.seed,
            progress=progress,
        )
        before = device_state(host.device)
        try:
            outcome = measurement.run(Subject(start, built.starts_processes))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        outcome.method = {**self._method(built), **outcome.method}
        return self.record(outcome, solution, (before, device_state(host.device)))

    def record(self, outcome: Outcome, solution: Solution, states: Any = None) -> Evaluation:
        """The evaluation of an outcome, whether measured here or decided before (a build that failed)."""
        return evaluation(
            outcome,
            self.definition,
            dict(self.workload.axes),
            self.settings,
            device=self.host.device,
            evaluator=self.evaluator.name,
            seed=self.seed,
            solution_hash=solution.content_hash,
            states=states,
            hardware=self.host.hardware,
        )

    def _method(self, built: Built) -> dict[str, Any]:
        cold = self.settings.cold_cache
        cpu_cold = f"cold: {(self.host.flusher.num_bytes if self.host.flusher else 0) >> 20} MiB read from every core"
        return {
            "clock": "cuda events" if self.host.is_cuda else "perf_counter of the worker",
            "held_against": "perf_counter of the runner, over single calls and a warm batch",
            "cache": ("cold: 2 x L2 written" if self.host.is_cuda else cpu_cold) if cold else "as it is",
            "reference": "interleaved on the same inputs, order drawn for each iteration",
            "inputs": "fresh for every call" if self.shared.plan.varies else "fixed by the workload",
            "processes": "one for all trials" if self.host.is_cuda else "a new one for each trial",
            "interval": "block bootstrap of the medians, or Student's t over trials where that is wider",
            "sandbox": self.host.method,
            "flags": list(built.flags),
        }


def _seed(workload: Workload, settings: Settings) -> int:
    if settings.seed is not None:
        return settings.seed
    if workload.eventide is not None and workload.eventide.seed is not None:
        return workload.eventide.seed
    return zlib.crc32(workload.uuid.encode())
