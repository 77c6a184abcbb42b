"""Timelines, traffic and bandwidth on their own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from eventide import Program, target
from eventide.engine.steps import Step
from eventide.passes.pipeline import compile_plan
from eventide.profile.bandwidth import measure_read_bandwidth
from eventide.profile.explain import explain, kind
from eventide.profile.timeline import Span, Timeline, merge, to_chrome
from eventide.profile.traffic import traffic

SPANS = (
    Span(0, "layers.0.up", "linear", 0, wait_ns=1000, start_ns=1000, end_ns=3000),
    Span(1, "layers.0.up", "linear", 1, wait_ns=1000, start_ns=1500, end_ns=4500),
    Span(0, "layers.1.up", "linear", 0, wait_ns=3000, start_ns=4500, end_ns=6000),
)


def _plan(num_tokens: int = 200):
    p = Program("mlp")
    t = p.symbol("num_tokens", 1, 512)
    h = p.call("linear", name="layers.0.up", x=p.input("x", (t, 64), "float32"), w=p.weight("w1", (96, 64), "float32"))
    y = p.call("linear", name="layers.1.up", x=h, w=p.weight("w2", (64, 96), "float32"))
    p.output(y, "y")
    return compile_plan(p, target.cpu(2)), {"num_tokens": num_tokens}, {"x": np.zeros((num_tokens, 64), np.float32)}


def test_by_grid() -> None:
    timeline = Timeline(SPANS)
    assert timeline.num_workers == 2 and timeline.elapsed_ns == 5000
    shares = timeline.by_grid()
    assert list(shares) == ["layers.0.up", "layers.1.up"]
    assert (shares["layers.0.up"].num_tasks, shares["layers.0.up"].work_ns, shares["layers.0.up"].wait_ns) == (2, 5000, 500)
    assert Timeline(()).elapsed_ns == 0


def test_chrome_trace() -> None:
    events = to_chrome(Timeline(SPANS, "mlp"))["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} == {"worker 0", "worker 1"}
    work = [e for e in events if e["ph"] == "X" and e["cat"] == "linear"]
    waits = [e for e in events if e["ph"] == "X" and e["cat"] == "wait"]
    assert [(e["tid"], e["ts"], e["dur"]) for e in work] == [(0, 0, 2), (1, 0.5, 3), (0, 3.5, 1.5)]
    # a worker that never waits shows no wait
    assert [(e["tid"], e["ts"], e["dur"]) for e in waits] == [(1, 0, 0.5), (0, 2, 1.5)]
    for tid in (0, 1):
        own = sorted((e["ts"], e["dur"]) for e in work + waits if e["tid"] == tid)
        assert all(a + d <= b for (a, d), (b, _) in itertools.pairwise(own))


def test_merge_counts_steps_on() -> None:
    merged = merge([Timeline(SPANS, "a"), Timeline(SPANS), Timeline(SPANS)])
    assert merged.name == "a" and [span.step for span in merged.spans] == [0] * 3 + [1] * 3 + [2] * 3


def test_traffic_counts_shared_regions_once() -> None:
    found = traffic(*_plan(200))
    up = found["layers.0.up"]
    # two tiles of tokens, three of rows: six tasks, every operand from memory once
    assert (up.num_tasks, up.weight_bytes) == (6, 96 * 64 * 4)
    assert up.read_bytes == (200 * 64 + 96 * 64) * 4 and up.written_bytes == 200 * 96 * 4
    assert traffic(*_plan(1))["layers.1.up"].total_bytes == (96 + 64 * 96 + 64) * 4


def test_explain_joins_layers() -> None:
    plan, symbols, inputs = _plan(1)
    step = Step(symbols, inputs)
    report = explain(plan, [step], [Timeline(SPANS)], bandwidth=1e9)
    assert [row.name for row in report.rows] == ["up"] and kind("layers.12.down") == "down" and kind("head") == "head"
    row = report.rows[0]
    assert row.num_grids == 2 and row.num_tasks == 5
    assert row.work_ms == pytest.approx(6500 / 2 / 1e6) and row.wait_ms == pytest.approx(2000 / 2 / 1e6)
    assert row.bound_ms == pytest.approx(row.total_bytes / 1e9 * 1e3)
    assert row.efficiency == pytest.approx(row.bound_ms / row.work_ms)
    assert report.elapsed_ms == pytest.approx(0.005)
    assert explain(plan, [step, step], bandwidth=1e9).total_bytes == 2 * report.total_bytes
    unmeasured = explain(plan, [step], bandwidth=1e9)
    assert unmeasured.rows[0].work_ms is None and unmeasured.rows[0].efficiency is None
    assert unmeasured.to_json()["rows"][0]["efficiency"] is None


def test_bandwidth_is_plausible() -> None:
    found = measure_read_bandwidth(1, seconds=0.05, buffer_bytes=2**25)
    assert 1e8 < found < 1e13


def test_an_interrupted_measurement_ends() -> None:
    """Readers that are left behind don't keep the process from ending."""
    code = (
        "import _thread, threading; from eventide.profile.bandwidth import measure_read_bandwidth; "
        "threading.Timer(0.7, _thread.interrupt_main).start(); measure_read_bandwidth(2, seconds=100)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert found.returncode != 0 and found.stderr.rstrip().endswith("KeyboardInterrupt")
