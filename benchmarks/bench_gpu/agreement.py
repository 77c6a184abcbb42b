"""Do two runs of one solution agree within the interval that the bench states? Measured, not assumed.

    python benchmarks/bench_gpu/agreement.py --data examples/bench_dataset --solution rmsnorm_h2048_numpy --device cpu

Every run measures the solution from nothing (new processes, new memory); the reference keeps its process. Each run is
paired with the next one and a pair agrees when the two stated intervals overlap. Also printed: how often a run's estimate
lies inside its partner's interval, and how often the bench would have called one of two equals faster, which it should
say in at most 5 % of the pairs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from eventide.bench import Trace, TraceSet
from eventide.bench.runner import Selection, run_benchmark
from eventide.bench.timing import estimate, is_faster


def measure(
    data: TraceSet, args: argparse.Namespace, count: int, seen: Callable[[list[list[float]]], None], stop_at: float
) -> tuple[list[list[list[float]]], int]:
    """Raw samples of `count` measurements, or of those that fit in the time, and how many did not pass."""
    solution = data.get_solution(args.solution)
    copies = [solution.model_copy(update={"name": f"{solution.name}_{n}"}) for n in range(count)]
    runs: list[list[list[float]]] = []
    failed = 0

    def take(trace: Trace) -> None:
        nonlocal failed
        assert trace.evaluation is not None and trace.evaluation.eventide is not None
        timing = trace.evaluation.eventide.timing
        if timing is None or timing.samples_ms is None:
            failed += 1
            print(f"{trace.evaluation.status}: {trace.evaluation.eventide.reason}", file=sys.stderr)
        else:
            runs.append(timing.samples_ms)
            seen(timing.samples_ms)
        if time.monotonic() > stop_at:
            raise TimeoutError

    try:
        report = run_benchmark(
            TraceSet(list(data.definitions.values()), list(data.all_workloads()), copies),
            devices=[args.device],
            selection=Selection(workloads=[args.workload] if args.workload else [], max_workloads=1),
            command_line={name: json.loads(value) for name, _, value in (pair.partition("=") for pair in args.set)},
            cache=Path(args.cache) if args.cache else None,
            resume=False,
            on_trace=take,
        )
    except TimeoutError:
        return runs, failed
    for what, why in report.skipped:
        sys.exit(f"skipped {what}: {why}")
    return runs, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set without files for its inputs")
    parser.add_argument("--solution", required=True)
    parser.add_argument("--workload", help="pattern; the first that matches (the first of the data set)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin no measurement after so long")
    parser.add_argument("--cache")
    parser.add_argument("-o", "--output", help="write all samples and the verdicts as JSON; go on with what is there")
    args = parser.parse_args()
    data = TraceSet.load(args.data)
    definition = data.get_solution(args.solution).definition
    data = TraceSet([data.definitions[definition]], data.workloads[definition], [data.get_solution(args.solution)])
    runs: list[list[list[float]]] = []
    failed, stop_at = 0, time.monotonic() + args.limit_s
    if args.output and Path(args.output).exists():
        before = json.loads(Path(args.output).read_text())
        if (before["solution"], before["device"]) != (args.solution, args.device):
            sys.exit(f"{args.output} is the record of {before['solution']} on {before['device']}")
        runs, failed = before["samples_ms"], before["runs_void"]

    def seen(samples: list[list[float]]) -> None:
        found = estimate(samples)
        print(f"{found.value:.5g} ms [{found.low:.5g}, {found.high:.5g}]", file=sys.stderr)

    while len(runs) <= args.pairs and time.monotonic() < stop_at:
        more, void = measure(data, args, args.pairs + 1 - len(runs), seen, stop_at)
        runs += more
        failed += void
        if failed > args.pairs:
            sys.exit("more failures than pairs")
    if len(runs) < 2:
        sys.exit("fewer than two measurements")
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
