"""The CPU's own tile functions, for the interpreter: so the two can be compared bit by bit.

    kernel = CpuKernel(plan); kernel.bind_weights(...)
    tiles = CpuTiles(kernel)
    interp = Interpreter(plan, weights, states, tile_fn=tiles)
    tiles.arrays = interp.arrays                      where maps find their run-time tables

The interpreter hands out arrays that hold exactly the regions of one task; CPU code takes whole tensors. So every region is
placed where it belongs in a tensor full of NaN, the task runs, and the regions that it writes are taken out again:
a task that reads outside its regions computes NaN, one that writes outside them is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..dtypes import itemsize, to_numpy
from ..errors import PlanError
from ..ir.instance import indices
from ..ir.nodes import Access, TaskGrid
from .base import Array, shape_of
from .cpu import CpuKernel
from .interp import Tile


class CpuTiles:
    """A tile function of the interpreter that calls the operators' compiled CPU code."""

    def __init__(self, kernel: CpuKernel) -> None:
        self.kernel, self.plan = kernel, kernel.plan
        self.arrays: Mapping[str, Any] = {}
        self._whole: dict[tuple[str, tuple[int, ...]], Array] = {}

    def __call__(self, grid: TaskGrid, tile: Tile) -> None:
        env = {**tile.symbols, **tile.coord}
        operands: dict[str, Array] = {}
        placed: dict[str, tuple[Access, Any]] = {}
        # operands that name one tensor share its memory, as they do in a real run
        memory: dict[str, Array] = {}
        for a in grid.accesses:
            t = self.plan.tensors[a.tensor]
            if t.role == "weight":
                continue
            if t.role == "input" and not a.writes:
                operands[a.operand] = np.ascontiguousarray(self.arrays[a.tensor])
                continue
            if a.tensor not in memory:
                memory[a.tensor] = self._tensor(a.tensor, shape_of(t, tile.symbols))
            where = _open(indices(a.region, env, self.arrays))
            placed[a.operand] = (a, where)
            operands[a.operand] = memory[a.tensor]
            if a.reads:
                memory[a.tensor][where] = tile.arrays[a.operand]
        coords = [tile.coord[name] for name in grid.axis_names]
        self.kernel.run_task(grid.name, tile.symbols, coords, operands)
        for name, (a, where) in placed.items():
            if a.writes:
                tile.arrays[name][...] = operands[name][where]
        for _, (a, where) in placed.items():
            _poison(memory[a.tensor], where)
        for name, whole in memory.items():
            if not bool(np.all(whole.reshape(-1).view(np.uint8) == 0xFF)):
                raise PlanError(f"a task of grid '{grid.name}' at {coords} wrote to '{name}' outside its region")

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        found = self._whole.get((name, shape))
        if found is None:
            dtype = self.plan.tensors[name].dtype
            raw = np.full(int(np.prod(shape)) * itemsize(dtype), 0xFF, np.uint8)
            found = self._whole[name, shape] = raw.view(to_numpy(dtype)).reshape(shape)
        return found


def _open(idx: list[Any]) -> Any:
    if all(isinstance(i, slice) for i in idx):
        return tuple(idx)
    return np.ix_(*(np.arange(i.start, i.stop) if isinstance(i, slice) else i for i in idx))


def _poison(array: Array, where: Any) -> None:
    # element-wise: a view as bytes would not keep the index
    shape = array[where].shape
    raw = np.full(int(np.prod(shape)) * array.itemsize, 0xFF, np.uint8)
    array[where] = raw.view(array.dtype).reshape(shape)
