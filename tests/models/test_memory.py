"""What counts as available memory, and the error that gives both figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventide.errors import OutOfMemoryError, UsageError
from eventide.models.memory import _control_group, _meminfo, available_bytes, require_memory

GIB = 2**30


def test_this_machine_has_some() -> None:
    available = available_bytes()
    assert available is None or available > 0


def test_both_figures_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "2GiB")
    require_memory(2 * GIB, "the weights of m")
    with pytest.raises(OutOfMemoryError, match=r"the weights of m need 3\.0 GiB of memory and 2\.0 GiB are available"):
        require_memory(3 * GIB, "the weights of m")
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "much")
    with pytest.raises(UsageError, match="EVENTIDE_MEMORY_LIMIT: expected a number of bytes"):
        require_memory(1, "the weights of m")


def test_meminfo(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert _meminfo(path) == 42 * 1024
    path.write_text("MemTotal:       100 kB\n")
    assert _meminfo(path) is None
    assert _meminfo(tmp_path / "absent") is None


def test_control_group(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\nactive_file 100\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _control_group(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert _control_group(tmp_path) is None
    assert _control_group(tmp_path / "absent") is None
