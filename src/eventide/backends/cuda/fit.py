"""How a kernel divides its shared memory: the ring of streamed weights, and the scratch memory of operators.

A multiprocessor gives a block 227 KiB in all. The more of it is ring, the longer the stream of weights runs on while
tasks wait; scratch must hold the largest of the operators' needs, which they state themselves as assertions in their
cuda.cuh. `compile_plan_source` tries divisions from the most ring to the most scratch and takes the first that compiles:

    one token at a time     30 slots of 6,208 bytes, 40 KiB of scratch
    tiles of 4 tokens       17 slots, 120 KiB: four tokens' input, of 12,288 columns too, stands beside their partial sums
    tiles of 8 tokens       22 slots, 88 KiB: of fewer columns
    tiles of 16 tokens      8 slots of 12,800 bytes, a slab of two panels each; 100 KiB: sixteen stages of x, sums of four blocks
    and where products are direct: 10 slots of 12,288 bytes, 128 columns of 48 rows; sums of eight warps, twice
    tiles of 64 tokens      8 slots, 128 columns of 64 rows each; 100 KiB: four stages of x, sums of two blocks
    tiles of 256 tokens     6 slots; 145 KiB: four stages of half as many columns

The kernels of the schedule per_op are divided likewise, and need no limit in flight: nobody polls. (Halves of a
multiprocessor, so that the next operator's blocks may wait beside this one's, were slower: docs/performance.md.)
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...errors import DeviceError
from ...ir.nodes import Plan
from ...ops.registry import get_op
from ...target import WIDE_ROWS
from .codegen import Config, Source, direct_rows, generate, wide_tokens
from .layout import PANEL, TAIL, TIGHT, line_bytes, slab_bytes
from .nvrtc import Binary, compile_source

__all__ = ["SHARED_LIMIT", "UnfitPlanError", "compile_plan_source", "divisions"]

SHARED_LIMIT = 232_448  # bytes of shared memory a block may have on sm_90: 227 KiB
IN_FLIGHT = 6 << 13  # bytes: enough to keep the memory busy, little enough that polls don't queue behind them
STATIC_ROOM = 3072  # bytes left for the block's barriers and arguments
WARPS = 8  # that run tasks
_KIB = 1024
_REFUSED = re.compile(r'static assertion failed with "([^"]*)"')


class UnfitPlanError(DeviceError):
    """A plan that the operators' CUDA code is not made for: a size that it doesn't take, or too much shared memory."""


def divisions(plan: Plan) -> list[Config]:
    """Configurations to try, in order."""
    tile, wide = max((int(g.attrs.get("tile_m", 1)) for g in plan.grids), default=1), wide_tokens(plan)
    sizes: tuple[int, ...] = (40, 64, 88, 120, 152, 184) if tile == 1 else (120, 152, 184) if tile <= 4 else (88, 120, 152, 184)
    if wide:
        sizes = (100, 132, 166) if wide <= 64 else (145, 166)
    streams = [plan.tensors[a.tensor] for g in plan.grids for a in g.accesses if get_op(g.op).operand(a.operand).streamed]
    weights = [t for t in streams if t.role == "weight"]
    slot = max((slab_bytes(t.layout) for t in weights), default=slab_bytes(PANEL))
    if wide:  # a line of a block's panels, and the tails of its slab
        line = max((line_bytes(t.layout) + TAIL * (t.layout == TIGHT) for t in weights), default=line_bytes(PANEL))
        slot = (direct_rows(plan) or WIDE_ROWS) // 8 * line
    per_op = int(plan.schedule is not None and plan.schedule.kind == "per_op")
    found = []
    for scratch in sizes:
        slots = (SHARED_LIMIT - STATIC_ROOM - scratch * _KIB) // slot
        limit = -(-IN_FLIGHT // slot)
        if not wide and (slots < limit + WARPS or per_op):  # as the ring needs (device/cuda/runtime.cuh)
            slots = slots // WARPS * WARPS
        slots -= slots % 2 if wide else 0  # half for each warpgroup
        if slots == 0:
            continue
        if per_op or wide:  # nobody polls, or seldom; of direct products, whose workers do, all at once was faster
            limit = slots
        parts = {"slots": slots, "slot": slot, "in_flight": limit, "scratch": scratch * _KIB}
        found.append(Config(**parts, announce=int(wide <= 64), per_op=per_op))
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
