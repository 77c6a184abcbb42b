"""Measure twelve official definitions with a Triton and a CUDA solution each, on one GPU; continue where a run stopped.

    python benchmarks/bench_gpu/run.py --official ../shared/flashinfer_trace --data /tmp/bench_gpu --limit-s 150

Definitions are measured in the order of `dataset.PLAN`; none is begun after `--limit-s` seconds. Traces are in the data
set; `--results` also copies workloads and traces to a folder of the repository.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from dataset import PLAN, make

from eventide.bench import Trace, TraceSet
from eventide.bench.runner import Selection, run_benchmark
from eventide.bench.runner.progress import describe

SETTINGS = {"iterations": 20, "trials": 3, "warmup_runs": 5, "correctness_rounds": 2, "budget_s": 4.0}


def drop_superseded(data: TraceSet, results: Path) -> None:
    """Leave out of the results what was measured on sources that have changed since."""
    for file in results.glob("traces/**/*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        kept = []
        for line in lines:
            trace = Trace.model_validate_json(line)
            extension = trace.evaluation.eventide if trace.evaluation else None
            current = data.get_solution(trace.solution or "").content_hash
            if extension is None or extension.solution_hash in (None, current):
                kept.append(line)
        if kept != lines:
            file.write_text("".join(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True, help="folder with definitions/")
    parser.add_argument("--data", type=Path, required=True, help="the data set to make and fill")
    parser.add_argument("--results", type=Path, help="begin with the traces here, and copy all back at the end")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--limit-s", type=float, default=600.0)
    parser.add_argument("--unsafe", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these definitions")
    args = parser.parse_args()
    started = time.monotonic()
    if args.results and args.results.exists() and not args.data.exists():
        shutil.copytree(args.results, args.data)  # go on from what was measured before
    data = make(args.official, args.data)
    for place in PLAN:
        if args.only and place.split("/")[1] not in args.only:
            continue
        spent = time.monotonic() - started
        if spent > args.limit_s:
            print(f"stopped after {spent:.0f} s before {place}; run again to continue")
            break
        report = run_benchmark(
            data,
            devices=[args.device],
            selection=Selection(definitions=[place.split("/")[1]]),
            command_line=SETTINGS,
            unsafe=args.unsafe,
            on_trace=lambda trace: print(f"{time.monotonic() - started:6.1f} s  {describe(trace)}", flush=True),
        )
        for trace in report.traces:
            if trace.evaluation is not None and trace.evaluation.log:
                print(trace.evaluation.log[-1500:])
        for what, why in report.skipped:
            print(f"skipped {what}: {why}")
    if args.results:
        for folder in ("workloads", "traces"):
            if (args.data / folder).exists():
                shutil.copytree(args.data / folder, args.results / folder, dirs_exist_ok=True)
        drop_superseded(data, args.results)


if __name__ == "__main__":
    main()
