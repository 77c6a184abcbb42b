"""Scores against figures worked out by hand, and merging."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from eventide.bench import Definition, Solution, Trace, TraceSet
from eventide.bench.report_merge import merge
from eventide.bench.report_scores import (
    Standing,
    author_scores,
    best_by_definition,
    fast_p_curve,
    geometric_mean,
    standings,
)
from eventide.errors import BenchError

from .demo import demo
from .records import DEFINITION, SOLUTION, TRACE, changed


def _standing(rows: list[Standing], solution: str, hardware: str = "NVIDIA H200") -> Standing:
    return next(s for s in rows if s.solution == solution and s.hardware == hardware)


def test_speedups_scores_and_fast_p() -> None:
    rows = standings(demo())
    ada = _standing(rows, "scale_h8_ada_cuda")
    # latency = reference * 0.4 * (1 + rows / 512)
    speedups = [1 / (0.4 * (1 + r / 512)) for r in (1, 16, 256)]
    assert sorted(ada.speedups) == pytest.approx(sorted(speedups))
    assert ada.speedup == pytest.approx(math.prod(speedups) ** (1 / 3))
    assert ada.score == pytest.approx(1 / 0.4)  # the baseline is slower by the same factor everywhere
    assert ada.interval == pytest.approx((0.97 * (ada.speedup or 0), 1.03 * (ada.speedup or 0)))
    assert [ada.fast_p(p) for p in (0, 1, 2, 2.45, 3)] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])
    assert (ada.author, ada.language, ada.num_passed, ada.num_workloads) == ("ada", "cuda", 3, 3)


def test_how_it_was_measured() -> None:
    ada = _standing(standings(demo()), "scale_h8_ada_cuda")
    assert ada.measured == {
        "when": "2026-01-01T00:00:00Z",
        "confidence": "0.95",
        "samples": "5 + 5",
        "clock": "wall clock of the demo",
        "cold_cache": "True",
        "sm_clock_mhz": "1980",
        "temperature_c": "55",
        "numpy version": "2.0",
    }
    assert {(r.tflops, r.gb_per_s) for r in ada.results} == {(1.5, 4321.0)}


def test_one_failure_makes_the_score_zero() -> None:
    eve = _standing(standings(demo()), "scale_h8_eve_triton")
    assert (eve.score, eve.num_passed, eve.num_workloads, eve.complete) == (0.0, 2, 3, False)
    assert eve.fast_p(0) == pytest.approx(2 / 3)
    assert "out of range" in next(r for r in eve.results if not r.passed).message


def test_a_missing_workload_makes_the_score_zero() -> None:
    whole = demo()
    kept = [t for t in whole.all_traces() if not (t.solution == "scale_h8_ada_cuda" and t.axes["rows"] == 16)]
    data = TraceSet(
        whole.definitions.values(), whole.all_workloads(), (s for g in whole.solutions.values() for s in g), kept
    )
    ada = _standing(standings(data), "scale_h8_ada_cuda")
    assert (ada.num_passed, ada.num_workloads, ada.score) == (2, 3, 0.0)


def test_ranking() -> None:
    groups = best_by_definition(standings(demo()))
    assert set(groups) == {
        (d, h) for d in ("scale_h8", "scale_h4096", "scale_h16384") for h in ("NVIDIA H200", "AMD EPYC")
    }
    order = [s.author for s in groups["scale_h8", "NVIDIA H200"]]
    assert order == ["ada", "baseline", "grace", "eve"]
    ada, baseline = groups["scale_h8", "NVIDIA H200"][:2]
    assert ada.beats(baseline) and not baseline.beats(ada) and not ada.beats(ada)


def test_nothing_is_faster_without_intervals(small: TraceSet) -> None:
    fast, slow = best_by_definition(standings(small))["scale_h8", "cpu"]
    assert fast.speedup is not None and slow.speedup is not None
    assert fast.interval is None and not fast.beats(slow) and not slow.beats(fast)


def test_authors() -> None:
    scores = {(a.author, a.hardware): a for a in author_scores(standings(demo()))}
    assert scores["ada", "AMD EPYC"].score == pytest.approx(2.5)
    assert scores["baseline", "NVIDIA H200"].score == pytest.approx(1.0)
    assert scores["grace", "NVIDIA H200"].score == pytest.approx(1 / 1.6)
    assert scores["eve", "NVIDIA H200"].score == 0
    assert scores["ada", "NVIDIA H200"].num_definitions == 3
    assert scores["ada", "NVIDIA H200"].best["scale_h4096"] == "scale_h4096_ada_cuda"


def test_without_a_baseline_the_reference_takes_its_place() -> None:
    ada = _standing(standings(demo(), baseline="nobody"), "scale_h8_ada_cuda")
    assert ada.score == pytest.approx(sum(ada.speedups) / 3)


def test_the_newest_result_counts() -> None:
    def run(timestamp: str, latency: float, uuid: str = "w-1") -> Trace:
        record = changed(changed(TRACE, "evaluation.timestamp", timestamp), "workload.uuid", uuid)
        return Trace.model_validate(changed(record, "evaluation.performance.latency_ms", latency))

    traces = [run("2026-02-01", 7.0), run("2026-01-01", 5.0), run("2026-01-01", 6.0, "w-2")]
    data = TraceSet(
        [Definition.model_validate(DEFINITION)],
        solutions=[Solution.model_validate(SOLUTION)],
        traces=[*traces, run("2026-01-01", 8.0, "w-2")],
    )
    (standing,) = standings(data)
    assert {r.uuid: r.latency_ms for r in standing.results} == {"w-1": 7.0, "w-2": 8.0}


def test_results_of_removed_workloads_do_not_count(small: TraceSet) -> None:
    small.add_traces([Trace.model_validate(changed(TRACE, "workload.uuid", "gone"))])
    standing = next(s for s in standings(small) if s.solution == "scale_numpy")
    assert standing.num_workloads == 3 and "gone" not in {r.uuid for r in standing.results}


def test_curves() -> None:
    rows = [s for s in standings(demo()) if s.hardware == "NVIDIA H200" and s.author in ("ada", "eve")]
    assert fast_p_curve(rows, [0, 1]) == pytest.approx([15 / 18, 15 / 18])
    assert fast_p_curve([], [0, 1]) == [0, 0]


def test_geometric_mean() -> None:
    assert geometric_mean([]) is None and geometric_mean([1, 0]) == 0
    assert geometric_mean([1, 4]) == pytest.approx(2)


# ---- merging


def test_merging(tmp_path: Path, small: TraceSet) -> None:
    other = demo(tmp_path / "other")  # has scale_h8 with a description: conflicts with `small`
    with pytest.raises(BenchError, match=r"definition 'scale_h8' differs between .*data and .*other; rename"):
        merge([small, other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    only = TraceSet(root=tmp_path / "only")
    only.add_definition(small.definitions["scale_h8"])
    only.add_solution(Solution.model_validate(changed(SOLUTION, "name", "third")))
    only.add_traces([*small.all_workloads(), Trace.model_validate({**TRACE, "solution": "third"})])
    merged = merge([small, only], tmp_path / "merged")
    assert merged.written == {"definitions": 1, "solutions": 3, "workloads": 3, "traces": 5}
    assert merged.repeated == {"definitions": 1, "workloads": 3}
    assert TraceSet.load(tmp_path / "merged").summary() == merged.data.summary()
    with pytest.raises(BenchError, match="is not an empty folder"):
        merge([small], tmp_path / "merged")


@pytest.mark.parametrize("kind", ["solution", "workload"])
def test_conflicts(tmp_path: Path, small: TraceSet, kind: str) -> None:
    other = TraceSet(root=tmp_path / "other")
    if kind == "solution":
        other.add_solution(Solution.model_validate({**SOLUTION, "description": "mine"}))
    else:
        workload = next(iter(small.all_workloads())).model_dump(mode="json")
        other.add_traces([Trace.model_validate(changed(workload, "workload.axes.rows", 77))])
    with pytest.raises(BenchError, match=f"{kind} .* differs between"):
        merge([small, other], tmp_path / "merged")


def test_tensors_travel_with_their_workloads(tmp_path: Path) -> None:
    spec = {"type": "safetensors", "path": "./blob/t.safetensors", "tensor_key": "x"}
    workload = changed(changed(TRACE, "workload.inputs.x", spec), "solution", None)
    trace = Trace.model_validate({**workload, "evaluation": None})
    sets = [TraceSet(root=tmp_path / name) for name in ("a", "b")]
    for i, data in enumerate(sets):
        data.add_definition(Definition.model_validate(DEFINITION))
        data.add_traces([Trace.model_validate(changed(trace.model_dump(mode="json"), "workload.uuid", f"u{i}"))])
        (tmp_path / data.root.name / "blob").mkdir()  # type: ignore[union-attr]
        save_file({"x": np.zeros((3, 8), np.float32)}, tmp_path / data.root.name / "blob/t.safetensors")  # type: ignore[union-attr]
    merged = merge(sets, tmp_path / "merged")
    assert merged.written["tensor files"] == 1 and (tmp_path / "merged/blob/t.safetensors").is_file()
    save_file({"x": np.ones((3, 8), np.float32)}, tmp_path / "b/blob/t.safetensors")
    with pytest.raises(BenchError, match=r"the tensor file .* differs"):
        merge(sets, tmp_path / "again")
