"""How a kernel divides its shared memory: the ring of streamed weights, and the scratch memory of operators.

A multiprocessor gives a block 227 KiB in all. The more of it is ring, the longer the stream of weights runs on while
tasks wait; scratch must hold the largest of the operators' needs, which they state themselves as assertions in their
cuda.cuh. `compile_plan_source` tries divisions from the most ring to the most scratch and takes the first that compiles:

    one token at a time     23 slots of 8 KiB, 40 KiB of scratch
    tiles of 8 tokens       16 slots, 88 KiB: eight tokens' input stands beside their partial sums
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...errors import DeviceError
from ...ir.nodes import Plan
from .codegen import Config, Source, generate
from .nvrtc import Binary, compile_source

__all__ = ["SHARED_LIMIT", "UnfitPlanError", "compile_plan_source", "divisions"]

SHARED_LIMIT = 232_448  # bytes of shared memory a block may have on sm_90: 227 KiB
IN_FLIGHT = 6  # chunks of 8 KiB: enough to keep the memory busy, little enough that polls don't queue behind them
STATIC_ROOM = 3072  # bytes left for the block's barriers and arguments
_KIB = 1024
_REFUSED = re.compile(r'static assertion failed with "([^"]*)"')


class UnfitPlanError(DeviceError):
    """A plan that the operators' CUDA code is not made for: a size that it doesn't take, or too much shared memory."""


def divisions(plan: Plan) -> list[Config]:
    """Configurations to try, in order."""
    tile = max((int(g.attrs.get("tile_m", 1)) for g in plan.grids), default=1)
    first = 40 if tile == 1 else 88
    found = []
    for scratch in (s for s in (40, 64, 88, 120, 152, 184) if s >= first):
        slots = min((SHARED_LIMIT - STATIC_ROOM - scratch * _KIB) // 8192, 23 if scratch == 40 else 16)
        found.append(Config(slots=slots, in_flight=min(IN_FLIGHT, slots), scratch=scratch * _KIB))
    return found


def compile_plan_source(plan: Plan, config: Config | None = None, **changes: int) -> tuple[Source, Binary]:
    """Source and machine code of a plan; `changes` are fields of Config to set in whichever division fits.

    DeviceError says which operator needs more than a multiprocessor has.
    """
    why = ""
    for candidate in [config] if config else divisions(plan):
        candidate = replace(candidate, **changes) if changes else candidate
        source = generate(plan, candidate)
        try:
            binary = compile_source(source.text)
        except DeviceError as e:
            found = _REFUSED.findall(str(e))
            if not found:
                raise
            if others := [f for f in found if not f.endswith("scratch memory")]:
                raise UnfitPlanError(f"plan '{plan.name}' can't run on the GPU: {others[0]}; use device='cpu'") from None
            why = f"{found[0]}, of which there are {candidate.scratch // _KIB} KiB"
            continue
        used = candidate.shared_bytes + binary.resources["shared_bytes"]
        if used <= SHARED_LIMIT:
            return source, binary
        why = f"its ring, scratch and arguments take {used} bytes"
    raise UnfitPlanError(
        f"plan '{plan.name}' doesn't fit in the shared memory of a multiprocessor ({SHARED_LIMIT} bytes): {why}; a smaller "
        "tile_tokens of the target needs less"
    )
