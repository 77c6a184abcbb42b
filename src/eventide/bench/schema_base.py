"""What every record of the bench is made of: strict scalars, non-finite numbers, the extension block.

The FlashInfer Trace format (flashinfer-bench 0.1.2) ignores unknown fields on reading and drops them on writing, so a
record is a pydantic model with ``extra="ignore"``. Everything that Eventide adds lives under one unknown field, named
``eventide``, whose ``version`` says how to read it; the original skips the block and still reads the record.

Non-finite numbers are the strings "NaN", "Infinity" and "-Infinity" in a file and floats in memory:

    >>> from eventide.bench import Correctness
    >>> Correctness(max_relative_error="NaN", max_absolute_error=0.5).model_dump_json()
    '{"max_relative_error":"NaN","max_absolute_error":0.5,"extra":null}'

Numbers are not read from booleans or from other strings: ``true`` is no axis length and "128" is no latency.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
)

EXTENSION_VERSION = 1
"""The version of the ``eventide`` block that this package reads and writes."""

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}


class StrEnum(str, Enum):
    """A string enumeration whose members print as their value (the standard one needs Python 3.11)."""

    def __str__(self) -> str:
        return str(self.value)


def read_number(value: object) -> object:
    """Turn the strings for non-finite numbers into floats and refuse booleans and other strings."""
    if isinstance(value, bool):
        raise ValueError("expected a number, got a boolean")
    if isinstance(value, str):
        number = _NON_FINITE.get(value.lower())
        if number is None:
            raise ValueError(f'expected a number, "NaN" or "Infinity", got the string {value[:40]!r}')
        return number
    return value


def write_number(value: float) -> float | str:
    """Spell a non-finite float as the format does; everything else as it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _non_negative_or_nan(value: float) -> float:
    if value < 0:
        raise ValueError(f"expected a number >= 0 or NaN, got {value}")
    return value


def _non_negative(value: float) -> float:
    if math.isnan(value) or value < 0:
        raise ValueError(f"expected a number >= 0 (NaN is not allowed here), got {value}")
    return value


Text = Annotated[str, Strict()]
NonEmptyText = Annotated[str, Strict(), Field(min_length=1)]
Flag = Annotated[bool, Strict()]
Size = Annotated[int, Strict(), Field(ge=0)]
Real = Annotated[float, BeforeValidator(read_number), PlainSerializer(write_number, return_type=Any, when_used="json")]
ErrorValue = Annotated[Real, AfterValidator(_non_negative_or_nan)]
Latency = Annotated[Real, AfterValidator(_non_negative)]


class Record(BaseModel):
    """A record of the original format: unknown fields are ignored on reading and dropped on writing."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="strings", allow_inf_nan=True
    )

    @model_serializer(mode="wrap")
    def _without_empty_extension(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        # a record without extensions must look exactly as the original writes it
        data = handler(self)
        if isinstance(data, dict) and data.get("eventide", 0) is None:
            del data["eventide"]
        return data


class Extension(BaseModel):
    """A part of the ``eventide`` block: unknown fields are errors, absent ones are not written."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="strings")

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        data = handler(self)
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


def _known_version(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or value != EXTENSION_VERSION:
        raise ValueError(f"this release reads version {EXTENSION_VERSION} of the extensions, got {value!r}")
    return value


class ExtensionBlock(Extension):
    """The top of an ``eventide`` block."""

    version: Annotated[Literal[1], BeforeValidator(_known_version)]
    """Version of the extensions; a reader refuses a version that it does not know."""
