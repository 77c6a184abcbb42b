"""Calls on a CUDA device: inputs are drawn or copied there before the clock runs, outputs copied back after it stopped.

Everything of a timed call is put on the current stream while the device is still busy with a pause, so that launching is
hidden as it is in a real program:

    pause │ staged inputs → arguments │ L2 flushed │ event │ the solution's work │ event

The arguments hold the previous call's inputs until that copy, so work that runs ahead on a stream of its own computes from
the wrong values. Work on other streams is looked for in three more ways: outputs may not change while the current stream
is held back by a long pause (`order`), the device may not still be busy after the closing event, and outputs as they were
at that event must be those after the whole device has come to rest (`inspect`).
"""

from __future__ import annotations

import time
from typing import Any

import torch

from eventide.bench.worker import results
from eventide.bench.worker.arrays import Arena, TensorInfo, to_torch, torch_dtype
from eventide.bench.worker.load import Loaded

LATE_NS = 1_000_000  # the device may need this long to report that it is idle
_PAUSE_CYCLES = 600_000  # about 0.3 ms, longer than a launch from Python
_LONG_PAUSE_CYCLES = 30_000_000  # about 15 ms
_LONG_PAUSE_NS = 5_000_000  # a call that returns within this did not wait for the long pause


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
        self._staged = [[self._empty(info) for info in inputs] for _ in range(slots)]
        self._out = [[self._empty(info) for info in outputs] for _ in range(slots)]
        pointers = loaded.style == "pointers"
        self._arguments = []
        for slot in range(slots):
            given = list(zip(inputs, self._in[slot]))
            given += list(zip(outputs, self._out[slot])) if destination_passing else []
            self._arguments.append(tuple(self._argument(i, t) if pointers else t for i, t in given))
        l2_bytes = int(torch.cuda.get_device_properties(self.device).L2_cache_size)
        self._flush = torch.empty(max(2 * l2_bytes, 1 << 26), dtype=torch.uint8, device=self.device)
        self._watch: Any = torch.cuda.Stream(self.device)
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
        """Fresh inputs staged for each slot, poisoned outputs, an idle device."""
        for slot, seed in zip(message["slots"], message["seeds"]):
            for index, (info, tensor) in enumerate(zip(self.inputs, self._staged[slot])):
                if info.shape is None:
                    continue
                if info.generate:
                    _draw(tensor, info.generate, seed + index)
                else:
                    tensor.copy_(to_torch(self.arenas[0].view(info, slot), info.dtype))
            for info, tensor in zip(self.outputs, self._out[slot]):
                if info.shape is not None and self.destination_passing:
                    _raw(tensor).fill_(message["poison"])
        torch.cuda.synchronize(self.device)
        return {}

    def _begin(self, slots: list[int], pause_cycles: int, *, flush: bool) -> None:
        torch.cuda._sleep(pause_cycles)
        for slot in slots:
            for info, staged, tensor in zip(self.inputs, self._staged[slot], self._in[slot]):
                if info.shape is not None:
                    _raw(tensor).copy_(_raw(staged))
        if flush:
            self._flush.fill_(1)

    def go(self, message: dict[str, Any]) -> dict[str, Any]:
        """One call per slot, `repeat` rounds, between two events; replies with nanoseconds of device time."""
        slots: list[int] = message["slots"]
        null = bool(message.get("null"))
        function = (lambda *_: None) if null else self._function
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        single = len(slots) * message["repeat"] == 1
        self._begin(slots, _PAUSE_CYCLES if single else _LONG_PAUSE_CYCLES, flush=bool(message["flush"]))
        start.record()
        for _ in range(message["repeat"]):
            for slot in slots:
                result = function(*self._arguments[slot])
                if not null:
                    self.results[slot] = result
        end.record()
        end.synchronize()
        self._early = {}
        if self.destination_passing:
            self._early = {slots[0]: self._snapshot(self._out[slots[0]])}
        copied = self._clock()
        torch.cuda.synchronize(self.device)
        self._busy = self._clock() - copied > LATE_NS
        return {"ns": int(start.elapsed_time(end) * 1e6), "probe": ""}

    def _snapshot(self, tensors: list[Any]) -> list[Any]:
        with torch.cuda.stream(self._watch):  # does not wait for the solution's streams
            copies = [_copy(t) for t in tensors]
        self._watch.synchronize()
        return copies

    def order(self, message: dict[str, Any]) -> dict[str, Any]:
        """One untimed call behind a long pause: nothing may be computed before the current stream gets there."""
        slot, poison = message["slot"], message["poison"]
        self._begin([slot], _LONG_PAUSE_CYCLES, flush=False)
        begun = self._clock()
        self.results[slot] = self._function(*self._arguments[slot])
        waited = self._clock() - begun > _LONG_PAUSE_NS  # it waited for the device itself, which is its right
        outputs = self._out[slot]
        if not self.destination_passing:
            outputs = results.as_list(self.results[slot], self.outputs)
        time.sleep(0.001)  # for work on other streams to get somewhere
        early = self._snapshot(outputs)
        inside = not torch.cuda.current_stream(self.device).query()
        torch.cuda.synchronize(self.device)
        ahead = False
        for before, now in zip(early, outputs):
            if isinstance(now, torch.Tensor) and now.numel():
                plain = bool((_raw(now) == _raw(now)[0]).all())  # nothing to tell a result from fresh memory by
                untouched = bool((before == poison).all()) if self.destination_passing else not _same(before, now)
                ahead = ahead or not (untouched or plain)
        if ahead and inside and not waited:
            return {
                "late": "outputs were written while the current stream was held back: the work is on another stream"
            }
        return {}

    def inspect(self, message: dict[str, Any]) -> dict[str, Any]:
        """Copy a slot's outputs to the host and say what was found after the last call."""
        slot = message["slot"]
        reply: dict[str, Any] = {}
        if self._busy:
            reply["late"] = "the device was still busy after the closing event: work was left on another stream"
        if any(not _same(a, b) for a, b in zip(self._early.get(slot, []), self._out[slot])):
            reply["late"] = "outputs changed after the closing event: work was left on another stream"
        if any(
            isinstance(b, torch.Tensor) and not _same(_raw(a), b) for a, b in zip(self._staged[slot], self._in[slot])
        ):
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
