"""Time: cold caches, the state of the clocks, and statistics that say no more than the samples do."""

from __future__ import annotations

from eventide.bench.timing.cache import CacheFlusher
from eventide.bench.timing.device import device_state, hardware_name, library_versions
from eventide.bench.timing.stats import Estimate, center, estimate, is_faster, ratio

__all__ = [
    "CacheFlusher",
    "Estimate",
    "center",
    "device_state",
    "estimate",
    "hardware_name",
    "is_faster",
    "library_versions",
    "ratio",
]
