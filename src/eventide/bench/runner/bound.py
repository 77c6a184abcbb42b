"""A worker bound to one workload: its process, the shared inputs, its own outputs, and one checked call at a time.

    shared = SharedInputs(plan, slots=4)              # one for the solution and the reference
    bound = BoundWorker(worker, shared, outputs, ...)
    shared.fill(slot=0, seed=(7, 1, 0))
    bound.prepare([0], flush=True)
    call = bound.call([0])                            # .ns by the worker, .wall_ns by this process
    bound.views(0)                                    # the outputs

On the CPU the order of events around a timed call is: worker stopped → inputs written, outputs poisoned, caches
emptied → order put into the channel → clock read → worker continued → answer → clock read → worker stopped.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eventide.bench.inputs import InputPlan
from eventide.bench.runner.process import WorkerFailure, WorkerProcess
from eventide.bench.timing.cache import CacheFlusher
from eventide.bench.worker.arrays import Arena, Array, TensorInfo, lay_out

_MOST_WAIT_NS = 50_000_000
_CLOCK_SLACK_NS = 1_000_000  # of one clock against the other
_NUM_PROBES = 32  # output bytes that the worker reads back the moment a call returns


class SharedInputs:
    """The inputs' arena, written here and mapped read-only by workers."""

    def __init__(self, plan: InputPlan, slots: int) -> None:
        self.plan, self.slots = plan, slots
        host = [replace(i, shape=(0,)) if i.generate else i for i in plan.infos]  # drawn on the device: no bytes here
        placed, self.num_bytes = lay_out(host, slots)
        self.infos = [replace(p, shape=i.shape) for p, i in zip(placed, plan.infos)]
        self._host_infos = {p.name: p for p in placed}
        self.arena = Arena.create("eventide-inputs", self.num_bytes)
        self.seeds = [0] * slots

    def fill(self, slot: int, seed: tuple[int, ...]) -> None:
        """Fresh inputs in `slot`; the same seed gives the same bits."""
        self.plan.fill(seed, lambda info: self.arena.view(self._host_infos[info.name], slot))
        self.seeds[slot] = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 2)

    def override(self, slot: int, values: dict[str, Array]) -> None:
        """Replace some inputs of `slot`."""
        for name, value in values.items():
            self.arena.view(self._host_infos[name], slot)[...] = value

    def values(self, slot: int) -> dict[str, Any]:
        """Host inputs by name; scalars are numbers."""
        return {
            i.name: i.value if i.shape is None else self.arena.view(self._host_infos[i.name], slot)
            for i in self.infos
            if not i.generate
        }

    def close(self) -> None:
        self.arena.close()


class Allowance:
    """How long a worker may still be waited for: over all requests together, or anew for each."""

    def __init__(self, seconds: float, *, per_request: bool = False) -> None:
        self.seconds, self.per_request = seconds, per_request
        self._spent = 0.0

    @property
    def left_s(self) -> float:
        return self.seconds - (0.0 if self.per_request else self._spent)

    def spend(self, seconds: float) -> None:
        self._spent += seconds


@dataclass(frozen=True)
class Call:
    """One answered order: nanoseconds by the worker's clock and by this process's, and what looked wrong."""

    ns: int
    wall_ns: int
    late: str = ""
    waited_ns: int = 0
    """How long the worker's main thread waited for a core meanwhile, which is nobody's lie."""

    @property
    def gap_ns(self) -> int:
        """What this process's clock saw beyond the worker's claim and the wait for a core."""
        return self.wall_ns - self.ns - min(self.waited_ns, _MOST_WAIT_NS)


class BoundWorker:
    """A loaded worker with arguments for every slot. Owns the process and the outputs' arena."""

    def __init__(
        self,
        worker: WorkerProcess,
        shared: SharedInputs,
        outputs: list[TensorInfo],
        *,
        cuda: bool,
        destination_passing: bool,
        cast: bool,
        flusher: CacheFlusher | None,
        allowance: Allowance,
        owns_worker: bool = True,
    ) -> None:
        self.worker, self.shared, self.cuda = worker, shared, cuda
        self.destination_passing = destination_passing
        self.outputs, num_bytes = lay_out(outputs, shared.slots)
        self.arena = Arena.create("eventide-outputs", num_bytes)
        self._flusher, self._allowance, self._owns_worker = flusher, allowance, owns_worker
        self._poisons = [0] * shared.slots
        self._flush_device = False
        self.output_bytes = sum(info.num_bytes for info in outputs)
        worker.shared_bytes = shared.num_bytes + num_bytes
        inputs_fd = shared.arena.open_read_only()
        try:
            message = {
                "op": "bind",
                "inputs": [i.to_json() for i in shared.infos],
                "outputs": [i.to_json() for i in self.outputs],
                "slots": shared.slots,
                "input_bytes": shared.num_bytes,
                "output_bytes": num_bytes,
                "cast": cast,
            }
            self.request(message, (inputs_fd, self.arena.fd))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(inputs_fd)

    def request(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        start = time.monotonic()
        try:
            return self.worker.request(message, self._allowance.left_s, fds)
        finally:
            self._allowance.spend(time.monotonic() - start)

    def views(self, slot: int) -> dict[str, Array]:
        """Outputs of `slot` by name, over shared memory."""
        return {info.name: self.arena.view(info, slot) for info in self.outputs}

    def copies(self, slot: int) -> dict[str, Array]:
        return {name: view.copy() for name, view in self.views(slot).items()}

    def untouched(self, slot: int) -> frozenset[str]:
        """Outputs of `slot` that hold nothing but the poison."""
        poison = self._poisons[slot]
        found = (i.name for i in self.outputs if i.num_bytes and self._all_poison(self.arena.view(i, slot), poison))
        return frozenset(found)

    @staticmethod
    def _all_poison(view: Array, poison: int) -> bool:
        return bool((view.reshape(-1).view(np.uint8) == poison).all())

    def prepare(self, slots: Sequence[int], *, flush: bool) -> None:
        """Everything that comes before the clock: poison, the device's inputs, cold caches (the CPU's now, a GPU's in
        its own stream)."""
        self._flush_device = flush
        # neither 0 nor 255, which honest outputs are full of
        poison = 1 + secrets.randbelow(254)
        for slot in slots:
            self._poisons[slot] = poison
            for info in self.outputs:
                self.arena.view(info, slot).reshape(-1).view(np.uint8)[...] = poison
        if self.cuda:
            message = {"op": "prepare", "slots": list(slots), "seeds": [self.shared.seeds[s] for s in slots]}
            self.request({**message, "poison": poison})
        elif flush and self._flusher is not None:
            self._flusher.flush()

    def pause(self) -> None:
        """Stop the worker, so that no thread of it runs while its next inputs become visible."""
        if not self.cuda:
            self.worker.stop()

    def call(self, slots: Sequence[int], *, repeat: int = 1, null: bool = False) -> Call:
        """One order for prepared slots. The worker is left stopped (CPU)."""
        self.pause()
        message: dict[str, Any] = {"op": "go", "slots": list(slots), "repeat": repeat, "null": null}
        message["flush"] = self._flush_device and len(slots) * repeat == 1
        places: list[int] = []
        if len(slots) == 1 and repeat == 1 and self.destination_passing and not self.cuda:
            places = self._probe_places(slots[0])
            message["probe"] = places
        allowed_s = self._allowance.left_s
        wall_ns, waited_ns, reply = self.worker.timed_go(message, allowed_s, stop=not self.cuda)
        self._allowance.spend(wall_ns / 1e9)
        ns, probe = reply.get("ns"), reply.get("probe")
        # a call takes some time, and not more than passed here
        if (
            type(ns) is not int
            or not isinstance(probe, str)
            or not (0 if null else 1) <= ns <= wall_ns + _CLOCK_SLACK_NS
        ):
            raise WorkerFailure("RUNTIME_ERROR", f"timing void: the worker claims {str(ns)[:40]} ns")
        late = ""
        if places and not null and probe != self.arena.bytes[places].tobytes().hex():
            late = "outputs changed after the call had returned: work was left to another thread"
        return Call(ns, wall_ns, late, waited_ns)

    def _probe_places(self, slot: int) -> list[int]:
        spans = [(i.offsets[slot], i.num_bytes) for i in self.outputs if i.num_bytes]
        if not spans:
            return []
        picked = [spans[secrets.randbelow(len(spans))] for _ in range(_NUM_PROBES)]
        return [start + secrets.randbelow(length) for start, length in picked]

    def check_order(self, slot: int, seed: tuple[int, ...]) -> str:
        """What an untimed call on new inputs behind a held-back stream shows (CUDA); empty when nothing is wrong."""
        if not self.cuda:
            return ""
        self.shared.fill(slot, seed)  # memory that is used again must not hold the right values
        self.prepare([slot], flush=False)
        return str(self.request({"op": "order", "slot": slot, "poison": self._poisons[slot]}).get("late", ""))

    def inspect(self, slot: int) -> Call:
        """Bring outputs to the host (CUDA), or returned values again (CPU); what it finds wrong is in `late`."""
        if not self.cuda and self.destination_passing:
            return Call(0, 0)
        reply = self.request({"op": "inspect", "slot": slot})
        self.pause()
        if reply.get("mutated"):
            return Call(0, 0, "the inputs were changed")
        return Call(0, 0, str(reply.get("late", "")))

    def changed_after(self, slot: int, seconds: float) -> bool:
        """Whether the outputs of `slot` change when the worker is left alone for a while: work done after returning."""
        self.inspect(slot)  # a call that was not checked has left its outputs on the device
        before = self.copies(slot)
        self.worker.resume()
        time.sleep(seconds)
        self.inspect(slot)
        self.pause()
        after = self.views(slot)
        return any(before[n].tobytes() != after[n].tobytes() for n in before)

    def close(self) -> None:
        if self._owns_worker:
            self.worker.close()
        else:
            self.worker.resume()
        self.arena.close()
