"""Do two runs of one solution agree within the interval that the bench states? Measured, not assumed.

    python benchmarks/bench_gpu/agreement.py --data examples/bench_dataset --solution rmsnorm_h2048_numpy --device cpu

Every run measures the solution from nothing (new processes, new memory). Each run is paired with the next one and a
pair agrees when the two stated intervals overlap. Also printed: how often a run's
estimate lies inside its partner's interval, and how often the bench would have called one of two equals faster, which it
should say in at most 5 % of the pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

from eventide.bench import TraceSet
from eventide.bench.runner import Selection, run_benchmark
from eventide.bench.timing import estimate, is_faster


def measure(data: TraceSet, args: argparse.Namespace) -> list[list[float]] | None:
    """Raw samples of one fresh measurement, or None when it did not pass (the reason is printed)."""
    report = run_benchmark(
        TraceSet(list(data.definitions.values()), list(data.all_workloads()), [data.get_solution(args.solution)]),
        devices=[args.device],
        selection=Selection(workloads=[args.workload] if args.workload else [], max_workloads=1),
        command_line={name: json.loads(value) for name, _, value in (pair.partition("=") for pair in args.set)},
        cache=Path(args.cache) if args.cache else None,
    )
    for what, why in report.skipped:
        sys.exit(f"skipped {what}: {why}")
    outcome = report.traces[0].evaluation
    assert outcome is not None and outcome.eventide is not None
    if outcome.eventide.timing is None or outcome.eventide.timing.samples_ms is None:
        print(f"{outcome.status}: {outcome.eventide.reason}", file=sys.stderr)
        return None
    return outcome.eventide.timing.samples_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set without files for its inputs")
    parser.add_argument("--solution", required=True)
    parser.add_argument("--workload", help="pattern; the first that matches (the first of the data set)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cache")
    parser.add_argument("-o", "--output", help="write all samples and the verdicts as JSON")
    args = parser.parse_args()
    data = TraceSet.load(args.data)
    definition = data.get_solution(args.solution).definition
    data = TraceSet([data.definitions[definition]], data.workloads[definition], [data.get_solution(args.solution)])
    runs: list[list[list[float]]] = []
    failed = 0
    while len(runs) <= args.pairs:
        samples = measure(data, args)
        if samples is None:
            failed += 1
            if failed > args.pairs:
                sys.exit("more failures than pairs")
            continue
        runs.append(samples)
        found = estimate(samples)
        print(f"{len(runs):4d}  {found.value:.5g} ms [{found.low:.5g}, {found.high:.5g}]", file=sys.stderr)
    pairs = [(estimate(a), estimate(b)) for a, b in pairwise(runs)]
    overlap = sum(a.overlaps(b) for a, b in pairs)
    inside = sum(a.low <= b.value <= a.high for a, b in pairs)
    said = sum(is_faster(a, b) or is_faster(b, a) for a, b in pairwise(runs))
    widths = sorted((a.high - a.low) / a.value for pair in pairs for a in pair)
    result = {
        "solution": args.solution,
        "device": args.device,
        "pairs": len(pairs),
        "intervals_overlap": overlap,
        "estimate_inside_partner": inside,
        "one_called_faster": said,
        "median_relative_width": widths[len(widths) // 2],
        "runs_void": failed,
    }
    print(json.dumps(result, indent=2))
    if args.output:
        Path(args.output).write_text(json.dumps({**result, "samples_ms": runs}) + "\n")
    sys.exit(0 if overlap >= 0.95 * len(pairs) else 1)


if __name__ == "__main__":
    main()
