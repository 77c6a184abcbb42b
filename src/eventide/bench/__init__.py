"""The kernel bench: definitions, workloads, solutions and traces; runner, leaderboard, apply and capture.

Names are loaded on first use, so that the schema needs pydantic alone, and torch is imported only where a solution
runs:

    >>> from eventide.bench import TraceSet
    >>> data = TraceSet.load("my_dataset")                                    # doctest: +SKIP
    >>> data.definitions["rmsnorm_h4096"].var_axes                            # doctest: +SKIP
    ['batch_size']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_SCHEMA = [
    "EXTENSION_VERSION",
    "AxisConst",
    "AxisSpec",
    "AxisVar",
    "BuildSpec",
    "Correctness",
    "DType",
    "Definition",
    "DefinitionExtension",
    "DeviceState",
    "Environment",
    "Evaluation",
    "EvaluationExtension",
    "EvaluationStatus",
    "ExtendedDType",
    "Initializer",
    "InputSpec",
    "MegakernelTask",
    "Performance",
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
    "Workload",
    "WorkloadExtension",
]

_HOME: dict[str, str] = {
    **dict.fromkeys(_SCHEMA, "schema"),
    "TraceSet": "dataset",
    "ApplyConfig": "apply_index",
    "TracingConfig": "capture_policy",
    **dict.fromkeys(("Tracer", "capture", "disable_tracing", "enable_tracing"), "capture_api"),
    **dict.fromkeys(("RunReport", "Selection", "Settings", "SettingsLayers", "run_benchmark"), "runner"),
    **dict.fromkeys(("Applier", "apply", "disable_apply", "enable_apply"), "apply_api"),
}

if TYPE_CHECKING:
    from .apply_api import Applier as Applier
    from .apply_api import apply as apply
    from .apply_api import disable_apply as disable_apply
    from .apply_api import enable_apply as enable_apply
    from .apply_index import ApplyConfig as ApplyConfig
    from .capture_api import Tracer as Tracer
    from .capture_api import capture as capture
    from .capture_api import disable_tracing as disable_tracing
    from .capture_api import enable_tracing as enable_tracing
    from .capture_policy import TracingConfig as TracingConfig
    from .dataset import TraceSet as TraceSet
    from .runner import RunReport as RunReport
    from .runner import Selection as Selection
    from .runner import Settings as Settings
    from .runner import SettingsLayers as SettingsLayers
    from .runner import run_benchmark as run_benchmark
    from .schema import EXTENSION_VERSION as EXTENSION_VERSION
    from .schema import AxisConst as AxisConst
    from .schema import AxisSpec as AxisSpec
    from .schema import AxisVar as AxisVar
    from .schema import BuildSpec as BuildSpec
    from .schema import Correctness as Correctness
    from .schema import Definition as Definition
    from .schema import DefinitionExtension as DefinitionExtension
    from .schema import DeviceState as DeviceState
    from .schema import DType as DType
    from .schema import Environment as Environment
    from .schema import Evaluation as Evaluation
    from .schema import EvaluationExtension as EvaluationExtension
    from .schema import EvaluationStatus as EvaluationStatus
    from .schema import ExtendedDType as ExtendedDType
    from .schema import Initializer as Initializer
    from .schema import InputSpec as InputSpec
    from .schema import MegakernelTask as MegakernelTask
    from .schema import Performance as Performance
    from .schema import RandomInput as RandomInput
    from .schema import Roofline as Roofline
    from .schema import SafetensorsInput as SafetensorsInput
    from .schema import ScalarInput as ScalarInput
    from .schema import Solution as Solution
    from .schema import SolutionExtension as SolutionExtension
    from .schema import SourceFile as SourceFile
    from .schema import SupportedBindings as SupportedBindings
    from .schema import SupportedLanguages as SupportedLanguages
    from .schema import TensorSpec as TensorSpec
    from .schema import Timing as Timing
    from .schema import Trace as Trace
    from .schema import Workload as Workload
    from .schema import WorkloadExtension as WorkloadExtension

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
