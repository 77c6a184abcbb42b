"""Draws docs/timeline.svg: what the workers do in one layer of the bundled model, from a recorded step.

python tools/draw_timeline.py docs/timeline.svg

Of many decode steps the quickest is drawn, the one that nothing else on the machine disturbed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import eventide
from eventide.engine.measure import measured_steps
from eventide.profile.explain import kind
from eventide.profile.timeline import Span

COLOURS = {"qkv": "#4878a8", "rope": "#8c6bb1", "attn": "#d9a441", "o": "#5ba053", "gate_up": "#c85a54", "down": "#3a9e9e"}
WIDTH, LEFT, ROW, TOP = 960, 80, 44, 34


def draw(spans: list[Span]) -> str:
    begin, end = min(s.start_ns for s in spans), max(s.end_ns for s in spans)
    scale = (WIDTH - LEFT - 10) / (end - begin)
    workers = sorted({s.worker for s in spans})
    height = TOP + ROW * len(workers) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for i, (name, colour) in enumerate(COLOURS.items()):
        out.append(f'<rect x="{LEFT + 110 * i}" y="8" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text x="{LEFT + 110 * i + 17}" y="18">{name}</text>')
    for row, worker in enumerate(workers):
        y = TOP + ROW * row
        out.append(f'<text x="4" y="{y + 22}">worker {worker}</text>')
        out.append(f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - 10}" height="{ROW - 10}" fill="#eeeeee"/>')
        for s in (s for s in spans if s.worker == worker):
            x, width = LEFT + (s.start_ns - begin) * scale, (s.end_ns - s.start_ns) * scale
            title = f"{kind(s.grid)}, task {s.task}: {(s.end_ns - s.start_ns) / 1000:.1f} µs"
            out.append(
                f'<rect x="{x:.2f}" y="{y}" width="{max(width - 0.4, 0.4):.2f}" height="{ROW - 10}" '
                f'fill="{COLOURS[kind(s.grid)]}"><title>{title}</title></rect>'
            )
    out.append(f'<text x="{LEFT}" y="{height - 10}">0</text>')
    length = f"{(end - begin) / 1000:.0f} µs: one layer of eventide-tiny, one token; grey is waiting"
    out.append(f'<text x="{WIDTH - 10}" y="{height - 10}" text-anchor="end">{length}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main(path: str) -> None:
    with eventide.LLM("eventide-tiny", device="cpu", num_threads=2) as llm:
        _, timelines = measured_steps(llm, batch=1, context=200, prefill=False, num_steps=3000)
    quickest = min(timelines, key=lambda timeline: timeline.elapsed_ns)
    spans = [s for s in quickest.spans if s.grid.startswith("layers.2.") and kind(s.grid) in COLOURS]
    Path(path).write_text(draw(spans))


if __name__ == "__main__":
    main(sys.argv[1])
