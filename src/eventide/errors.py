"""Every error that Eventide raises on purpose, as one tree.

    EventideError                      exit code 1
    ├── UsageError                     2   bad arguments or options
    │   ├── SamplingError                  a sampling value out of range
    │   └── PromptError                    empty, or longer than the context
    ├── CheckpointError                3   a model directory that cannot be used
    │   ├── MissingFileError               a file or shard is missing or half downloaded
    │   ├── UnsupportedModelError          unknown architecture, unsupported config feature
    │   ├── TensorError                    a tensor is missing, misshaped or mistyped
    │   └── TokenizerError                 the tokenizer does not fit the vocabulary
    ├── ProgramError                   4   an ill-formed program or operator declaration
    │   └── PlanError                      a plan that the verifier rejects
    ├── ResourceError                  5   memory, compiler, a missing optional package
    │   ├── OutOfMemoryError               needed and available are both said
    │   └── MissingDependencyError         an extra or a tool is not installed
    ├── DeviceError                    6   a device is absent, unsupported or lost
    │   └── StuckError                     a kernel stopped making progress
    └── BenchError                     7   a bench file or run that cannot be used
        └── SchemaError                    a record that breaks the trace format

A message is one sentence or two: what is wrong (name, expected, got), why, and how to mend it. The command line
prints `error: <message>` on standard error and exits with the class's ``exit_code``; it never shows a traceback for
these.
"""

from __future__ import annotations


class EventideError(Exception):
    """Base of every deliberate error."""

    exit_code: int = 1


class UsageError(EventideError, ValueError):
    exit_code = 2


class SamplingError(UsageError):
    pass


class PromptError(UsageError):
    pass


class CheckpointError(EventideError):
    exit_code = 3


class MissingFileError(CheckpointError):
    pass


class UnsupportedModelError(CheckpointError):
    pass


class TensorError(CheckpointError):
    pass


class TokenizerError(CheckpointError):
    pass


class ProgramError(EventideError):
    exit_code = 4


class PlanError(ProgramError):
    pass


class ResourceError(EventideError):
    exit_code = 5


class OutOfMemoryError(ResourceError):
    pass


class MissingDependencyError(ResourceError):
    pass


class DeviceError(EventideError):
    exit_code = 6


class StuckError(DeviceError):
    pass


class BenchError(EventideError):
    exit_code = 7


class SchemaError(BenchError):
    pass
