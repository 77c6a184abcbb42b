"""The leaderboard: one self-contained HTML page of a data set.

Everything is in the file: styles, script, curves (drawn as inline SVG) and the data as one JSON block. A content
security policy in the page forbids every request, and names, logs and sources only ever become text, never markup.

    {"rows": [one standing: definition, solution, author, hardware, score, interval, results [...]],
     "definitions": {name: axes, tensors, reference}, "solutions": {name: spec, sources}, "authors": [...]}
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import BenchError
from .dataset import TraceSet
from .report_scores import BASELINE_AUTHOR, Result, Standing, author_scores, best_by_definition, standings


def page_data(data: TraceSet, *, baseline: str = BASELINE_AUTHOR, with_sources: bool = True) -> dict[str, Any]:
    """What the page shows, as plain JSON-ready data."""
    return _content(data, standings(data, baseline), baseline, with_sources)


def _content(data: TraceSet, rows: list[Standing], baseline: str, with_sources: bool) -> dict[str, Any]:
    shown = {s.definition for s in rows}
    solved = {s.solution for s in rows} & data.solution_names.keys()
    return {
        "rows": [_row(s) for s in rows],
        "definitions": {name: _definition(data, name) for name in sorted(shown & data.definitions.keys())},
        "solutions": {name: _solution(data, name, with_sources) for name in sorted(solved)},
        "authors": [asdict(a) for a in author_scores(rows)],
        "baseline": baseline,
    }


def render_page(
    data: TraceSet,
    *,
    title: str,
    baseline: str = BASELINE_AUTHOR,
    with_sources: bool = True,
    now: datetime | None = None,
) -> str:
    """The page as text; `now` is the time that it says it was made at (default: the present, UTC)."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eventide.bench", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    rows = standings(data, baseline)
    content = _content(data, rows, baseline, with_sources)
    # a "<" inside the block could end it early
    block = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    made = (now or datetime.now(timezone.utc)).strftime("%Y-%m-%d %H:%M UTC")
    best = [group[0] for group in best_by_definition(rows).values()]
    return environment.get_template("leaderboard.html.j2").render(
        title=title, made=made, summary=data.summary(), data_block=block, best=best
    )


def write_page(data: TraceSet, path: str | Path, **options: Any) -> int:
    """Write the page to a file and return its size in bytes; options are those of `render_page`."""
    if not any(len(t) for t in data.traces.values()):
        raise BenchError(f"{data.root or 'the data set'} has no results to show; run `eventide bench run` first")
    content = render_page(data, **options).encode()
    Path(path).write_bytes(content)
    return len(content)


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return None if value is None else float(f"{value:.6g}")
    return "NaN" if math.isnan(value) else "Infinity"


def _row(s: Standing) -> dict[str, Any]:
    return {
        "definition": s.definition,
        "op_type": s.op_type,
        "solution": s.solution,
        "author": s.author,
        "language": s.language,
        "hardware": s.hardware,
        "workloads": s.num_workloads,
        "passed": s.num_passed,
        "score": _number(s.score),
        "speedup": _number(s.speedup),
        "interval": [_number(v) for v in s.interval] if s.interval else None,
        "measured": dict(s.measured),
        "results": [_result(r) for r in s.results],
    }


def _result(r: Result) -> dict[str, Any]:
    pairs: dict[str, Any] = {
        "uuid": r.uuid,
        "axes": dict(r.axes),
        "status": r.status,
        "when": r.timestamp,
        "ms": _number(r.latency_ms),
        "ref": _number(r.reference_ms),
        "speedup": _number(r.speedup),
        "ms_interval": [_number(v) for v in r.latency_interval] if r.latency_interval else None,
        "interval": [_number(v) for v in r.speedup_interval] if r.speedup_interval else None,
        "tflops": _number(r.tflops),
        "gbs": _number(r.gb_per_s),
        "abs": _number(r.max_abs),
        "rel": _number(r.max_rel),
        "message": r.message,
    }
    return {k: v for k, v in pairs.items() if v not in (None, "")}


def _definition(data: TraceSet, name: str) -> dict[str, Any]:
    d = data.definitions[name]
    tensors = {n: [f"{d.dtype_of(n)}", s.shape] for n, s in {**d.inputs, **d.outputs}.items()}
    axes = {n: d.const_axes.get(n) for n in d.axes}
    return {"op_type": d.op_type, "description": d.description or "", "axes": axes, "tensors": tensors}


def _solution(data: TraceSet, name: str, with_sources: bool) -> dict[str, Any]:
    s = data.get_solution(name)
    sources = [{"path": f.path, "content": f.content} for f in s.sources] if with_sources else []
    return {
        "description": s.description or "",
        "entry_point": s.spec.entry_point,
        "target_hardware": s.spec.target_hardware,
        "dependencies": s.spec.dependencies,
        "hash": s.content_hash[:12],
        "sources": sources,
    }
