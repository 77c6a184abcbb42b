"""`eventide bench report summary | best | merge | html`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import BenchError
from .bench_common import add_json, command, load, note, print_json, table


def add_commands(commands: Any) -> None:
    """Add `report` and its subcommands."""
    parser = commands.add_parser(
        "report", help="summarise, rank or merge data sets, or make a page of one", description=__doc__
    )
    reports = parser.add_subparsers(dest="report_command", metavar="REPORT", required=True)

    parser = command(reports, "summary", run_summary, "count what a data set holds and how its runs ended")
    parser.add_argument("data", metavar="DATA")
    add_json(parser)

    parser = command(
        reports,
        "best",
        run_best,
        "name the best solution of each definition",
        "Ranked by score: the mean over workloads of baseline latency / own latency, 0 as soon as one workload fails.\n"
        "A solution is called clearly faster only where the intervals of the two do not touch.",
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--definition", action="append", help="only this definition (may be repeated)")
    parser.add_argument("--hardware", help="only this hardware")
    parser.add_argument("--baseline", default="baseline", help="author of the baseline (%(default)s)")
    parser.add_argument("--all", action="store_true", help="all solutions, not only the best")
    parser.add_argument("--authors", action="store_true", help="rank authors instead")
    add_json(parser)

    parser = command(
        reports,
        "merge",
        run_merge,
        "join data sets into a new one",
        "Equal records are written once; a name with different content stops the merge and names both places.",
    )
    parser.add_argument("data", nargs="+", metavar="DATA")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="a new or empty folder")
    add_json(parser)

    parser = command(
        reports,
        "html",
        run_html,
        "make one self-contained page of a data set",
        "Curves, tables with intervals, filters, sources and errors; the page loads nothing from anywhere.",
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("-o", "--output", default="leaderboard.html", metavar="FILE", help="(%(default)s)")
    parser.add_argument("--title", help="of the page (the folder's name)")
    parser.add_argument("--baseline", default="baseline", help="author of the baseline (%(default)s)")
    parser.add_argument("--no-sources", action="store_true", help="leave the solutions' sources out")


def run_summary(args: argparse.Namespace) -> int:
    """`report summary`."""
    summary = asdict(load(args.data).summary())
    if args.json:
        print_json(summary)
        return 0
    for key, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in sorted(value.items(), key=lambda kv: -kv[1])) or "none"
        print(f"{key.replace('_', ' '):12} {value}")
    return 0


def run_best(args: argparse.Namespace) -> int:
    """`report best`."""
    from ..bench.report_scores import author_scores, best_by_definition, standings

    rows = standings(load(args.data), args.baseline)
    if args.hardware:
        rows = [s for s in rows if s.hardware == args.hardware]
    if args.definition:
        rows = [s for s in rows if s.definition in args.definition]
    if not rows:
        raise BenchError(f"{args.data} has no results that fit; run `eventide bench run` first")
    if args.authors:
        authors = author_scores(rows)
        if args.json:
            print_json([asdict(a) for a in authors])
        else:
            cells = [[a.author, a.hardware, f"{a.score:.3f}", str(a.num_definitions)] for a in authors]
            print(table(["author", "hardware", "score", "definitions"], cells))
        return 0
    out: list[dict[str, Any]] = []
    for group in best_by_definition(rows).values():
        for place, s in enumerate(group if args.all else group[:1]):
            following = group[place + 1] if place + 1 < len(group) else None
            out.append(
                {
                    "definition": s.definition,
                    "hardware": s.hardware,
                    "solution": s.solution,
                    "author": s.author,
                    "language": s.language,
                    "score": s.score,
                    "speedup": s.speedup,
                    "interval": s.interval,
                    "passed": s.num_passed,
                    "workloads": s.num_workloads,
                    "clearly_faster_than_next": None if following is None else s.beats(following),
                }
            )
    if args.json:
        print_json(out)
        return 0
    cells = []
    for r in out:
        low_high = f"{r['interval'][0]:.2f}..{r['interval'][1]:.2f}" if r["interval"] else "no interval"
        clear = {True: "yes", False: "not by the intervals", None: "alone"}[r["clearly_faster_than_next"]]
        speedup = f"{r['speedup']:.2f}" if r["speedup"] is not None else "-"
        passed = f"{r['passed']}/{r['workloads']}"
        names = [r["definition"], r["hardware"], r["solution"], r["author"], r["language"]]
        cells.append([*names, f"{r['score']:.3f}", speedup, low_high, passed, clear])
    header = ["definition", "hardware", "solution", "author", "language", "score", "speedup", "interval", "passed"]
    print(table([*header, "clearly faster than the next"], cells))
    return 0


def run_merge(args: argparse.Namespace) -> int:
    """`report merge`."""
    from ..bench.report_merge import merge

    merged = merge([load(path) for path in args.data], args.output)
    if args.json:
        print_json({"written": merged.written, "repeated": merged.repeated})
        return 0
    print(f"wrote {args.output}: " + (", ".join(f"{n} {kind}" for kind, n in merged.written.items()) or "nothing"))
    if merged.repeated:
        note("already there: " + ", ".join(f"{n} {kind}" for kind, n in merged.repeated.items()))
    return 0


def run_html(args: argparse.Namespace) -> int:
    """`report html`."""
    from ..bench.leaderboard import write_page

    size = write_page(
        load(args.data),
        args.output,
        title=args.title or Path(args.data).resolve().name,
        baseline=args.baseline,
        with_sources=not args.no_sources,
    )
    print(f"wrote {args.output} ({size / 1024:.0f} KB)")
    return 0
