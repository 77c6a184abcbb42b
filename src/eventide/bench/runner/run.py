"""A whole run: which solutions on which workloads, on which devices, continued where an earlier run stopped.

    report = run_benchmark(TraceSet.load("my_dataset"), devices=["cpu"], command_line={"iterations": 20})
    report.traces        what was measured, appended to the data set as it went
    report.skipped       (what, why): a missing tool, a GPU solution on a CPU, a reference that failed

Work is handed out by definition: one reference worker and one build serve all its workloads. With several GPUs each
has a thread of its own that takes the next definition; every measurement has its processes, arenas and pipes to itself.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from eventide.bench import sandbox
from eventide.bench.builders import BuildError, Built, builder_for
from eventide.bench.dataset import TraceSet
from eventide.bench.runner.measure import Outcome, ReferenceFailed
from eventide.bench.runner.progress import Progress
from eventide.bench.runner.session import Host, Reference, WorkloadSession
from eventide.bench.runner.settings import Settings, SettingsLayers
from eventide.bench.schema import Definition, Solution, Trace
from eventide.bench.timing import CacheFlusher, hardware_name
from eventide.errors import BenchError, DeviceError, EventideError, UsageError


@dataclass(frozen=True)
class Selection:
    """What to run: shell patterns over names; an empty list means all. `max_workloads` is per definition."""

    definitions: Sequence[str] = ()
    op_types: Sequence[str] = ()
    solutions: Sequence[str] = ()
    authors: Sequence[str] = ()
    workloads: Sequence[str] = ()
    max_workloads: int | None = None

    @staticmethod
    def _fits(name: str, patterns: Sequence[str]) -> bool:
        return not patterns or any(fnmatchcase(name, p) for p in patterns)

    def definition(self, definition: Definition) -> bool:
        return self._fits(definition.name, self.definitions) and self._fits(definition.op_type, self.op_types)

    def solution(self, name: str, author: str) -> bool:
        return self._fits(name, self.solutions) and self._fits(author, self.authors)


@dataclass
class RunReport:
    """What a run did."""

    traces: list[Trace] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    resumed: int = 0
    """Measurements that the data set held already."""


@dataclass
class _Run:
    data: TraceSet
    layers: SettingsLayers
    selection: Selection
    resume: bool
    report: RunReport
    progress: Progress
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: set[tuple[str, str, str]] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def skip(self, what: str, why: str) -> None:
        with self.lock:
            if (what, why) not in self.report.skipped:
                self.report.skipped.append((what, why))

    def add(self, trace: Trace, author: str) -> None:
        with self.lock:
            self.data.add_traces([trace], author)
            self.report.traces.append(trace)


def find_devices(names: Sequence[str] | None) -> list[str]:
    """Devices to run on. None: every CUDA device, or the CPU where there is none. Raises DeviceError."""
    if not names:
        count = _cuda_count()
        return [f"cuda:{i}" for i in range(count)] or ["cpu"]
    found: list[str] = []
    for name in names:
        kind, _, index = name.partition(":")
        if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
            raise UsageError(f"unknown device {name!r}; expected cpu, cuda or cuda:<index>")
        if kind == "cuda":
            count = _cuda_count()
            if int(index or 0) >= count:
                raise DeviceError(f"device {name} is not here: {count} CUDA device(s) found")
            name = f"cuda:{int(index or 0)}"
        if name not in found:
            found.append(name)
    if "cpu" in found and len(found) > 1:
        raise UsageError("run on the CPU or on GPUs, not on both at once: they would disturb each other's timing")
    return found


def _cuda_count() -> int:
    if not os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/dxg"):
        return 0  # spares importing torch where no driver is
    try:
        import torch
    except ImportError:
        return 0
    return int(torch.cuda.device_count())


def run_benchmark(
    data: TraceSet,
    *,
    devices: Sequence[str] | None = None,
    selection: Selection | None = None,
    layers: SettingsLayers | None = None,
    command_line: Mapping[str, Any] | None = None,
    resume: bool = True,
    unsafe: bool = False,
    sandbox_method: sandbox.Method | None = None,
    cache: Path | None = None,
    show_progress: bool = False,
    on_trace: Callable[[Trace], None] | None = None,
) -> RunReport:
    """Measure the selected solutions on the selected workloads and append the traces to `data`.

    `command_line` lies over the layers. With `resume`, a (workload, solution, hardware) that already has a trace of
    the same content is not measured again. Raises BenchError where nothing can confine a solution and `unsafe` is not
    set, DeviceError for an absent device, UsageError for bad settings; a solution's failure is a trace, never an error.
    """
    layers = layers or SettingsLayers()
    if command_line:
        layers = SettingsLayers(
            layers.defaults, layers.op_types, layers.definitions, {**layers.command_line, **command_line}
        )
    Settings().with_values({**layers.defaults, **layers.command_line}, "settings")
    found = find_devices(devices)
    method = sandbox.choose(unsafe=unsafe, wanted=sandbox_method)
    work = _select(data, selection or Selection())
    report = RunReport()
    with ExitStack() as stack:
        total = sum(len(workloads) * len(solutions) for _, workloads, solutions in work)
        progress = stack.enter_context(Progress(total, enabled=show_progress))
        run = _Run(data, layers, selection or Selection(), resume, report, progress)
        hosts = [_host(data, device, method, cache, stack) for device in found]
        if resume:
            run.done = _already_done(data, work, hosts[0])
        jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for item in work:
            jobs.put(item)
        if len(hosts) == 1:
            _serve(run, hosts[0], jobs, on_trace)
        else:
            _serve_many(run, hosts, jobs, on_trace)
    return report


def _host(data: TraceSet, device: str, method: sandbox.Method, cache: Path | None, stack: ExitStack) -> Host:
    from eventide.env import CACHE_DIR

    folder = (cache or CACHE_DIR.get() / "bench").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    hide = (str(data.root.resolve()),) if data.root is not None else ()
    flusher = None if device.startswith("cuda") else CacheFlusher()
    host = Host(device, method, folder, hide, flusher, hardware_name(device))
    stack.callback(host.close)
    return host


_Work = tuple[Definition, list[Trace], list[str]]


def _select(data: TraceSet, selection: Selection) -> list[_Work]:
    by_definition: dict[str, list[str]] = {}
    for name, (solved, author) in data.solution_names.items():
        if selection.solution(name, author):
            by_definition.setdefault(solved, []).append(name)
    work: list[_Work] = []
    for definition in data.definitions.values():
        if not selection.definition(definition) or definition.name not in by_definition:
            continue
        workloads = [t for t in data.workloads[definition.name] if Selection._fits(t.uuid, selection.workloads)]
        work.append((definition, workloads[: selection.max_workloads], by_definition[definition.name]))
    return work


def _already_done(data: TraceSet, work: Iterable[_Work], host: Host) -> set[tuple[str, str, str]]:
    """(workload, solution, content hash) of every measurement on this hardware that the data set holds."""
    done = set()
    for definition, _, _ in work:
        for trace in data.traces[definition.name]:
            outcome = trace.evaluation
            if outcome is None or trace.solution is None or outcome.environment.hardware != host.hardware:
                continue
            content = outcome.eventide.solution_hash if outcome.eventide else None
            done.add((trace.uuid, trace.solution, content or ""))
    return done


def _serve_many(run: _Run, hosts: list[Host], jobs: Any, on_trace: Callable[[Trace], None] | None) -> None:
    errors: list[BaseException] = []

    def work(host: Host) -> None:
        try:
            _serve(run, host, jobs, on_trace)
        except BaseException as error:
            errors.append(error)
            run.stop.set()

    threads = [threading.Thread(target=work, args=(host,), name=host.device) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        run.stop.set()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]


def _serve(run: _Run, host: Host, jobs: Any, on_trace: Callable[[Trace], None] | None) -> None:
    while not run.stop.is_set():
        try:
            item = jobs.get_nowait()
        except queue.Empty:
            return
        _run_definition(run, host, item, on_trace)


def _run_definition(run: _Run, host: Host, work: _Work, on_trace: Callable[[Trace], None] | None) -> None:
    definition, workloads, names = work
    settings = run.layers.for_definition(definition.name, definition.op_type, _own_settings(definition))
    solutions = [run.data.get_solution(name) for name in names]
    builds: dict[str, Built | BuildError | None] = {}
    reference = Reference(definition, host, settings)
    try:
        for workload in workloads:
            todo = []
            for solution in solutions:
                if (workload.uuid, solution.name, solution.content_hash) in run.done:
                    run.report.resumed += 1
                    run.progress.advance()
                else:
                    todo.append(solution)
            if todo and not run.stop.is_set():
                _run_workload(run, host, definition, workload, todo, builds, reference, settings, on_trace)
    finally:
        reference.close()


def _own_settings(definition: Definition) -> dict[str, Any]:
    ext = definition.eventide
    if ext is None:
        return {}
    own = {"rtol": ext.rtol, "atol": ext.atol, "required_matched_ratio": ext.required_matched_ratio}
    return {name: value for name, value in own.items() if value is not None}


def _run_workload(
    run: _Run,
    host: Host,
    definition: Definition,
    workload: Trace,
    solutions: list[Solution],
    builds: dict[str, Built | BuildError | None],
    reference: Reference,
    settings: Settings,
    on_trace: Callable[[Trace], None] | None,
) -> None:
    blob = run.data.blob_file if run.data.root is not None else None
    usable = []
    for solution in solutions:
        if solution.name not in builds:
            run.progress.show(host.device, f"{solution.name}: building")
            builds[solution.name] = _build(run, host, solution, settings)
        if builds[solution.name] is None:
            run.progress.advance()
        else:
            usable.append(solution)
    if not usable:
        return
    try:
        with WorkloadSession(definition, workload.workload, host, settings, reference, blob) as session:
            for solution in usable:
                built = builds[solution.name]
                label = f"{solution.name} on {workload.uuid[:8]}"
                if isinstance(built, Built):
                    try:
                        evaluation = session.evaluate(solution, built, run.progress.reporter(host.device, label))
                    except (BenchError, ReferenceFailed):
                        raise
                    except Exception as error:  # whatever a solution provokes costs only itself
                        run.skip(label, f"the bench itself failed on it: {type(error).__name__}: {error}")
                        run.progress.advance()
                        continue
                else:
                    assert isinstance(built, BuildError)
                    evaluation = session.record(Outcome("COMPILE_ERROR", built.reason, built.log), solution)
                trace = Trace(
                    definition=definition.name,
                    workload=workload.workload,
                    solution=solution.name,
                    evaluation=evaluation,
                )
                run.add(trace, solution.author)
                run.progress.result(trace)
                if on_trace is not None:
                    on_trace(trace)
                if run.stop.is_set():
                    return
    except ReferenceFailed as failure:
        reference.close()
        run.skip(f"{definition.name} on {workload.uuid}", str(failure))
    except (BenchError, EventideError) as error:
        if str(error).startswith("the sandbox"):
            raise
        run.skip(f"{definition.name} on {workload.uuid}", str(error))


def _build(run: _Run, host: Host, solution: Solution, settings: Settings) -> Built | BuildError | None:
    """Built, the error that becomes COMPILE_ERROR, or None when this machine cannot judge the solution."""
    context = host.build_context(settings)
    targets = {t.lower() for t in solution.spec.target_hardware}
    if host.is_cuda and targets <= {"cpu"}:
        run.skip(solution.name, f"it targets the CPU, and this run is on {host.device}")
        return None
    try:
        builder = builder_for(solution)
    except UsageError as error:
        run.skip(solution.name, str(error))
        return None
    missing = builder.missing(solution, context)
    if missing is not None:
        run.skip(solution.name, missing)
        return None
    try:
        return builder.build(solution, context)
    except BuildError as error:
        return error
