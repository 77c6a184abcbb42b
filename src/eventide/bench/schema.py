"""The FlashInfer Trace format as pydantic models; nothing here imports more than pydantic.

    Definition   what is computed            definitions/<op_type>/<name>.json
    Workload     on which inputs             workloads/<op_type>/<definition>.jsonl
    Solution     by which code               solutions/<author>/<op_type>/<definition>/<name>.json
    Trace        workload + outcome          traces/<author>/<op_type>/<definition>.jsonl

`docs/bench.md` has the table of rules with the test of each. Source of the format: flashinfer-bench 0.1.2.
"""

from __future__ import annotations

from .schema_base import EXTENSION_VERSION
from .schema_definition import (
    AxisConst,
    AxisSpec,
    AxisVar,
    Definition,
    DefinitionExtension,
    DType,
    ExtendedDType,
    TensorSpec,
    dtype_bits,
)
from .schema_expr import UnevaluableError, evaluate
from .schema_init import (
    ArangeInit,
    BernoulliInit,
    ChoiceInit,
    ConstantInit,
    DistinctInit,
    IndptrInit,
    Initializer,
    IntegersInit,
    LengthsInit,
    NormalInit,
    ProbabilitiesInit,
    UniformInit,
)
from .schema_solution import (
    BuildSpec,
    MegakernelTask,
    Solution,
    SolutionExtension,
    SourceFile,
    SupportedBindings,
    SupportedLanguages,
)
from .schema_trace import (
    Correctness,
    DeviceState,
    Environment,
    Evaluation,
    EvaluationExtension,
    EvaluationStatus,
    InputSpec,
    Performance,
    RandomInput,
    Roofline,
    SafetensorsInput,
    ScalarInput,
    Timing,
    Trace,
    Workload,
    WorkloadExtension,
)

__all__ = [
    "EXTENSION_VERSION",
    "ArangeInit",
    "AxisConst",
    "AxisSpec",
    "AxisVar",
    "BernoulliInit",
    "BuildSpec",
    "ChoiceInit",
    "ConstantInit",
    "Correctness",
    "DType",
    "Definition",
    "DefinitionExtension",
    "DeviceState",
    "DistinctInit",
    "Environment",
    "Evaluation",
    "EvaluationExtension",
    "EvaluationStatus",
    "ExtendedDType",
    "IndptrInit",
    "Initializer",
    "InputSpec",
    "IntegersInit",
    "LengthsInit",
    "MegakernelTask",
    "NormalInit",
    "Performance",
    "ProbabilitiesInit",
    "RandomInput",
    "Roofline",
    "SafetensorsInput",
    "ScalarInput",
    "Solution",
    "SolutionExtension",
    "SourceFile",
    "SupportedBindings",
    "SupportedLanguages",
    "TensorSpec",
    "Timing",
    "Trace",
    "UnevaluableError",
    "UniformInit",
    "Workload",
    "WorkloadExtension",
    "dtype_bits",
    "evaluate",
]
