"""The table of environment variables: what is read, and that a bad value raises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eventide import env
from eventide.errors import UsageError


def test_defaults() -> None:
    assert env.NUM_THREADS.get({}) is None
    assert env.MEMORY_LIMIT.get({"EVENTIDE_MEMORY_LIMIT": " "}) is None
    assert env.CACHE_DIR.get({}) == Path.home() / ".cache" / "eventide"


def test_values() -> None:
    assert env.NUM_THREADS.get({"EVENTIDE_NUM_THREADS": "4"}) == 4
    assert env.CACHE_DIR.get({"EVENTIDE_CACHE_DIR": "~/x"}) == Path.home() / "x"
    for text, expected in {"4096": 4096, "512MiB": 512 * 2**20, "1.5 gib": 3 * 2**29, "8GB": 8 * 10**9}.items():
        assert env.MEMORY_LIMIT.get({"EVENTIDE_MEMORY_LIMIT": text}) == expected


BAD = [
    (env.NUM_THREADS, "0", "a positive integer"),
    (env.NUM_THREADS, "two", "a positive integer"),
    (env.MEMORY_LIMIT, "8 parsecs", "a number of bytes such as"),
    (env.MEMORY_LIMIT, "-1", "a number of bytes such as"),
    (env.CACHE_DIR, __file__, "a directory (this path is a file)"),
]


@pytest.mark.parametrize(("variable", "text", "expected"), BAD)
def test_bad_values_raise(variable: env.Variable[object], text: str, expected: str) -> None:
    message = f"environment variable {variable.name}: expected {expected}"
    with pytest.raises(UsageError, match=re.escape(message)):
        variable.get({variable.name: text})


def test_table_holds_every_variable_once() -> None:
    declared = {value.name for value in vars(env).values() if isinstance(value, env.Variable)}
    names = [name for name, _, _ in env.table({})]
    assert set(names) == declared
    assert len(names) == len(set(names))
    assert all(name.startswith("EVENTIDE_") and meaning for name, meaning, _ in env.table({}))
