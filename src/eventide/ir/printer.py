"""Prints plans the way people read them.

    plan 'mlp' for cpu x2
      symbols   num_tokens in [1, 64]
      weight    w1         float32 [512, 256]  panel32.cpu
      scratch   h          float32 [num_tokens, 512]  @ 0
      event     h.done     [(num_tokens + 127) // 128]  needed 16

      up = linear[m < (num_tokens + 127) // 128, n < 16]                        mlp.py:12
          reads   x[128*m : min(128*m + 128, num_tokens), 0 : 256]
          writes  h[...]
          notifies h.done[m]
      schedule static, 2 workers: up (block), down (block)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .nodes import Edge, IndexSet, Plan, Region, Span, TaskGrid, Tensor


def print_region(region: Region) -> str:
    return ", ".join(_set(s) for s in region)


def _set(s: IndexSet) -> str:
    if isinstance(s, Span):
        return str(s.single) if s.single is not None else f"{s.lo} : {s.hi}"
    paged = f" by {s.block}" if s.block > 1 else ""
    return f"{s.table}[{''.join(f'{p}, ' for p in s.prefix)}{s.lo} : {s.hi}{paged}]"


def print_edge(edge: Edge) -> str:
    return f"{edge.event}[{print_region(edge.cells)}]"


def tensor_text(t: Tensor, offset: int | None = None) -> str:
    shape = ", ".join(map(str, t.shape))
    extra = "" if t.layout == "plain" else f"  {t.layout}"
    extra += "" if offset is None else f"  @ {offset}"
    promises = "".join(f"  {i.kind}{' of ' + i.of if i.of else ''}{' at ' + i.at if i.at else ''}" for i in t.invariants)
    return f"  {t.role:9s} {t.name:24s} {t.dtype} [{shape}]{extra}{promises}"


def attrs_text(attrs: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in attrs.items() if v not in ("", "none", 0.0)}
    return "".join(f" {k}={v}" for k, v in shown.items())


def print_grid(g: TaskGrid) -> str:
    axes = ", ".join(f"{a} < {e}" for a, e in g.axes)
    lines = [f"  {g.name} = {g.op}[{axes}]{attrs_text(g.attrs)}" + (f"    # {g.source}" if g.source else "")]
    for edge in g.enter:
        lines.append(f"      enters after {print_edge(edge)}")
    for edge in g.waits:
        lines.append(f"      waits    {print_edge(edge)}")
    for mode, word in (("read", "reads"), ("update", "updates"), ("write", "writes")):
        for a in g.accesses:
            if a.mode == mode:
                lines.append(f"      {word:8s} {a.operand} = {a.tensor}[{print_region(a.region)}]")
    for edge in g.notifies:
        lines.append(f"      notifies {print_edge(edge)}")
    return "\n".join(lines)


def symbols_text(symbols: Mapping[str, tuple[int, int]]) -> list[str]:
    return [f"  symbol    {n:24s} in [{lo}, {hi}]" for n, (lo, hi) in symbols.items()]


def print_plan(plan: Plan) -> str:
    lines = [f"plan '{plan.name}' for {plan.target}", *symbols_text(plan.symbols)]
    lines += [f"  requires  {e} >= 0" for e in plan.requires]
    lines += [tensor_text(t, plan.offsets.get(t.name)) for t in plan.tensors.values()]
    for e in plan.events.values():
        needed = "to be inferred" if e.needed is None else str(e.needed)
        lines.append(f"  event     {e.name:24s} [{', '.join(map(str, e.shape))}]  needed {needed}")
    if plan.arena_bytes:
        lines.append(f"  arena     {plan.arena_bytes:,} bytes")
    lines += ["", *(print_grid(g) for g in plan.grids)]
    if plan.schedule:
        s = plan.schedule
        parts = [f"{seg.grid} ({seg.distribution}{', barrier' if seg.barrier else ''})" for seg in s.segments]
        lines += ["", f"  schedule {s.kind}, {s.num_workers} workers: " + ", ".join(parts)]
    return "\n".join(lines)
