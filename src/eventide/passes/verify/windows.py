"""Cuts a long plan into windows that can be verified one by one, and equal windows once.

A *cut* is a grid all of whose tasks come after every task before it in the program. Between two cuts c and c' stands a
window W, c first. When in every window, by its own events alone,

    (a) every task of W comes before every task of c', and
    (b) every task of W outside c comes after some task of c,

then tasks of different windows are ordered: x in W, y in a later window V with cut v: x comes before all of the next cut
by (a), that before all of the next and so on to v, and y is in v or after a task of it by (b). So only pairs inside a
window are left to look at, and a model's layers, equal but for names, are looked at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.nodes import Plan, TaskGrid
from ...ir.ordering import Ordering, region_key
from .pairs import Memory


@dataclass(frozen=True)
class Window:
    """The grids [start, stop) of the plan and the cut that follows, if any."""

    start: int
    stop: int
    grids: tuple[TaskGrid, ...]
    next_cut: TaskGrid | None
    last: bool  # no cut follows the next one

    @property
    def all_grids(self) -> tuple[TaskGrid, ...]:
        return (*self.grids, self.next_cut) if self.next_cut is not None else self.grids


def find_cuts(plan: Plan, ordering: Ordering, may_be_empty: set[str]) -> list[int]:
    """Grids that come after everything before them in one sample step; `broken_cut` tries them at the others."""
    cuts = []
    so_far = 0
    for i, g in enumerate(plan.grids):
        if i and len(ordering.class_range[g.name]) and ordering.common_past(g.name) & so_far == so_far:
            cuts.append(i)
            if g.name in may_be_empty:
                break
        so_far |= ordering.mask(g.name)
    return cuts


def split(plan: Plan, cuts: Sequence[int]) -> list[Window]:
    places = [0, *cuts, len(plan.grids)]
    return [
        Window(a, b, plan.grids[a:b], plan.grids[b] if b < len(plan.grids) else None, last=b >= places[-2])
        for a, b in itertools.pairwise(places)
    ]


def broken_cut(window: Window, o: Ordering) -> int | None:
    """The cut whose part of (a) or (b) fails in a step, if any; `o` orders the window's grids alone. The first window
    needs no (b). Only the last cut may be empty: by (b) nothing of its window runs then, and no later window hangs on
    it."""
    if window.next_cut is not None:
        if not all(o.all_before(g.name, window.next_cut.name) for g in window.grids):
            return window.stop
        if not window.last and not o.class_range[window.next_cut.name]:
            return window.stop
    first = o.mask(window.grids[0].name)
    if window.start and not all(o.ancestors[c] & first for g in window.grids[1:] for c in o.class_range[g.name]):
        return window.start
    return None


def window_key(plan: Plan, window: Window) -> tuple[object, ...]:
    """Equal for windows whose cuts are the same question: axes and edges alike but for names."""
    flags = (window.start == 0, window.next_cut is None, window.last)
    return (*flags, grids_key(plan, window.all_grids, None, set()))


def grids_key(plan: Plan, grids: Sequence[TaskGrid], memory: Memory | None, mutable: set[str]) -> tuple[object, ...]:
    """Equal for sequences of grids that differ in names alone; with `memory`, also in what they access."""
    tensors: dict[str, int] = {}
    events: dict[str, int] = {}
    parts: list[object] = []
    for g in grids:
        edges = []
        for kind, group in enumerate((g.waits, g.enter, g.notifies)):
            for e in group:
                number = events.setdefault(e.event, len(events))
                edges.append((kind, number, region_key(e.cells), tuple(n.text for n in plan.events[e.event].shape)))
        accesses = []
        for a in g.accesses if memory is not None else ():
            if a.tensor in mutable or (memory is not None and a.tensor in memory.places):
                number = tensors.setdefault(a.tensor, len(tensors))
                shape = tuple(n.text for n in plan.tensors[a.tensor].shape)
                accesses.append((number, a.mode, region_key(a.region), shape))
        parts.append((tuple((a, e.text) for a, e in g.axes), tuple(edges), tuple(accesses)))
    shared = []
    if memory is not None:
        placed = [(n, t) for t, n in tensors.items() if t in memory.places]
        shared = [(n, m) for n, t in placed for m, u in placed if n < m and memory.share(t, u)]
    return (*parts, tuple(shared))
