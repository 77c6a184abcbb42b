"""How to draw an input that is valid: initialisers, one declaration each.

A plain "random" input is noise of the right shape, and noise is no page table. An initialiser says what the values
mean. Sizes and bounds are integers or expressions over the axes (``"num_pages"``, ``"batch_size + 1"``).

    {"kind": "indptr", "total": "num_kv_indices"}      0 = v[0] <= v[1] <= ... <= v[-1] = total
    {"kind": "integers", "low": 0, "high": "num_pages"} each in [low, high)
    {"kind": "distinct", "low": 0, "high": "num_pages"} as integers, without repetition along the last axis
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict, model_validator

from .schema_base import Extension, Flag, NonEmptyText, Real
from .schema_expr import check_subset


def _evaluable(text: str) -> str:
    check_subset(text)
    return text


Expression = Annotated[NonEmptyText, AfterValidator(_evaluable)]
"""An expression that `schema_expr.evaluate` accepts."""
Extent = Annotated[int, Strict()] | Expression
"""An integer, or an expression over the axes."""


class NormalInit(Extension):
    """Independent normal values."""

    kind: Literal["normal"] = "normal"
    mean: Real = 0.0
    std: Real = 1.0


class UniformInit(Extension):
    """Independent values, uniform in [low, high)."""

    kind: Literal["uniform"] = "uniform"
    low: Real = 0.0
    high: Real = 1.0


class IntegersInit(Extension):
    """Independent integers, uniform in [low, high)."""

    kind: Literal["integers"] = "integers"
    low: Extent = 0
    high: Extent


class DistinctInit(Extension):
    """Integers in [low, high) without repetition along the last axis."""

    kind: Literal["distinct"] = "distinct"
    low: Extent = 0
    high: Extent


class IndptrInit(Extension):
    """A row pointer: the first value 0, non-decreasing, the last value `total`."""

    kind: Literal["indptr"] = "indptr"
    total: Extent
    min_len: Extent = 0
    """The smallest difference of neighbours; `total` must leave room for it."""


class ConstantInit(Extension):
    """One value everywhere."""

    kind: Literal["constant"] = "constant"
    value: Annotated[int, Strict()] | Flag | Real


class ArangeInit(Extension):
    """start, start + step, ... along the flattened tensor."""

    kind: Literal["arange"] = "arange"
    start: Extent = 0
    step: Extent = 1


class ProbabilitiesInit(Extension):
    """Rows along the last axis that are >= 0 and sum to 1: softmax of normal logits divided by `temperature`."""

    kind: Literal["probabilities"] = "probabilities"
    temperature: Annotated[Real, Field(gt=0)] = 1.0


class BernoulliInit(Extension):
    """Independent booleans (or 0 and 1), true with probability `p`."""

    kind: Literal["bernoulli"] = "bernoulli"
    p: Annotated[Real, Field(ge=0, le=1)] = 0.5


class ChoiceInit(Extension):
    """Independent draws from a list."""

    kind: Literal["choice"] = "choice"
    values: Annotated[list[Real], Field(min_length=1)]
    ordered: Flag = False
    """Sort along the last axis after drawing."""


class LengthsInit(Extension):
    """Sequence lengths in [low, high]; with `total` they also add up to it."""

    kind: Literal["lengths"] = "lengths"
    low: Extent = 1
    high: Extent
    total: Extent | None = None

    @model_validator(mode="after")
    def _ordered(self) -> LengthsInit:
        if isinstance(self.low, int) and isinstance(self.high, int) and self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


Initializer = Annotated[
    NormalInit
    | UniformInit
    | IntegersInit
    | DistinctInit
    | IndptrInit
    | ConstantInit
    | ArangeInit
    | ProbabilitiesInit
    | BernoulliInit
    | ChoiceInit
    | LengthsInit,
    Field(discriminator="kind"),
]
"""Any initialiser, told apart by `kind`."""
