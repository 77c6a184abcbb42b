"""Calls on a CUDA device: inputs are drawn or copied there before the clock runs, outputs copied back after it stopped.

The time of a call is between two events on the current stream, with the L2 cache flushed before the first. Work that
the solution left on other streams is looked for in two ways: the device may not still be busy after the closing event,
and the outputs as they were at that event are compared with the outputs after the whole device has come to rest.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from eventide.bench.worker import results
from eventide.bench.worker.arrays import Arena, TensorInfo, to_torch, torch_dtype
from eventide.bench.worker.load import Loaded

LATE_NS = 200_000  # the device may need this long to report that it is idle


class CudaSide:
    """Bound arguments of one workload on `device`."""

    def __init__(
        self,
        loaded: Loaded,
        device: str,
        inputs: list[TensorInfo],
        outputs: list[TensorInfo],
        arenas: tuple[Arena, Arena],
        *,
        slots: int,
        destination_passing: bool,
        cast: bool = False,
    ) -> None:
        self.cast = cast
        self.device = torch.device(device)
        self.inputs, self.outputs, self.arenas = inputs, outputs, arenas
        self.destination_passing = destination_passing
        self.results: dict[int, Any] = {}
        self._function = loaded.function
        self._clock = time.perf_counter_ns
        self._keep: list[Any] = []
        self._in = [[self._empty(info) for info in inputs] for _ in range(slots)]
        self._out = [[self._empty(info) for info in outputs] for _ in range(slots)]
        pointers = loaded.style == "pointers"
        self._arguments = []
        for slot in range(slots):
            given = list(zip(inputs, self._in[slot]))
            given += list(zip(outputs, self._out[slot])) if destination_passing else []
            self._arguments.append(tuple(self._argument(i, t) if pointers else t for i, t in given))
        l2_bytes = int(torch.cuda.get_device_properties(self.device).L2_cache_size)
        self._flush = torch.empty(max(2 * l2_bytes, 1 << 26), dtype=torch.uint8, device=self.device)
        self._watch: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._originals: dict[int, list[Any]] = {}
        self._early: dict[int, list[Any]] = {}
        self._busy = False

    def _empty(self, info: TensorInfo) -> Any:
        if info.shape is None:
            return info.value
        flat = torch.zeros(info.num_bytes, dtype=torch.uint8, device=self.device).view(torch_dtype(info.dtype))
        return flat.reshape(info.stored_shape)

    def _argument(self, info: TensorInfo, tensor: Any) -> Any:
        from eventide.bench.worker import calls

        if info.shape is None:
            return calls.c_argument(info.value)
        place = calls.describe(tensor.data_ptr(), info.shape, info.dtype, (2, self.device.index or 0))
        self._keep.append(place)
        return calls.c_argument(place)

    def prepare(self, message: dict[str, Any]) -> dict[str, Any]:
        """Fresh inputs and poisoned outputs in each slot, then a cold L2 and an idle device."""
        for slot, seed in zip(message["slots"], message["seeds"]):
            for index, (info, tensor) in enumerate(zip(self.inputs, self._in[slot])):
                if info.shape is None:
                    continue
                if info.generate:
                    _draw(tensor, info.generate, seed + index)
                else:
                    tensor.copy_(to_torch(self.arenas[0].view(info, slot), info.dtype))
            for info, tensor in zip(self.outputs, self._out[slot]):
                if info.shape is not None and self.destination_passing:
                    _raw(tensor).fill_(message["poison"])
        self._originals = (
            {s: [_copy(t) for t in self._in[s]] for s in message["slots"]} if message["watch_inputs"] else {}
        )
        if message["flush"]:
            self._flush.fill_(1)
        torch.cuda.synchronize(self.device)
        return {}

    def go(self, message: dict[str, Any]) -> dict[str, Any]:
        """One call per slot, `repeat` rounds, between two events; replies with nanoseconds of device time."""
        slots: list[int] = message["slots"]
        function = (lambda *_: None) if message.get("null") else self._function
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(message["repeat"]):
            for slot in slots:
                self.results[slot] = function(*self._arguments[slot])
        end.record()
        end.synchronize()
        self._early = {}
        if self.destination_passing:
            with torch.cuda.stream(self._watch):  # does not wait for the solution's streams
                self._early = {slots[0]: [_copy(t) for t in self._out[slots[0]]]}
            self._watch.synchronize()
        copied = self._clock()
        torch.cuda.synchronize(self.device)
        self._busy = self._clock() - copied > LATE_NS
        return {"ns": int(start.elapsed_time(end) * 1e6), "probe": ""}

    def inspect(self, message: dict[str, Any]) -> dict[str, Any]:
        """Copy a slot's outputs to the host and say what was found after the last call."""
        slot = message["slot"]
        reply: dict[str, Any] = {}
        if self._busy:
            reply["late"] = "the device was still busy after the closing event: work was left on another stream"
        if any(not _same(a, b) for a, b in zip(self._early.get(slot, []), self._out[slot])):
            reply["late"] = "outputs changed after the closing event: work was left on another stream"
        if any(not _same(a, b) for a, b in zip(self._originals.get(slot, []), self._in[slot])):
            reply["mutated"] = True
        values = self._out[slot] if self.destination_passing else results.as_list(self.results[slot], self.outputs)
        for value, info in zip(values, self.outputs):
            if isinstance(value, torch.Tensor) and value.device != self.device:
                raise results.ResultError("RUNTIME_ERROR", f"{info.name}: expected {self.device}, got {value.device}")
            results.store(value, info, self.arenas[1], slot, cast=self.cast)
        return reply


def _raw(tensor: Any) -> Any:
    return tensor.reshape(-1).view(torch.uint8)


def _copy(value: Any) -> Any:
    return _raw(value).clone() if isinstance(value, torch.Tensor) else value


def _same(before: Any, now: Any) -> bool:
    return not isinstance(now, torch.Tensor) or torch.equal(before, _raw(now))


def _draw(tensor: Any, how: dict[str, Any], seed: int) -> None:
    """Fill `tensor` from its declaration; the same seed gives the same bits in every process on one kind of device."""
    generator = torch.Generator(tensor.device).manual_seed(seed)
    kind, shape = how["kind"], tensor.shape
    if kind == "integers":
        values = torch.randint(how["low"], how["high"], shape, generator=generator, device=tensor.device)
    elif kind == "uniform":
        values = torch.rand(shape, generator=generator, device=tensor.device)
        values = values * (how["high"] - how["low"]) + how["low"]
    else:
        values = torch.randn(shape, generator=generator, device=tensor.device) * how["std"] + how["mean"]
        if kind == "probabilities":
            values = torch.softmax(values, dim=-1)
    limit = how.get("clip")
    tensor.copy_(values.clamp(-limit, limit) if limit else values)
