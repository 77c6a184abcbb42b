"""Reading a JSON file of a checkpoint, with errors that name the file, the key, what was expected and what was found.

    fields = read_json(directory / "config.json")
    fields.integer("hidden_size", minimum=1)      1024, or CheckpointError: "config.json: hidden_size is missing"

A null stands for an absent key, as in the files that transformers writes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from eventide.errors import CheckpointError, MissingFileError

__all__ = ["Fields", "read_json"]

_REQUIRED: Any = object()


class Fields:
    """A JSON object whose values are read with their type checked.

    Each reader takes the key and a default. Without a default the key must be there; with one, the default also stands
    for an explicit null. Errors are `CheckpointError`.
    """

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        self.raw = raw
        self.source = source

    def fail(self, key: str, expected: str) -> CheckpointError:
        """The error for a value that isn't what it should be."""
        return CheckpointError(f"{self.source}: {key} must be {expected}, got {_short(self.raw.get(key))}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.raw.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise CheckpointError(f"{self.source}: {key} is missing")
        return default

    def integer(self, key: str, default: Any = _REQUIRED, *, minimum: int = 0) -> Any:
        """An integer of at least `minimum` (or the default, whatever that is)."""
        value = self._value(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.fail(key, f"an integer of at least {minimum}")
        return value

    def number(self, key: str, default: Any = _REQUIRED, *, minimum: float = 0.0, above: bool = False) -> Any:
        """A finite float of at least `minimum`, or strictly above it."""
        value = self._value(key, default)
        if value is default:
            return value
        try:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        except OverflowError:  # an integer beyond floats
            fits = False
        if not fits or value < minimum or (above and value == minimum):
            raise self.fail(key, f"a finite number {'above' if above else 'of at least'} {minimum:g}")
        return float(value)

    def boolean(self, key: str, default: Any = _REQUIRED) -> Any:
        """true or false."""
        value = self._value(key, default)
        if value is not default and not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def string(self, key: str, default: Any = _REQUIRED) -> Any:
        """A string."""
        value = self._value(key, default)
        if value is not default and not isinstance(value, str):
            raise self.fail(key, "a string")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when the key is absent or null."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(key, "a list of strings")
        return tuple(value)

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them, as a tuple; empty when the key is absent or null."""
        value = self._value(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
            raise self.fail(key, "a token id or a list of token ids")
        return tuple(dict.fromkeys(ids))

    def nested(self, key: str) -> Fields | None:
        """A JSON object under `key`, or None when the key is absent or null."""
        value = self._value(key, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(key, "an object")
        return Fields(value, f"{self.source}: {key}")


def read_json(path: Path) -> Fields:
    """The JSON object in a file; `MissingFileError` if it isn't there, `CheckpointError` if it isn't a JSON object."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingFileError(
            f"{path.name} is missing in {path.parent}; a checkpoint directory has config.json and *.safetensors files"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, or a number of thousands of digits
        raise CheckpointError(
            f"{path} isn't valid JSON ({error}); it may be half downloaded, so fetch it again"
        ) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {_short(raw)}")
    return Fields(raw, path.name)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
