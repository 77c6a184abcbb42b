"""Plans to and from disk: JSON, with expressions in their printed form, so that a person can read and edit it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PlanError
from .expr import Expr, parse
from .nodes import (
    Access,
    Edge,
    EventTensor,
    IndexSet,
    Invariant,
    Plan,
    Region,
    Schedule,
    Segment,
    Span,
    TaskGrid,
    Tensor,
    Via,
)  # fmt: skip

FORMAT = 1


def to_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain lists, dictionaries, strings and numbers."""
    s = plan.schedule
    return {
        "format": FORMAT,
        "name": plan.name,
        "target": plan.target,
        "symbols": {k: list(v) for k, v in plan.symbols.items()},
        "tensors": [
            {
                "name": t.name, "shape": [e.text for e in t.shape], "dtype": t.dtype, "role": t.role, "layout": t.layout,
                "invariants": [
                    {"kind": i.kind, "lo": i.lo.text, "hi": i.hi.text, "of": i.of, "at": i.at} for i in t.invariants
                ],
            }
            for t in plan.tensors.values()
        ],
        "events": [
            {"name": e.name, "shape": [x.text for x in e.shape], "needed": e.needed.text if e.needed is not None else None}
            for e in plan.events.values()
        ],
        "grids": [
            {
                "name": g.name, "op": g.op, "axes": [[a, e.text] for a, e in g.axes], "attrs": dict(g.attrs),
                "accesses": [
                    {"operand": a.operand, "tensor": a.tensor, "mode": a.mode, "region": _region(a.region)}
                    for a in g.accesses
                ],
                "waits": _edges(g.waits), "notifies": _edges(g.notifies), "enter": _edges(g.enter),
                "manual": g.manual, "source": g.source,
            }
            for g in plan.grids
        ],
        "schedule": s and {
            "kind": s.kind, "num_workers": s.num_workers,
            "segments": [
                {"grid": x.grid, "distribution": x.distribution, "rotate": x.rotate.text, "barrier": x.barrier}
                for x in s.segments
            ],
        },
        "offsets": dict(plan.offsets),
        "arena_bytes": plan.arena_bytes,
        "requires": [e.text for e in plan.requires],
    }  # fmt: skip


def from_dict(d: Mapping[str, Any]) -> Plan:
    """The plan that `to_dict` wrote; PlanError on anything else."""
    if d.get("format") != FORMAT:
        raise PlanError(f"this plan has format {d.get('format')!r}, this version reads {FORMAT}; compile the plan again")
    try:
        s = d["schedule"]
        return Plan(
            name=d["name"],
            target=d["target"],
            symbols={k: (int(v[0]), int(v[1])) for k, v in d["symbols"].items()},
            tensors={
                t["name"]: Tensor(
                    t["name"], _exprs(t["shape"]), t["dtype"], t["role"], t["layout"],
                    tuple(_invariant(i) for i in t["invariants"]),
                )
                for t in d["tensors"]
            },
            events={
                e["name"]: EventTensor(e["name"], _exprs(e["shape"]), None if e["needed"] is None else parse(e["needed"]))
                for e in d["events"]
            },
            grids=tuple(_grid(g) for g in d["grids"]),
            schedule=None if s is None else Schedule(
                s["kind"], s["num_workers"],
                tuple(Segment(x["grid"], x["distribution"], parse(x["rotate"]), x["barrier"]) for x in s["segments"]),
            ),
            offsets=dict(d["offsets"]),
            arena_bytes=d["arena_bytes"],
            requires=_exprs(d.get("requires", [])),
        )  # fmt: skip
    except (KeyError, TypeError, IndexError, AttributeError) as e:
        raise PlanError(f"this is not a plan: {type(e).__name__} at {e}") from None


def save(plan: Plan, path: str | Path) -> None:
    Path(path).write_text(json.dumps(to_dict(plan), indent=1) + "\n")


def load(path: str | Path) -> Plan:
    try:
        return from_dict(json.loads(Path(path).read_text()))
    except json.JSONDecodeError as e:
        raise PlanError(f"'{path}' is not a plan: {e}") from None


def _grid(g: Mapping[str, Any]) -> TaskGrid:
    return TaskGrid(
        name=g["name"],
        op=g["op"],
        axes=tuple((a, parse(e)) for a, e in g["axes"]),
        accesses=tuple(Access(a["operand"], a["tensor"], _read_region(a["region"]), a["mode"]) for a in g["accesses"]),
        attrs=dict(g["attrs"]),
        waits=_read_edges(g["waits"]),
        notifies=_read_edges(g["notifies"]),
        enter=_read_edges(g["enter"]),
        manual=g["manual"],
        source=g["source"],
    )


def _exprs(texts: list[str]) -> tuple[Expr, ...]:
    return tuple(parse(t) for t in texts)


def _region(region: Region) -> list[Any]:
    return [
        [s.lo.text, s.hi.text]
        if isinstance(s, Span)
        else {"table": s.table, "prefix": [p.text for p in s.prefix], "lo": s.lo.text, "hi": s.hi.text, "block": s.block}
        for s in region
    ]


def _read_set(s: Any) -> IndexSet:
    if isinstance(s, list):
        return Span(parse(s[0]), parse(s[1]))
    return Via(s["table"], _exprs(s["prefix"]), parse(s["lo"]), parse(s["hi"]), s["block"])


def _read_region(region: list[Any]) -> Region:
    return tuple(_read_set(s) for s in region)


def _edges(edges: tuple[Edge, ...]) -> list[Any]:
    return [{"event": e.event, "cells": _region(e.cells)} for e in edges]


def _read_edges(edges: list[Any]) -> tuple[Edge, ...]:
    return tuple(Edge(e["event"], _read_region(e["cells"])) for e in edges)


def _invariant(i: dict[str, str]) -> Invariant:
    return Invariant(i["kind"], parse(i["lo"]), parse(i["hi"]), i.get("of", ""), i.get("at", ""))  # type: ignore[arg-type]
