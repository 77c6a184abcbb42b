"""Tests that need a GPU are skipped before they compile anything."""

from __future__ import annotations

import pytest

from tests.backends.cuda.gpu import need_gpu


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        need_gpu()
