"""The inputs of a workload: what is fixed, what is drawn afresh for every call, and how a valid value is drawn.

    plan = plan_inputs(definition, workload, blob_file)     # once
    plan.fill(seed=(7, 3), place=...)                       # for every timed iteration: same seed, same bits

Sources of a value, in this order: a scalar or a safetensors file of the workload; an initialiser of the workload, then
of the definition; else noise of the type (normal floats, integers in [0, 1000), [-128, 128) for int8, fair booleans)
or, for the sampling operators' inputs, what their names mean.

When nothing of a workload is random, a cached output could not be told from an honest one. The elements of each
floating-point tensor are then permuted along its last axis, which keeps norms, sums and probability rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from eventide.bench.schema import (
    ArangeInit,
    BernoulliInit,
    ChoiceInit,
    ConstantInit,
    Definition,
    DistinctInit,
    IndptrInit,
    Initializer,
    IntegersInit,
    LengthsInit,
    NormalInit,
    ProbabilitiesInit,
    RandomInput,
    ScalarInput,
    UniformInit,
    Workload,
    evaluate,
)
from eventide.bench.worker.arrays import PACKED, Array, TensorInfo, numpy_dtype
from eventide.errors import BenchError, SchemaError

_FLOAT_LIMIT = {"float8_e4m3fn": 448.0, "float8_e4m3fnuz": 240.0, "float8_e5m2": 57344.0, "float8_e5m2fnuz": 57344.0}
_ST_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
DEVICE_KINDS = (NormalInit, UniformInit, IntegersInit, ProbabilitiesInit)


@dataclass(frozen=True)
class Source:
    """Where one input comes from: fixed bytes, or an initialiser."""

    info: TensorInfo
    fixed: Array | None = None
    init: Initializer | None = None
    permuted: bool = False


class InputPlan:
    """All inputs of one workload."""

    def __init__(self, sources: list[Source], axes: Mapping[str, int]) -> None:
        self.sources, self.axes = sources, dict(axes)

    @property
    def infos(self) -> list[TensorInfo]:
        return [source.info for source in self.sources]

    @property
    def varies(self) -> bool:
        """Whether two seeds give different inputs."""
        return any(s.init is not None or s.permuted for s in self.sources)

    def fill(self, seed: tuple[int, ...], place: Callable[[TensorInfo], Array]) -> None:
        """Write every input drawn for `seed` to the array that `place` gives for it."""
        for index, source in enumerate(self.sources):
            if source.info.shape is None or source.info.generate:
                continue
            rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence((*seed, index))))
            target = place(source.info)
            if source.fixed is None:
                assert source.init is not None
                draw(rng, source.init, target, source.info, self.axes)
            elif source.permuted and target.size:
                target[...] = rng.permuted(source.fixed.view(_plain(source.fixed)), axis=-1).view(source.fixed.dtype)
            else:
                target[...] = source.fixed

    def on_device(self, min_bytes: int = 1 << 20) -> InputPlan:
        """A plan whose large noise is drawn by the device instead of being sent there."""
        sources = []
        for source in self.sources:
            how = source.init
            if isinstance(how, DEVICE_KINDS) and source.info.dtype not in PACKED and source.info.num_bytes >= min_bytes:
                text = how.model_dump()
                for name in ("low", "high"):
                    if isinstance(text.get(name), str):
                        text[name] = evaluate(text[name], self.axes)
                if isinstance(how, ProbabilitiesInit):
                    text |= {"mean": 0.0, "std": 1.0 / how.temperature}
                text["clip"] = _FLOAT_LIMIT.get(source.info.dtype)
                source = replace(source, info=replace(source.info, generate=text))
            sources.append(source)
        return InputPlan(sources, self.axes)


def _plain(array: Array) -> np.dtype[Any]:
    return np.dtype({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize])


def plan_inputs(
    definition: Definition,
    workload: Workload,
    blob_file: Callable[[Any], Path] | None = None,
) -> InputPlan:
    """Decide for every input where its values come from. Raises BenchError, naming the input, when that is
    impossible."""
    axes = {**workload.axes, **definition.const_axes}
    own = (workload.eventide.init if workload.eventide else None) or {}
    declared = (definition.eventide.init if definition.eventide else None) or {}
    try:
        shapes = definition.get_input_shapes(workload.axes)
    except ValueError as error:
        raise BenchError(f"workload {workload.uuid}: {error}") from None
    sources = []
    for name, shape in zip(definition.inputs, shapes):
        given = workload.inputs.get(name)
        info = TensorInfo(name, definition.dtype_of(name), shape)
        if given is None:
            if not definition.is_optional(name):
                raise BenchError(f"workload {workload.uuid} of {definition.name} has no input {name!r}")
            sources.append(Source(replace(info, shape=None)))
        elif isinstance(given, ScalarInput):
            if shape is not None:
                raise BenchError(f"workload {workload.uuid}: {name!r} is a tensor of shape {shape}, got a scalar")
            sources.append(Source(replace(info, value=_as_declared(given.value, info, workload))))
        elif isinstance(given, RandomInput):
            init = own.get(name) or declared.get(name) or default_init(definition, name, axes)
            if shape is None:
                value = np.zeros(1, dtype=numpy_dtype(info.dtype))
                draw(np.random.default_rng(0), init, value, replace(info, shape=(1,)), axes)
                sources.append(Source(replace(info, value=value[0].item())))
            else:
                sources.append(Source(info, init=init))
        else:
            if blob_file is None:
                raise BenchError(f"workload {workload.uuid}: {name!r} lies in a file, but the data set has no folder")
            sources.append(Source(info, fixed=_read_fixed(blob_file(given), given.tensor_key, info)))
    plan = InputPlan(sources, axes)
    if not plan.varies:
        sources = [
            replace(s, permuted=s.fixed is not None and s.fixed.ndim > 0 and "float" in s.info.dtype) for s in sources
        ]
        plan = InputPlan(sources, axes)
    return plan


def _as_declared(value: bool | int | float, info: TensorInfo, workload: Workload) -> bool | int | float:
    """A scalar as the definition declares it: compiled code takes a float and an integer differently, and files have 1
    for 1.0."""
    if "float" in info.dtype:
        return float(value)
    if info.dtype == "bool":
        return bool(value)
    if value != value or abs(value) == math.inf or int(value) != value:
        raise BenchError(f"workload {workload.uuid}: {info.name!r} is {info.dtype}, got {value}")
    return int(value)


def _read_fixed(path: Path, key: str, info: TensorInfo) -> Array:
    array = read_safetensors(path, key)
    wanted = numpy_dtype(info.dtype)
    if array.shape != info.stored_shape or array.dtype.itemsize != wanted.itemsize:
        raise BenchError(
            f"{path}: tensor {key!r} should be {info.dtype} of shape {list(info.stored_shape)}, "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    return array.view(wanted)


def read_safetensors(path: Path, key: str) -> Array:
    """One tensor of a safetensors file, mapped, of any type that the format knows. Raises BenchError."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < path.stat().st_size:
                raise ValueError("its header is damaged")
            header = json.loads(file.read(length))
        entry = header[key]
        start, end = entry["data_offsets"]
        dtype = numpy_dtype(_ST_DTYPES[entry["dtype"]])
        raw = (
            np.memmap(path, np.uint8, "r", 8 + length + start, (end - start,)) if end > start else np.empty(0, np.uint8)
        )
        array: Array = np.asarray(raw).view(dtype).reshape(entry["shape"])
        return array
    except FileNotFoundError:
        raise BenchError(f"{path} does not exist; a workload of the data set needs it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path} holds no readable tensor {key!r}: {error}") from None


def default_init(definition: Definition, name: str, axes: Mapping[str, int]) -> Initializer:
    """What a random input is when nobody declared it."""
    dtype = definition.dtype_of(name)
    if definition.op_type == "sampling":
        vocab = axes.get("vocab_size", 2)
        known: dict[str, Initializer] = {
            "probs": ProbabilitiesInit(),
            "top_k": IntegersInit(low=1, high=max(2, vocab)),
            "top_p": UniformInit(low=0.1, high=1.0),
            "min_p": UniformInit(low=0.0, high=0.2),
            "temperature": UniformInit(low=0.5, high=1.5),
        }
        if name in known:
            return known[name]
    if dtype == "bool":
        return BernoulliInit()
    if "float" in dtype:
        return NormalInit()
    return (
        IntegersInit(low=-128, high=128)
        if dtype == "int8"
        else IntegersInit(low=0, high=256 if dtype == "uint8" else 1000)
    )


def draw(rng: np.random.Generator, init: Initializer, target: Array, info: TensorInfo, axes: Mapping[str, int]) -> None:
    """Fill `target` from an initialiser; raises SchemaError when its bounds are impossible."""
    if info.dtype in PACKED:
        target[...] = rng.integers(0, 256, target.shape, dtype=np.uint8)
        return
    shape = target.shape

    def size(value: int | str) -> int:
        return int(evaluate(value, axes)) if isinstance(value, str) else int(value)

    values: Any
    if isinstance(init, NormalInit):
        values = rng.standard_normal(shape, dtype=np.float32)
        if init.std != 1.0 or init.mean != 0.0:
            values = values * np.float32(init.std) + np.float32(init.mean)
    elif isinstance(init, UniformInit):
        values = rng.random(shape, dtype=np.float32) * np.float32(init.high - init.low) + np.float32(init.low)
    elif isinstance(init, IntegersInit):
        values = _integers(rng, size(init.low), size(init.high), shape, info)
    elif isinstance(init, DistinctInit):
        values = _distinct(rng, size(init.low), size(init.high), shape, info)
    elif isinstance(init, IndptrInit):
        values = _indptr(rng, size(init.total), size(init.min_len), shape, info)
    elif isinstance(init, LengthsInit):
        values = _lengths(
            rng, size(init.low), size(init.high), None if init.total is None else size(init.total), shape, info
        )
    elif isinstance(init, ConstantInit):
        values = init.value
    elif isinstance(init, ArangeInit):
        values = (size(init.start) + size(init.step) * np.arange(math.prod(shape))).reshape(shape)
    elif isinstance(init, ProbabilitiesInit):
        logits = rng.standard_normal(shape, dtype=np.float32) / np.float32(init.temperature)
        logits = np.exp(logits - logits.max(axis=-1, keepdims=True))
        values = logits / logits.sum(axis=-1, keepdims=True)
    elif isinstance(init, BernoulliInit):
        values = rng.random(shape) < init.p
    else:
        assert isinstance(init, ChoiceInit)
        values = rng.choice(np.asarray(init.values), size=shape)
        values = np.sort(values, axis=-1) if init.ordered else values
    limit = _FLOAT_LIMIT.get(info.dtype)
    target[...] = np.clip(values, -limit, limit) if limit else values


def _integers(rng: np.random.Generator, low: int, high: int, shape: tuple[int, ...], info: TensorInfo) -> Array:
    if high <= low:
        raise SchemaError(f"{info.name}: integers in [{low}, {high}) do not exist; mend its initialiser")
    return rng.integers(low, high, shape)


def _distinct(rng: np.random.Generator, low: int, high: int, shape: tuple[int, ...], info: TensorInfo) -> Array:
    width = shape[-1] if shape else 1
    if high - low < width:
        raise SchemaError(f"{info.name}: {width} distinct integers do not fit in [{low}, {high}); mend its initialiser")
    rows = [rng.choice(high - low, size=width, replace=False) + low for _ in range(math.prod(shape[:-1]))]
    return np.asarray(rows, dtype=np.int64).reshape(shape)


def _split(rng: np.random.Generator, total: int, parts: int) -> Array:
    """`parts` non-negative integers that add up to `total`."""
    cuts = np.sort(rng.integers(0, total + 1, parts - 1))
    return np.diff(np.concatenate(([0], cuts, [total])))


def _indptr(rng: np.random.Generator, total: int, shortest: int, shape: tuple[int, ...], info: TensorInfo) -> Array:
    rows = shape[-1] - 1 if shape else 0
    free = total - shortest * rows
    if free < 0 or (rows == 0 and total):
        raise SchemaError(
            f"{info.name}: {rows} rows of at least {shortest} do not add up to {total}; mend its initialiser"
        )
    made = []
    for _ in range(math.prod(shape[:-1])):
        lengths = _split(rng, free, rows) + shortest if rows else np.zeros(0, np.int64)
        made.append(np.concatenate(([0], np.cumsum(lengths))))
    return np.asarray(made, dtype=np.int64).reshape(shape)


def _lengths(
    rng: np.random.Generator, low: int, high: int, total: int | None, shape: tuple[int, ...], info: TensorInfo
) -> Array:
    count = math.prod(shape)
    if low > high or (total is not None and not low * count <= total <= high * count):
        raise SchemaError(
            f"{info.name}: {count} lengths in [{low}, {high}] cannot add up to {total}; mend its initialiser"
        )
    values = rng.integers(low, high + 1, count)
    while total is not None and (gap := total - int(values.sum())):
        # move single units, many at a time, only where a bound leaves room
        room = np.flatnonzero(values < high if gap > 0 else values > low)
        chosen = rng.choice(room, size=min(abs(gap), len(room)), replace=False)
        values[chosen] += 1 if gap > 0 else -1
    return values.reshape(shape)
