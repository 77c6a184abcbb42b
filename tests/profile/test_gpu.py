"""Timelines from the records of a GPU's workers, made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eventide import Program, target
from eventide.errors import DeviceError
from eventide.passes.pipeline import compile_plan
from eventide.profile.gpu import timelines
from eventide.profile.timeline import to_chrome


def plan_of_two():
    p = Program("two")
    t = p.symbol("num_tokens", 1, 8)
    h = p.call("linear", name="up", x=p.input("x", (t, 64), "bfloat16"), w=p.weight("w1", (96, 64), "bfloat16"))
    p.output(p.call("linear", name="down", x=h, w=p.weight("w2", (64, 96), "bfloat16")), "y")
    return compile_plan(p, target.h200())


def records(num: int = 6) -> np.ndarray:
    """One worker whose cycles are half a nanosecond: 500 cycles are 1,000 ns and 4,500 are 3,000."""
    found = np.zeros((1, num, 8), np.uint64)
    found[0, 0, :3] = [2**64 - 1, 1000, 500]
    found[0, -1, :3] = [2**64 - 1, 3000, 4500]
    found[0, 1] = [0, (3 << 32) + 2, 700, 900, 1500, 200, 1520, 1400]  # step 0, segment 0: tasks 3 and 4
    found[0, 2] = [1, 1, 1600, 1700, 2000, 0, 2010, 0]
    found[0, 3] = [1 << 32, 1, 2100, 2200, 2500, 100, 2510, 2400]
    return found


def test_records_become_spans() -> None:
    first, second = timelines(plan_of_two(), records())
    a, b = first.spans
    assert (a.grid, a.op, a.task, a.count, a.worker, a.step) == ("up", "linear", 3, 2, 0, 0)
    assert (a.wait_ns, a.start_ns, a.end_ns, a.memory_ns, a.published_ns, a.weights_ns) == (1100, 1200, 1500, 100, 1510, 1450)
    assert (b.grid, b.memory_ns, b.weights_ns) == ("down", 0, 0)
    assert second.spans[0].grid == "up" and second.elapsed_ns == 200
    share = first.by_grid()["up"]
    assert (share.num_tasks, share.work_ns, share.wait_ns, share.memory_ns) == (2, 300, 100, 100)
    (whole,) = timelines(plan_of_two(), records(), parts=2)
    assert [span.step for span in whole.spans] == [0, 0, 1]


def test_what_a_gpu_knows_stands_in_the_trace() -> None:
    first, _ = timelines(plan_of_two(), records())
    up = next(e for e in to_chrome(first)["traceEvents"] if e["name"] == "up")
    assert up["args"] == {
        "grid": "up", "task": 3, "step": 0, "tasks": 2, "memory_us": 0.1, "weights_at_us": 0.35, "published_at_us": 0.41,
    }  # fmt: skip


def test_clocks_are_put_right_where_workers_meet() -> None:
    """Three workers' lines, of which one is 200 ns late at the first meeting and right at the second."""
    trace = np.concatenate([records(7)] * 3)
    for worker, late in enumerate((0, 200, 0)):
        trace[worker, 3] = [2**64 - 1, 1, 2500 + 2 * late, 0, 0, 0, 0, 0]
        trace[worker, 4] = [2**64 - 1, 2, 4500, 0, 0, 0, 0, 0]
        trace[worker, 2] = [1, 1, 3500, 3600, 3700 + late, 0, 0, 0]
    (step,) = timelines(plan_of_two(), trace)
    down = [span for span in step.spans if span.grid == "down"]
    assert [span.wait_ns for span in down] == [2500, 2375, 2500]
    assert {span.wait_ns for span in step.spans if span.grid == "up"} == {1100, 900}  # before the first: by its error


def test_full_records_are_refused() -> None:
    with pytest.raises(DeviceError, match="the records of a timeline are full"):
        timelines(plan_of_two(), records(4 + 1))
