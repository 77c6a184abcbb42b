"""What one launch is given and gives back: the parameter block, packed inputs, outputs in the host's memory.

A launch of n steps has `symbols` int32 [n, symbols], `inputs` uint8 [n, input_bytes] and `tables` uint8 [n or 1,
table_bytes] on the GPU, and `outputs` uint8 [n, output_bytes] in page-locked memory that the kernel writes to; all of them
grow as needed and are kept between launches. Tables are large inputs of several dimensions (`layout`): one row where all
steps have the same, so that thousands of steps take no more room than their positions.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dtypes import itemsize, to_numpy
from ...errors import ProgramError
from ...ir.nodes import Plan
from ...ir.tables import check, check_symbols
from ..base import Array, Outputs, StepLike, as_array, shape_of
from .driver import Device
from .layout import Layout

__all__ = ["HostBuffer", "LaunchBlock", "Packed", "Packer"]


class LaunchBlock(ctypes.Structure):
    """`ev::Launch` of device/cuda/runtime.cuh, field by field."""

    _fields_ = [
        *((n, ctypes.c_uint64) for n in (
            "args", "symbols", "inputs", "tables", "outputs", "counters", "barrier", "stop", "status", "host_stop",
            "host_progress", "trace",
        )),
        *((n, ctypes.c_int64) for n in ("input_stride", "table_stride", "output_stride")), ("spin_limit", ctypes.c_uint64),
        ("barrier_base", ctypes.c_uint32), ("first_step", ctypes.c_uint32),
        *((n, ctypes.c_int32) for n in ("num_segments", "num_steps", "first_segment", "last_segment")),
    ]  # fmt: skip


class HostBuffer:
    """Page-locked memory that grows: `take(n)` gives n bytes, the same ones every time while they suffice."""

    def __init__(self, device: Device) -> None:
        self._device, self._array = device, np.empty(0, np.uint8)

    def take(self, nbytes: int) -> Array:
        if nbytes > self._array.nbytes:
            self.close()
            self._array = self._device.host_memory(max(nbytes, 1 << 16))
        return self._array[:nbytes]

    def close(self) -> None:
        if self._array.nbytes:
            self._device.free_host_memory(self._array)
        self._array = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Packed:
    """A launch's arrays, as above."""

    symbols: Array
    inputs: Array
    tables: Array

    @property
    def num_steps(self) -> int:
        return len(self.inputs)


class Packer:
    """Turns steps into the arrays of a launch, and rows of output bytes into arrays."""

    def __init__(self, plan: Plan, layout: Layout) -> None:
        self.plan, self.layout = plan, layout
        self.inputs = [t for t in plan.tensors.values() if t.role == "input"]
        self.outputs = [t for t in plan.tensors.values() if t.role == "output"]

    def _empty(self, n: int, many_tables: bool) -> Packed:
        return Packed(
            np.zeros((n, max(len(self.layout.symbols), 1)), np.int32),
            np.zeros((n, self.layout.input_bytes), np.uint8),
            np.zeros((n if many_tables else 1, self.layout.table_bytes), np.uint8),
        )

    def steps(self, steps: Sequence[StepLike]) -> Packed:
        """Of steps that need have nothing in common. ProgramError for what doesn't fit the plan."""
        first = steps[0]
        many = any(step.inputs.get(n) is not first.inputs.get(n) for step in steps for n in self.layout.table_offsets)
        packed = self._empty(len(steps), many)
        begin = 0
        for _, group in itertools.groupby(steps, lambda step: dict(step.symbols)):
            # a prompt's steps are all of one size but the last: what they have in common is looked at once
            run = list(group)
            given = {t.name: [self._given(step.inputs, t.name) for step in run] for t in self.inputs}
            stacked = frozenset(name for name, arrays in given.items() if any(a is not arrays[0] for a in arrays))
            inputs = {name: _stack(arrays) if name in stacked else arrays[0] for name, arrays in given.items()}
            self._fill(packed, slice(begin, begin + len(run)), run[0].symbols, inputs, stacked)
            begin += len(run)
        return packed

    def loop(self, symbols: Mapping[str, int], inputs: Mapping[str, Any], n: int, stacked: frozenset[str]) -> Packed:
        """Of n steps of one size; inputs in `stacked` have a leading dimension of n."""
        if unknown := stacked - {t.name for t in self.inputs}:
            raise ProgramError(f"plan '{self.plan.name}' has no input '{min(unknown)}' to be stacked")
        packed = self._empty(n, not stacked.isdisjoint(self.layout.table_offsets))
        self._fill(packed, slice(0, n), symbols, inputs, stacked)
        return packed

    def _fill(
        self, packed: Packed, rows: slice, symbols: Mapping[str, int], inputs: Mapping[str, Any], stacked: frozenset[str]
    ) -> None:
        """Some rows of `packed` from steps of one size."""
        check_symbols(self.plan, symbols)
        n = rows.stop - rows.start
        for t in self.inputs:
            shape, many = shape_of(t, symbols), t.name in stacked
            array = as_array(t, self._given(inputs, t.name), (n, *shape) if many else shape)
            if many and any(i.kind != "within" for i in t.invariants):
                sources = stacked & {name for i in t.invariants for name in (i.of, i.at)}
                tied = [v for name, v in inputs.items() if name in sources]
                for k in _changes(array, *tied):
                    check(t, array[k], symbols, {name: v[k] if name in stacked else v for name, v in inputs.items()})
            else:
                check(t, array, symbols, inputs)
            self._put(packed, rows, t.name, array if many else array[None])
        packed.symbols[rows] = [symbols[name] for name in self.layout.symbols] or [0]

    def _given(self, inputs: Mapping[str, Any], name: str) -> Any:
        if name not in inputs:
            raise ProgramError(f"input '{name}' of plan '{self.plan.name}' was not given")
        return inputs[name]

    def _put(self, packed: Packed, rows: slice, name: str, array: Array) -> None:
        large = name in self.layout.table_offsets
        offset = (self.layout.table_offsets if large else self.layout.input_offsets)[name]
        flat = np.ascontiguousarray(array).reshape(len(array), -1)
        flat = flat.view(np.uint8) if flat.size else flat.astype(np.uint8)
        if large and len(packed.tables) == 1:
            rows = slice(0, 1)
        (packed.tables if large else packed.inputs)[rows, offset : offset + flat.shape[1]] = flat

    def small(self, symbols: Mapping[str, int], rows: Array, keep: Collection[str] | None = None) -> Outputs:
        """The small outputs (or those of `keep`) of steps of one size, [steps, ...], copied out of the rows."""
        found = {}
        for t in self.outputs:
            if keep is not None and t.name not in keep:
                continue
            if (offset := self.layout.output_offsets.get(t.name)) is not None:
                shape = shape_of(t, symbols)
                size = int(np.prod(shape)) * itemsize(t.dtype)
                data = np.ascontiguousarray(rows[:, offset : offset + size])
                found[t.name] = data.view(to_numpy(t.dtype)).reshape(len(rows), *shape).copy()
        return found


def _stack(arrays: list[Any]) -> Any:
    """[steps, ...] of one input, or what is wrong with the first that differs, for `as_array` to say."""
    shapes = [np.shape(a) for a in arrays]
    odd = next((a for a, shape in zip(arrays, shapes) if shape != shapes[0]), None)
    return np.stack([np.asarray(a) for a in arrays]) if odd is None else odd


def _changes(*tables: Any) -> list[int]:
    """The steps in which one of these tables [steps, ...] isn't what it was in the step before: those that need a look."""
    changed = np.zeros(len(tables[0]), bool)
    changed[:1] = True
    for table in tables:
        flat = np.asarray(table).reshape(len(table), -1)
        changed[1:] |= (flat[1:] != flat[:-1]).any(1)
    return [int(k) for k in np.flatnonzero(changed)]
