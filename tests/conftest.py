"""Options of the whole suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# in CI the same examples every time: a rare example is a new test to write, not a reason to refuse an unrelated change
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files from what the code prints now")
    parser.addoption("--package", action="store_true", help="also build an sdist and a wheel, and install them (minutes)")
