"""Definition: what a kernel computes. Axes, tensors over them, constraints, and a reference in Python.

    {"name": "rmsnorm_h4096", "op_type": "rmsnorm",
     "axes": {"batch_size": {"type": "var"}, "hidden_size": {"type": "const", "value": 4096}},
     "inputs": {"x": {"shape": ["batch_size", "hidden_size"], "dtype": "bfloat16"}, ...},
     "outputs": {"y": {"shape": ["batch_size", "hidden_size"], "dtype": "bfloat16"}},
     "reference": "import torch\\n\\ndef run(x, weight): ..."}

A `const` axis is part of the kernel's identity, a `var` axis is bound by the shapes of a call: here ``batch_size`` to
dimension 0 of ``x``. A shape of ``null`` is a Python scalar, ``[]`` a tensor of no dimensions. With extensions:

     "eventide": {"version": 1, "dtypes": {"pages": "uint8"}, "init": {"kv_indptr": {"kind": "indptr", ...}}}

A dtype of the extension stands beside an official dtype of the same width, which the original reads instead.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .schema_base import ExtensionBlock, NonEmptyText, Real, Record, Size, StrEnum, Text
from .schema_expr import parse_expression
from .schema_init import Expression, Initializer

Shape = tuple[int, ...] | None
"""Concrete dimensions, or None for a Python scalar."""


class DType(StrEnum):
    """The element types of the original format."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8_E4M3FN = "float8_e4m3fn"
    FLOAT8_E5M2 = "float8_e5m2"
    FLOAT4_E2M1 = "float4_e2m1"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    BOOL = "bool"


class ExtendedDType(StrEnum):
    """Element types that only the extension knows."""

    FLOAT64 = "float64"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    FLOAT8_E4M3FNUZ = "float8_e4m3fnuz"
    FLOAT8_E5M2FNUZ = "float8_e5m2fnuz"
    FLOAT8_E8M0FNU = "float8_e8m0fnu"


def dtype_bits(dtype: DType | ExtendedDType | str) -> int:
    """Bits of one element in memory (`bool` takes a byte)."""
    name = str(dtype)
    if name == "bool":
        return 8
    if name.startswith("float8"):
        return 8
    if name.startswith("float4"):
        return 4
    return int("".join(c for c in name if c.isdigit()))


class AxisConst(Record):
    """An axis whose length is part of the definition."""

    type: Literal["const"]
    value: Size
    """Length, >= 0."""
    description: Text | None = None


class AxisVar(Record):
    """An axis whose length each call brings."""

    type: Literal["var"]
    description: Text | None = None


AxisSpec = Annotated[AxisConst | AxisVar, Field(discriminator="type")]


class TensorSpec(Record):
    """An input or output."""

    shape: list[NonEmptyText] | None
    """Names of axes; null for a Python scalar, [] for a 0-D tensor."""
    dtype: DType
    description: Text | None = None


class DefinitionExtension(ExtensionBlock):
    """What Eventide adds to a definition."""

    dtypes: dict[NonEmptyText, ExtendedDType] | None = None
    """Real element types of tensors whose `dtype` is only a carrier of the same width."""
    optional: list[NonEmptyText] | None = None
    """Inputs that a call may leave out (None)."""
    init: dict[NonEmptyText, Initializer] | None = None
    """How a valid random value of an input is drawn."""
    constraints: list[Expression] | None = None
    """Constraints that the bench evaluates on every workload before it runs."""
    evaluator: NonEmptyText | None = None
    """Name of the evaluator to use instead of the one chosen by the operator type."""
    rtol: Annotated[Real, Field(ge=0)] | None = None
    atol: Annotated[Real, Field(ge=0)] | None = None
    required_matched_ratio: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Share of elements that must be within the limits."""
    flops: Expression | None = None
    """Floating-point operations of a call, over the axes; for the roofline."""
    bytes: Expression | None = None
    """Bytes that a call must move, over the axes; for the roofline."""


class Definition(Record):
    """A computation to be implemented."""

    name: NonEmptyText
    """Unique in a data set."""
    op_type: NonEmptyText
    """Family, such as gemm or gqa_paged; any non-empty string."""
    axes: dict[NonEmptyText, AxisSpec]
    inputs: dict[NonEmptyText, TensorSpec]
    """In the order of the arguments of `run`."""
    outputs: dict[NonEmptyText, TensorSpec]
    """In the order of the results of `run`; names disjoint from the inputs'."""
    reference: NonEmptyText
    """Python source with a module-level `def run`."""
    tags: list[NonEmptyText] = []
    description: Text | None = None
    constraints: list[NonEmptyText] = []
    """Python expressions over axes and inputs; they must parse, and are documentation to the original."""
    eventide: DefinitionExtension | None = None

    @field_validator("reference")
    @classmethod
    def _reference_has_run(cls, source: str) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
            raise ValueError(f"the reference is not valid Python: {reason}{line}") from None
        if not any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            raise ValueError("the reference needs a module-level `def run` (not async, a lambda or nested)")
        return source

    @field_validator("constraints")
    @classmethod
    def _constraints_parse(cls, constraints: list[str]) -> list[str]:
        for text in constraints:
            parse_expression(text)
        return constraints

    @model_validator(mode="after")
    def _names_agree(self) -> Definition:
        both = sorted(self.inputs.keys() & self.outputs.keys())
        if both:
            raise ValueError(f"inputs and outputs must not share a name, but both hold {', '.join(map(repr, both))}")
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for name, spec in tensors.items():
                for axis in spec.shape or ():
                    if axis not in self.axes:
                        raise ValueError(f"{kind}.{name}.shape names the axis {axis!r}, which `axes` does not declare")
        if self.eventide is not None:
            self._check_extension(self.eventide)
        return self

    def _check_extension(self, ext: DefinitionExtension) -> None:
        tensors = {**self.inputs, **self.outputs}
        for where, names, known in (
            ("dtypes", ext.dtypes or {}, tensors),
            ("init", ext.init or {}, self.inputs),
            ("optional", ext.optional or [], self.inputs),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"eventide.{where} names {name!r}, which the definition does not declare")
        for name, dtype in (ext.dtypes or {}).items():
            carrier = tensors[name].dtype
            if dtype_bits(dtype) != dtype_bits(carrier):
                raise ValueError(
                    f"eventide.dtypes.{name} is {dtype} ({dtype_bits(dtype)} bits), but its carrier {carrier} has "
                    f"{dtype_bits(carrier)}: give `dtype` an official type of the same width"
                )

    @cached_property
    def const_axes(self) -> dict[str, int]:
        """Length of each const axis."""
        return {name: axis.value for name, axis in self.axes.items() if isinstance(axis, AxisConst)}

    @cached_property
    def var_axes(self) -> list[str]:
        """Names of the var axes, in order of declaration."""
        return [name for name, axis in self.axes.items() if isinstance(axis, AxisVar)]

    @cached_property
    def var_axes_bindings(self) -> dict[str, tuple[str, int]]:
        """Where each var axis is read: the first input that has it, and the dimension. Axes of no input are absent."""
        found: dict[str, tuple[str, int]] = {}
        for name, spec in self.inputs.items():
            for dim, axis in enumerate(spec.shape or ()):
                if axis not in found and axis not in self.const_axes:
                    found[axis] = (name, dim)
        return found

    def dtype_of(self, name: str) -> str:
        """The element type of an input or output, the extension's where it has one."""
        extended = (self.eventide.dtypes or {}).get(name) if self.eventide else None
        spec = self.inputs[name] if name in self.inputs else self.outputs[name]
        return str(extended or spec.dtype)

    def is_optional(self, name: str) -> bool:
        """Whether a call may leave the input out."""
        return self.eventide is not None and name in (self.eventide.optional or ())

    def get_input_shapes(self, var_axes_values: Mapping[str, int] | None = None) -> list[Shape]:
        """Concrete input shapes in order; raises ValueError where a var axis has no value."""
        return self._shapes(self.inputs, var_axes_values or {})

    def get_output_shapes(self, var_axes_values: Mapping[str, int] | None = None) -> list[Shape]:
        """Concrete output shapes in order; raises ValueError where a var axis has no value."""
        return self._shapes(self.outputs, var_axes_values or {})

    def _shapes(self, tensors: Mapping[str, TensorSpec], values: Mapping[str, int]) -> list[Shape]:
        lengths = {**values, **self.const_axes}
        shapes: list[Shape] = []
        for name, spec in tensors.items():
            missing = [axis for axis in spec.shape or () if axis not in lengths]
            if missing:
                raise ValueError(f"{self.name}: the shape of {name!r} needs a value for the axis {missing[0]!r}")
            shapes.append(None if spec.shape is None else tuple(lengths[axis] for axis in spec.shape))
        return shapes

    def get_axes_values(self, input_shapes: Iterable[Sequence[int] | None]) -> dict[str, int]:
        """Values of the var axes from concrete input shapes (None for scalars and absent inputs).

        Raises ValueError where a rank, a const axis or two uses of one axis disagree, or an axis stays unbound.
        """
        shapes = list(input_shapes)
        if len(shapes) != len(self.inputs):
            raise ValueError(f"{self.name} takes {len(self.inputs)} inputs, got {len(shapes)}")
        values: dict[str, int] = {}
        for (name, spec), shape in zip(self.inputs.items(), shapes):
            if spec.shape is None or (shape is None and self.is_optional(name)):
                continue
            if shape is None or len(shape) != len(spec.shape):
                got = "a scalar" if shape is None else f"{len(shape)} dimensions"
                raise ValueError(f"{self.name}: {name!r} should have {len(spec.shape)} dimensions, got {got}")
            for axis, length in zip(spec.shape, shape):
                expected = self.const_axes.get(axis, values.get(axis, int(length)))
                if expected != length:
                    raise ValueError(f"{self.name}: axis {axis!r} is {expected}, but {name!r} has {length}")
                if axis not in self.const_axes:
                    values[axis] = int(length)
        unbound = [axis for axis in self.var_axes_bindings if axis not in values]
        if unbound:
            raise ValueError(f"{self.name}: no input binds the axis {unbound[0]!r}")
        return values

    def merge_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Positional and keyword arguments as one list in the order of the inputs, then of the outputs.

        Raises ValueError for an unknown or doubled name, a gap, or a count that is neither inputs nor inputs + outputs.
        """
        names = [*self.inputs, *self.outputs]
        given: dict[str, Any] = dict(zip(names, args))
        for name, value in kwargs.items():
            if name not in names:
                raise ValueError(f"{self.name} has no argument {name!r}; it takes {', '.join(names)}")
            if name in given:
                raise ValueError(f"{self.name} got the argument {name!r} twice")
            given[name] = value
        num_in, num_all = len(self.inputs), len(names)
        count = max(len(args), len(given))
        if count == num_in and all(n in given for n in self.inputs):
            return [given[n] for n in self.inputs]
        if count == num_all:
            return [given[n] for n in names]
        raise ValueError(
            f"{self.name} takes {num_in} arguments (inputs, values are returned) or {num_all} (inputs, then outputs to "
            f"write into), got {count}"
        )
