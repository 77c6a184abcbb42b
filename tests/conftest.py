"""Options of the whole suite."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from importlib import import_module

import pytest
from hypothesis import settings

# a shell that runs the tests in the background has Ctrl-C ignored, and so would the programs that tests start and interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    # each process of a whole run imports transformers; before lines are counted that takes half of the time
    with suppress(Exception):  # tests that need it say what is wrong with it
        import_module("tests.checkpoints")

# in CI the same examples every time: a rare example is a new test to write, not a reason to refuse an unrelated change
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, so that no process is left with one at the end; and long tests run without
    coverage, which would take most of their time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker("untraced")
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Stops the counting of lines for tests marked `untraced`. (pytest-cov's `no_cover` does nothing in a process of xdist,
    where an earlier counter comes to light again.)"""
    if not item.get_closest_marker("untraced"):
        return (yield)
    here, threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        return (yield)
    finally:
        sys.settrace(here)
        threading.settrace(threads)  # type: ignore[arg-type]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files from what the code prints now")
    parser.addoption("--package", action="store_true", help="also build an sdist and a wheel, and install them (minutes)")
