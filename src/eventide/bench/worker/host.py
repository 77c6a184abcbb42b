"""Calls on the CPU: arguments are views of shared memory, so nothing is copied around a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from eventide.bench.worker import results
from eventide.bench.worker.arrays import Arena, TensorInfo, to_torch
from eventide.bench.worker.load import Loaded


def _nothing(*_: Any) -> None:
    return None


class HostSide:
    """Bound arguments of one workload, `slots` times over."""

    def __init__(
        self,
        loaded: Loaded,
        framework: str,
        inputs: list[TensorInfo],
        outputs: list[TensorInfo],
        arenas: tuple[Arena, Arena],
        *,
        slots: int,
        destination_passing: bool,
        cast: bool = False,
    ) -> None:
        self.outputs = outputs
        self.cast = cast
        self.destination_passing = destination_passing
        self.arenas = arenas
        self.results: dict[int, Any] = {}
        self._function = loaded.function
        self._clock: Callable[[], int] = time.perf_counter_ns
        self._keep: list[Any] = []  # the structures that ctypes arguments point to
        make = self._pointer if loaded.style == "pointers" else (self._tensor if framework == "torch" else self._array)
        self._arguments = []
        for slot in range(slots):
            given = [make(info, arenas[0], slot) for info in inputs]
            if destination_passing:
                given += [make(info, arenas[1], slot) for info in outputs]
            self._arguments.append(tuple(given))

    def _array(self, info: TensorInfo, arena: Arena, slot: int) -> Any:
        return info.value if info.shape is None else arena.view(info, slot)

    def _tensor(self, info: TensorInfo, arena: Arena, slot: int) -> Any:
        return info.value if info.shape is None else to_torch(arena.view(info, slot), info.dtype)

    def _pointer(self, info: TensorInfo, arena: Arena, slot: int) -> Any:
        from eventide.bench.worker import calls

        if info.shape is None:
            return calls.c_argument(info.value)
        view = arena.view(info, slot)
        tensor = calls.describe(view.ctypes.data, info.shape, info.dtype)
        self._keep.append(tensor)
        return calls.c_argument(tensor)

    def prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        """The runner has written the inputs already."""
        return {}

    def go(self, message: dict[str, Any]) -> dict[str, Any]:
        """Call once per slot, `repeat` rounds; the time is of the calls alone (a single call) or of the whole loop."""
        function = _nothing if message.get("null") else self._function
        slots: list[int] = message["slots"]
        places = np.asarray(message.get("probe", []), dtype=np.int64)
        watched = self.arenas[1].bytes
        clock = self._clock
        if len(slots) == 1 and message["repeat"] == 1:
            arguments = self._arguments[slots[0]]
            start = clock()
            result = function(*arguments)
            end = clock()
            seen = watched[places].tobytes() if self.destination_passing else b""
            if not message.get("null"):
                self.results[slots[0]] = result
            return {"ns": end - start, "probe": seen.hex(), **self._store(slots)}
        batch = [self._arguments[slot] for slot in slots]
        produced = []
        start = clock()
        for _ in range(message["repeat"]):
            produced = [function(*arguments) for arguments in batch]
        end = clock()
        if not message.get("null"):
            self.results.update(zip(slots, produced))
        return {"ns": end - start, "probe": "", **self._store(slots)}

    def _store(self, slots: list[int]) -> dict[str, Any]:
        """Copy returned values to shared memory at once, so that no thread of the solution has time to mend them.

        An order that calls nothing copies the last values again: what that takes is the price of copying.
        """
        if not self.destination_passing:
            for slot in slots:
                if slot in self.results:
                    self.inspect({"slot": slot})
        return {}

    def inspect(self, message: dict[str, Any]) -> dict[str, Any]:
        """Copy the last returned values of a slot again; outputs that were passed in are in shared memory anyway."""
        slot = message["slot"]
        if not self.destination_passing:
            values = results.as_list(self.results[slot], self.outputs)
            for value, info in zip(values, self.outputs):
                results.store(value, info, self.arenas[1], slot, cast=self.cast)
        return {}
