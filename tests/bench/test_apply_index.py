"""Which solution an index chooses: measured points, ranges, declared validity, limits, stale results, the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventide.bench import Definition, Solution, Trace, TraceSet
from eventide.bench.apply_index import ApplyConfig, IndexCache, build_index, point
from eventide.errors import UsageError

from .records import DEFINITION, SOLUTION, TRACE, changed


def data_set(
    runs: list[tuple[str, int, float | None]], root: Path | None = None, supports: dict[str, list[str]] | None = None
) -> TraceSet:
    """A data set of runs (solution, rows, latency or None for a failure) on the hardware "cpu"."""
    data = TraceSet(root=root)
    data.add_definition(Definition.model_validate(DEFINITION))
    for name in dict.fromkeys(r[0] for r in runs):
        record = changed(SOLUTION, "name", name)
        if supports and name in supports:
            record["eventide"] = {"version": 1, "supports": supports[name]}
        data.add_solution(Solution.model_validate(record))
    for rows in dict.fromkeys(r[1] for r in runs):
        data.add_traces([Trace.model_validate(_trace(None, rows, None))])
    data.add_traces(Trace.model_validate(_trace(*run)) for run in runs)
    return data


def _trace(solution: str | None, rows: int, latency: float | None) -> dict[str, Any]:
    record = changed(changed(TRACE, "workload.axes.rows", rows), "workload.uuid", f"u{rows}")
    record["solution"] = solution
    if solution is None:
        return {**record, "evaluation": None}
    if latency is None:
        record["evaluation"].update(status="TIMEOUT", correctness=None, performance=None)
        return record
    return changed(record, "evaluation.performance.latency_ms", latency)


def choose(data: TraceSet, rows: int, **config: Any) -> list[str]:
    settings = ApplyConfig(**config)
    return build_index(data, "scale_h8", "cpu", settings).candidates({"rows": rows}, {"hidden": 8}, settings)


def test_the_fastest_at_a_measured_point() -> None:
    data = data_set([("a", 1, 1.0), ("b", 1, 2.0), ("a", 64, 9.0), ("b", 64, 3.0)])
    assert choose(data, 1) == ["a", "b"] and choose(data, 64) == ["b", "a"]


def test_between_measured_points_the_nearest_decides() -> None:
    data = data_set([("a", 1, 1.0), ("b", 1, 2.0), ("a", 64, 9.0), ("b", 64, 3.0)])
    assert choose(data, 4)[0] == "a" and choose(data, 32)[0] == "b"
    assert choose(data, 4, ranges=False) == []


def test_outside_the_range_only_when_asked() -> None:
    data = data_set([("a", 1, 1.0), ("a", 64, 9.0)])
    assert choose(data, 65) == choose(data, 0) == []
    assert choose(data, 65, on_miss="best") == ["a"]


def test_a_solution_that_failed_somewhere_goes_only_where_it_was_measured() -> None:
    data = data_set([("a", 1, 1.0), ("a", 64, None), ("b", 1, 5.0), ("b", 64, 5.0)])
    assert choose(data, 1)[0] == "a" and choose(data, 64) == ["b"]
    assert choose(data, 2) == ["b"]
    assert choose(data, 99, on_miss="best") == ["b"]


def test_a_solution_that_was_not_measured_everywhere_is_not_complete() -> None:
    data = data_set([("a", 1, 1.0), ("b", 1, 5.0), ("b", 64, 5.0)])
    assert choose(data, 2) == ["b"]


def test_declared_validity() -> None:
    runs = [("a", 1, 1.0), ("a", 64, 1.0), ("b", 1, 5.0), ("b", 64, 5.0)]
    data = data_set(runs, supports={"a": ["rows <= 32 or rows == 64", "hidden == 8"]})
    assert choose(data, 4) == ["a", "b"] and choose(data, 48) == ["b"]
    wide = data_set(runs, supports={"a": ["rows % 64 == 0"]})
    assert choose(wide, 1) == ["b"]  # measured there, yet declared invalid
    assert choose(wide, 640) == ["a"]  # outside the measured range, yet declared valid
    undecidable = data_set(runs, supports={"a": ["x[0] > 1"]})
    assert choose(undecidable, 1) == ["b"]


def test_several_workloads_with_the_same_axes() -> None:
    data = data_set([("a", 1, 1.0), ("b", 1, 2.0)])
    again = changed(_trace("a", 1, 9.0), "workload.uuid", "other")
    data.add_traces([Trace.model_validate(again)])
    assert choose(data, 1)[0] == "b"  # the slowest of a's runs decides
    failed = changed(_trace("b", 1, None), "workload.uuid", "other")
    data.add_traces([Trace.model_validate(failed)])
    assert choose(data, 1) == ["a"]  # one failure there is enough


def test_the_newest_result_counts() -> None:
    data = data_set([("a", 1, 1.0)])
    data.add_traces([Trace.model_validate(changed(_trace("a", 1, None), "evaluation.timestamp", "2027"))])
    assert choose(data, 1) == []


def test_error_limits() -> None:
    data = data_set([])
    for name, error in (("a", "NaN"), ("b", 1e-3), ("c", 0.5)):
        data.add_solution(Solution.model_validate(changed(SOLUTION, "name", name)))
        record = changed(_trace(name, 1, {"a": 1.0, "b": 3.0, "c": 2.0}[name]), "workload.uuid", "u")
        data.add_traces([Trace.model_validate(changed(record, "evaluation.correctness.max_relative_error", error))])
    assert choose(data, 1) == ["a", "c", "b"]  # the evaluator's verdict alone
    assert choose(data, 1, max_relative_error=1.0) == ["c", "b"]
    assert choose(data, 1, max_relative_error=1e-2) == ["b"]
    assert choose(data, 1, max_absolute_error=0.0) == ["a", "c", "b"]


def test_results_of_other_sources_or_hardware_do_not_count() -> None:
    data = data_set([("a", 1, 1.0)])
    hash_now = data.get_solution("a").content_hash
    stale = data_set([("b", 1, 1.0)])
    for target, value in ((data, hash_now), (stale, "0" * 40)):
        name = "a" if target is data else "b"
        record = changed(_trace(name, 1, 0.5), "evaluation.eventide", {"version": 1, "solution_hash": value})
        target.add_traces([Trace.model_validate(record)])
    assert choose(data, 1) == ["a"] and choose(stale, 1) == []
    assert build_index(data, "scale_h8", "NVIDIA H200", ApplyConfig()).measured == {}


def test_the_cache_is_used_until_a_file_changes(tmp_path: Path) -> None:
    data = data_set([("a", 1, 1.0), ("b", 1, 2.0)], root=tmp_path / "data", supports={"a": ["rows > 0"]})
    config = ApplyConfig()
    first = IndexCache(data, config, tmp_path).get("scale_h8", "cpu")
    (file,) = (tmp_path / "apply").glob("*.json")
    again = IndexCache(TraceSet.load(tmp_path / "data"), config, tmp_path).get("scale_h8", "cpu")
    assert again == first and again.measured == {point({"rows": 1}): ["a", "b"]} and again.supports
    file.write_text("{torn")
    assert IndexCache(data, config, tmp_path).get("scale_h8", "cpu") == first
    data.add_traces([Trace.model_validate(changed(_trace("b", 1, 0.1), "evaluation.timestamp", "2027"))])
    new = IndexCache(TraceSet.load(tmp_path / "data"), config, tmp_path).get("scale_h8", "cpu")
    assert new.measured == {point({"rows": 1}): ["b", "a"]}
    limited = IndexCache(data, ApplyConfig(max_absolute_error=-1.0), tmp_path).get("scale_h8", "cpu")
    assert limited.measured == {}


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="on_miss must be"):
        ApplyConfig(on_miss="crash")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="aot_ratio must be between 0 and 1, got 2"):
        ApplyConfig(aot_ratio=2)
