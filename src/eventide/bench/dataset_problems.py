"""What is wrong with a file, said with its path, line and field.

A validation error of pydantic knows the place inside the record (``axes``, ``hidden``, ``value``) but not in the file.
`locate` scans the JSON text once more, only after an error, and returns the line on which each field begins:

    >>> locate('{"axes": {\\n  "hidden": {"value": -1}}}')[("axes", "hidden", "value")]
    2
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

Place = tuple[str | int, ...]

_MAX_DEPTH = 100
# a string that does not end matches to the end, so that no start is tried twice
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\],:]|[^\s{}\[\],:"]+', re.S)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one place of a data set."""

    path: str
    """The file, relative to the data set where there is one."""
    line: int | None
    """Counted from 1."""
    field: str
    """Dotted, empty for the whole record."""
    message: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for machines."""
        return asdict(self)


def locate(text: str) -> dict[Place, int]:
    """The line on which each field (its key, or the list item) of a JSON text begins; broken text gives what it can."""
    lines: dict[Place, int] = {(): 1}
    stack: list[list[Any]] = []  # [is_object, current key or index]
    line, last_end, expect_key = 1, 0, False
    for token in _TOKEN.finditer(text):
        line += text.count("\n", last_end, token.start())
        last_end = token.start()
        piece = token.group()
        if len(stack) > _MAX_DEPTH:
            break  # no record nests like this, and every level costs time
        if stack and not stack[-1][0] and piece not in ",]":
            lines.setdefault(tuple(frame[1] for frame in stack), line)
        if piece in "{[":
            stack.append([piece == "{", "" if piece == "{" else 0])
            expect_key = piece == "{"
        elif piece in "}]" and stack:
            stack.pop()
            expect_key = False
        elif piece == "," and stack:
            if stack[-1][0]:
                expect_key = True
            else:
                stack[-1][1] += 1
        elif expect_key and piece.startswith('"'):
            try:
                stack[-1][1] = json.loads(piece, strict=False)
            except ValueError:
                stack[-1][1] = piece
            expect_key = False
            lines[tuple(frame[1] for frame in stack)] = line
    return lines


def describe(error: ValidationError, data: Any) -> Iterator[tuple[Place, str]]:
    """Each failure of a validation as (place in the record, one sentence)."""
    for details in error.errors(include_url=False):
        place = _clean(details["loc"], data)
        yield place, _sentence(details)


def _clean(loc: tuple[int | str, ...], data: Any) -> Place:
    # pydantic puts the tag of a union and the kind of a number into the place; the file knows neither
    place: list[str | int] = []
    node = data
    for part in loc:
        if part == "[key]":
            continue
        in_list = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if in_list or (isinstance(node, dict) and part in node):
            node = node[part]
        elif isinstance(node, dict) and part not in (node.get("type"), node.get("kind")):
            node = None
        else:
            continue
        place.append(part)
    return tuple(place)


def _sentence(details: ErrorDetails) -> str:
    kind, message = details["type"], details["msg"]
    if kind == "missing":
        return "this field is required"
    if kind == "union_tag_not_found":
        return f"the field {details['ctx']['discriminator']} is required"
    if kind in ("value_error", "assertion_error"):
        return message.partition(", ")[2] or message
    if kind == "json_invalid":
        return f"not valid JSON: {details['ctx']['error']}"
    message = message[0].lower() + message[1:]
    got = repr(details["input"])
    return f"{message}, got {got if len(got) <= 60 else got[:57] + '...'}"


def problems_in(text: str, error: ValidationError, path: str, line: int | None = None) -> list[Problem]:
    """The failures of one record; `line` is that of a line-based file, else fields are looked up in `text`."""
    try:
        data = from_json(text)
    except ValueError:
        data = None
    lines = {} if line is not None else locate(text)
    found = []
    for place, message in describe(error, data):
        at = line
        if at is None:
            at = next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), None)
            broken = re.search(r"at line (\d+)", message) if data is None else None
            at = int(broken.group(1)) if broken else at
        found.append(Problem(path, at, ".".join(map(str, place)), message))
    return found
