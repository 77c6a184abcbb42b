"""Workload, Evaluation and Trace: concrete inputs, what came out, and the two joined in one line of a file.

    {"definition": "rmsnorm_h4096", "solution": null, "evaluation": null,
     "workload": {"axes": {"batch_size": 7}, "inputs": {"x": {"type": "random"}, ...}, "uuid": "33bf..."}}

A trace without solution and evaluation is how a workload is stored. Status decides which blocks an evaluation has:

    PASSED                                    correctness and performance
    INCORRECT_NUMERICAL                       correctness
    INCORRECT_SHAPE, INCORRECT_DTYPE,
    RUNTIME_ERROR, COMPILE_ERROR, TIMEOUT     neither
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, PlainSerializer, field_validator, model_validator

from .schema_base import (
    ErrorValue,
    Extension,
    ExtensionBlock,
    Flag,
    Latency,
    NonEmptyText,
    Real,
    Record,
    Size,
    StrEnum,
    Text,
    read_number,
    write_number,
)
from .schema_init import Initializer
from .schema_solution import check_relative_path

Interval = tuple[Real, Real]
"""Lower and upper end."""


class RandomInput(Record):
    """Drawn when the workload runs."""

    type: Literal["random"]


def _read_scalar(value: object) -> object:
    return value if isinstance(value, bool) else read_number(value)


class ScalarInput(Record):
    """A Python number."""

    type: Literal["scalar"]
    value: Annotated[
        Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)],
        BeforeValidator(_read_scalar),
        PlainSerializer(write_number, return_type=Any, when_used="json"),
    ]


class SafetensorsInput(Record):
    """A tensor of a file beside the workloads."""

    type: Literal["safetensors"]
    path: NonEmptyText
    """Relative to the root of the data set."""
    tensor_key: NonEmptyText

    @field_validator("path")
    @classmethod
    def _path_stays_inside(cls, path: str) -> str:
        return check_relative_path(path)


InputSpec = Annotated[RandomInput | ScalarInput | SafetensorsInput, Field(discriminator="type")]


class WorkloadExtension(ExtensionBlock):
    """What Eventide adds to a workload."""

    seed: Size | None = None
    """Seed for the random inputs; the runner derives one from the uuid where it is absent."""
    init: dict[NonEmptyText, Initializer] | None = None
    """Initialisers of this workload; they go before the definition's."""


class Workload(Record):
    """Concrete axes and inputs of a definition."""

    axes: dict[Text, Size]
    """Length of each var axis."""
    inputs: dict[Text, InputSpec]
    uuid: NonEmptyText
    eventide: WorkloadExtension | None = None


class EvaluationStatus(StrEnum):
    """How a run ended."""

    PASSED = "PASSED"
    INCORRECT_SHAPE = "INCORRECT_SHAPE"
    INCORRECT_NUMERICAL = "INCORRECT_NUMERICAL"
    INCORRECT_DTYPE = "INCORRECT_DTYPE"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    COMPILE_ERROR = "COMPILE_ERROR"
    TIMEOUT = "TIMEOUT"

    @property
    def has_correctness(self) -> bool:
        """Whether an evaluation of this status has a correctness block."""
        return self in (EvaluationStatus.PASSED, EvaluationStatus.INCORRECT_NUMERICAL)

    @property
    def has_performance(self) -> bool:
        """Whether an evaluation of this status has a performance block."""
        return self is EvaluationStatus.PASSED


class Environment(Record):
    """Where it ran."""

    hardware: NonEmptyText
    libs: dict[Text, Text] = {}
    """Versions by package name."""


class Correctness(Record):
    """Largest errors against the reference; >= 0, or NaN where they have no value."""

    max_relative_error: ErrorValue = 0.0
    max_absolute_error: ErrorValue = 0.0
    extra: dict[str, Any] | None = None


class Performance(Record):
    """Latencies in milliseconds, >= 0 and never NaN."""

    latency_ms: Latency = 0.0
    reference_latency_ms: Latency = 0.0
    speedup_factor: Latency = 0.0
    """Reference latency / latency."""


class Timing(Extension):
    """Raw samples and what they say."""

    samples_ms: list[list[Real]] | None = None
    """Latency of each timed iteration, one list a trial."""
    reference_samples_ms: list[list[Real]] | None = None
    """The same for the reference, interleaved with the solution's."""
    confidence: Annotated[Real, Field(gt=0, lt=1)] = 0.95
    """Of the intervals below."""
    latency_ms: Interval | None = None
    reference_latency_ms: Interval | None = None
    speedup_factor: Interval | None = None
    method: dict[str, JsonValue] = {}
    """How it was timed: clock, cache state, iterations, what bounds the interval."""


class DeviceState(Extension):
    """Clocks and temperature while timing, means over the run."""

    sm_clock_mhz: Real | None = None
    memory_clock_mhz: Real | None = None
    temperature_c: Real | None = None
    power_w: Real | None = None
    throttled: Flag | None = None
    notes: dict[str, JsonValue] | None = None


class Roofline(Extension):
    """How near to what the hardware can do."""

    flops: Real | None = None
    """Floating-point operations of one call."""
    bytes: Real | None = None
    """Bytes that one call must move."""
    tflops: Real | None = None
    """Achieved, 10^12 operations a second."""
    gb_per_s: Real | None = None
    """Achieved, 10^9 bytes a second."""
    fraction_of_peak: Real | None = None
    """Of the nearer ceiling."""
    bound: Literal["compute", "memory"] | None = None


class EvaluationExtension(ExtensionBlock):
    """What Eventide adds to an evaluation."""

    solution_hash: NonEmptyText | None = None
    """Content hash of the solution that ran."""
    evaluator: NonEmptyText | None = None
    seed: Size | None = None
    reason: Text | None = None
    """One sentence on why the run did not pass, or was voided."""
    timing: Timing | None = None
    device: DeviceState | None = None
    roofline: Roofline | None = None
    settings: dict[str, JsonValue] | None = None
    """Tolerances, counts and limits that were in force."""


class Evaluation(Record):
    """The outcome of one solution on one workload."""

    status: EvaluationStatus
    environment: Environment
    timestamp: NonEmptyText
    log: Text = ""
    correctness: Correctness | None = None
    performance: Performance | None = None
    eventide: EvaluationExtension | None = None

    @model_validator(mode="after")
    def _blocks_fit_status(self) -> Evaluation:
        for name, block, wanted in (
            ("correctness", self.correctness, self.status.has_correctness),
            ("performance", self.performance, self.status.has_performance),
        ):
            if (block is not None) != wanted:
                verb = "needs a" if wanted else "must not have a"
                raise ValueError(f"an evaluation with status {self.status} {verb} {name} block")
        return self


class Trace(Record):
    """One line of a data set: a workload, and what a solution did with it."""

    definition: NonEmptyText
    workload: Workload
    solution: Text | None = None
    evaluation: Evaluation | None = None

    @property
    def uuid(self) -> str:
        """The workload's."""
        return self.workload.uuid

    @property
    def axes(self) -> dict[str, int]:
        """The workload's."""
        return self.workload.axes

    @property
    def inputs(self) -> dict[str, RandomInput | ScalarInput | SafetensorsInput]:
        """The workload's."""
        return self.workload.inputs

    @property
    def is_workload(self) -> bool:
        """Whether this is only a workload."""
        return self.solution is None and self.evaluation is None

    @property
    def passed(self) -> bool:
        """Whether a solution ran and passed."""
        return self.evaluation is not None and self.evaluation.status is EvaluationStatus.PASSED
