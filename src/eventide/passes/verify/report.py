"""What the verifier looked at and how, in words that print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .points import PERIODS, Values


@dataclass
class VerifyReport:
    """``symbols``: for each, how its range was covered; ``tables``: how run-time tables were. Numbers count what was
    looked at: steps (values of the symbols), windows (and how many of them differ), pairs of accesses, event cells."""

    plan: str
    exhaustive: bool = False
    symbols: dict[str, str] = field(default_factory=dict)
    tables: str = "no map depends on run-time tables"
    deadlock: str = ""
    num_events: int = 0
    num_cells: int = 0
    num_windows: int = 0
    num_distinct_windows: int = 0
    num_steps: int = 0
    num_pairs: int = 0
    drawn_pairs: int = 0  # of accesses, compared on drawn tables
    proven: bool = True  # False when steps or tables were drawn rather than covered
    milliseconds: float = 0.0

    def cover(self, values: Mapping[str, Values], drawn: bool) -> None:
        """Notes how a scope's symbols were covered; the weakest way is kept for each."""
        order = ("every value", "every tile boundary", "drawn")
        for name, v in values.items():
            text = {
                "all": f"every value in [{v.values[0]}, {v.values[-1]}]",
                "boundaries": f"every tile boundary in [{v.values[0]}, {v.values[-1]}]",
                "periodic": f"every tile boundary below {PERIODS} periods of {v.period}, the rest by shifting whole periods",
            }[v.method]
            if drawn:
                text, self.proven = "drawn: too many steps to look at all", False
            old = self.symbols.get(name)
            rank = [next((i for i, w in enumerate(order) if t and t.startswith(w)), 0) for t in (old, text)]
            if old is None or rank[1] > rank[0]:
                self.symbols[name] = text

    def __str__(self) -> str:
        lines = [f"plan '{self.plan}' verified in {self.milliseconds:.0f} ms: {'proven' if self.proven else 'tested, not proven'}"]
        lines += [f"  symbol   {name:16s} {text}" for name, text in self.symbols.items()]
        lines += [
            f"  tables   {self.tables}" + (f"; {self.drawn_pairs} pairs of regions on drawn tables" if self.drawn_pairs else ""),
            f"  deadlock {self.deadlock}",
            f"  counts   {self.num_events} events, {self.num_cells} cells looked at, every count met exactly",
            f"  order    {self.num_pairs} pairs of accesses in {self.num_steps} steps of {self.num_distinct_windows} different "
            f"windows ({self.num_windows} in all)",
        ]
        return "\n".join(lines)
