"""Options of the whole suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files from what the code prints now")
    parser.addoption("--package", action="store_true", help="also build an sdist and a wheel, and install them (minutes)")
