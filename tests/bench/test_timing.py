"""Statistics, cold caches and device state."""

from __future__ import annotations

import numpy as np
import pytest

from eventide.bench.timing import CacheFlusher, device_state, estimate, hardware_name, is_faster, ratio
from eventide.bench.timing.cache import last_level_cache_bytes
from eventide.bench.timing.priority import prompt_thread
from eventide.bench.timing.stats import center, student_t


def machine(rng: np.random.Generator, scale: float = 1.0, trials: int = 3, count: int = 50) -> list[list[float]]:
    """Latencies as machines give them: a level a trial, a drift within it, a one-sided tail."""
    levels = scale * (1 + 0.02 * rng.standard_normal(trials))
    return [
        (level * (1 + 0.01 * np.sin(np.arange(count) / 8) + rng.gamma(1, 0.02, count))).tolist() for level in levels
    ]


def test_center_is_the_mean_of_the_medians() -> None:
    assert center([[1.0, 1.1, 1.0], [1.2, 1.2, 1.3]]) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="no samples"):
        center([[]])


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (29, 2.04523)])
def test_student_t_against_the_published_table(degrees: int, value: float) -> None:
    assert student_t(0.95, degrees) == pytest.approx(value, rel=1e-5)


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
def test_intervals_of_repeated_runs_agree() -> None:
    rng = np.random.default_rng(0)
    pairs = [(estimate(machine(rng)), estimate(machine(rng))) for _ in range(200)]
    assert sum(a.overlaps(b) for a, b in pairs) >= 0.95 * len(pairs)
    covered = [e.low <= 1.02 <= e.high for e in (p[0] for p in pairs)]  # the tail moves the median by about 1.4 %
    assert sum(covered) >= 0.9 * len(covered)


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
def test_faster_is_rarely_said_of_equals_and_said_of_twice_as_fast() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(is_faster(machine(rng), machine(rng)) for _ in range(200))
    assert wrong <= 0.05 * 200
    assert all(is_faster(machine(rng), machine(rng, 2.0)) for _ in range(20))


def test_more_samples_narrow_the_interval_within_one_trial() -> None:
    rng = np.random.default_rng(2)
    few = estimate([rng.gamma(9, 1, 20).tolist()])
    many = estimate([rng.gamma(9, 1, 2000).tolist()])
    assert many.high - many.low < (few.high - few.low) / 3


def test_ratio_holds_the_truth_and_is_deterministic() -> None:
    rng = np.random.default_rng(3)
    a, b = machine(rng, 3.0), machine(rng, 1.0)
    found = ratio(a, b)
    assert found.low < 3.0 < found.high and found == ratio(a, b)
    assert ratio(a, b[:2]).low < found.value < ratio(a, b[:2]).high


def test_one_sample_has_an_interval() -> None:
    assert estimate([[2.0]]).value == 2.0


def test_flushing_replaces_what_was_cached() -> None:
    flusher = CacheFlusher()
    try:
        assert flusher.num_bytes >= min(2 * last_level_cache_bytes(), 512 << 20)
        flusher.flush()
    finally:
        flusher.close()


def test_device_state_names_the_machine() -> None:
    assert hardware_name("cpu")
    state = device_state("cpu")
    assert state.notes is not None and state.notes["cores"]


def test_priority_is_given_back() -> None:
    import os

    before = os.sched_getscheduler(0)
    with prompt_thread() as how:
        assert how in ("realtime", "normal")
    assert os.sched_getscheduler(0) == before
