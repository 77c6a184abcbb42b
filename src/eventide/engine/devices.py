"""The devices by name: `open_runner` compiles a model's program for one and loads the weights.

    auto      the best one here
    cpu       C++ workers, one a core
    cuda      one persistent kernel on an NVIDIA GPU (Hopper), bfloat16
    interp    the interpreter, in Python: slow, and the definition of what the others must compute
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

from .. import env, target
from ..backends.cpu import CpuKernel
from ..errors import UsageError
from ..schedule import KINDS
from .load import Loaded, Progress
from .plans import compiled_plan
from .runner import CpuRunner, InterpRunner, Runner

__all__ = ["DEVICES", "check_device", "check_schedule", "choose_device", "num_workers", "open_runner"]

Opener = Callable[[Loaded, str, int, "Progress | None"], Runner]


def num_workers(num_threads: int | None) -> int:
    """Workers of the CPU: `num_threads`, or EVENTIDE_NUM_THREADS, or one for each core this process may use."""
    if num_threads is not None and (type(num_threads) is not int or not 1 <= num_threads <= 1024):
        raise UsageError(f"num_threads must be an integer from 1 to 1024, got {num_threads!r}")
    return num_threads or env.NUM_THREADS.get() or len(os.sched_getaffinity(0))


def check_device(device: str) -> str:
    """The device's name (`auto` is resolved when the model is known); `UsageError` lists the known ones."""
    if device != "auto" and device not in DEVICES:
        raise UsageError(f"device must be one of auto, {', '.join(DEVICES)}, got {device!r}")
    return device


def choose_device(device: str, dtype: str) -> str:
    """The device's name, `auto` resolved: a GPU, if there is one and bfloat16, which it computes in, will do."""
    if device != "auto":
        return device
    if dtype == "float32" or find_spec("cuda") is None:
        return "cpu"
    from .cuda import usable_device

    return "cpu" if usable_device() is None else "cuda"


def check_schedule(schedule: str) -> str:
    """The schedule's name, `auto` resolved."""
    if schedule != "auto" and schedule not in KINDS:
        raise UsageError(f"schedule must be one of auto, {', '.join(KINDS)}, got {schedule!r}")
    return "static" if schedule == "auto" else schedule


def open_runner(
    loaded: Loaded, device: str, schedule: str, num_threads: int | None, progress: Progress | None = None
) -> Runner:
    """Compile and load `loaded` for a device."""
    return DEVICES[check_device(device)](loaded, check_schedule(schedule), num_workers(num_threads), progress)


def _open_interp(loaded: Loaded, schedule: str, workers: int, progress: Progress | None) -> Runner:
    made_for = target.cpu(workers)
    plan = compiled_plan(loaded, made_for, schedule)
    return InterpRunner(plan, loaded.limits, made_for.tile_queries, dict(loaded.weights(progress)))


def _open_cpu(loaded: Loaded, schedule: str, workers: int, progress: Progress | None) -> Runner:
    made_for = target.cpu(workers)
    kernel = CpuKernel(compiled_plan(loaded, made_for, schedule))
    for name, array in loaded.weights(progress):
        kernel.bind_weights(name, array)
    return CpuRunner(kernel, loaded.limits, made_for.tile_queries)


def _open_cuda(loaded: Loaded, schedule: str, workers: int, progress: Progress | None) -> Runner:
    from .cuda import open_cuda

    return open_cuda(loaded, schedule, progress)


DEVICES: dict[str, Opener] = {"cpu": _open_cpu, "cuda": _open_cuda, "interp": _open_interp}
