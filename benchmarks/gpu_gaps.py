"""How long a GPU that serves stands idle between two launches, while requests come and go.

    python benchmarks/gpu_gaps.py --shapes 8b,0.6b --batches 8,64        results/gpu_gaps.json

So many requests are served at any time: when one ends, another one comes. Prompts have 16 to `--prompt` tokens and continuations
8 to `--output`, log-uniform and seeded; weights are random. A launch is one step where a prompt is read, and many where everybody
generates. CUPTI, through torch.profiler, gives the beginning and the end of every kernel on the GPU's clock; a gap is the
time from one's end to the next one's beginning, so copies, the host's work and the launch itself are all in it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from facts import one_line
from gpu_decode import HERE, versions
from gpu_start import write_config
from serving import listed

import eventide
from eventide.backends.cuda.driver import Device

KERNEL = "eventide_kernel"


def serve(llm: eventide.LLM, batch: int, args: argparse.Namespace, num_requests: int) -> dict[str, int]:
    """The engine's counts of a run in which there are always `batch` requests, until the last ones have come."""
    rng = np.random.default_rng([args.seed, batch])
    engine, added = eventide.Engine(llm, token_budget=args.token_budget), 0

    def length(lo: int, hi: int) -> int:
        return int(np.exp(rng.uniform(np.log(min(lo, hi)), np.log(hi))))

    while True:
        while engine.num_requests < batch and added < num_requests:
            prompt = rng.integers(0, llm.config.vocab_size, length(16, args.prompt)).tolist()
            params = eventide.SamplingParams(length(8, args.output), temperature=0, ignore_eos=True)
            engine.add(eventide.Request(added, prompt, params))
            added += 1
        if engine.num_requests < batch:
            return dict(engine.stats)  # the batch would grow smaller from here on
        engine.step(max_steps=256)


def kernels(trace: dict[str, Any]) -> list[tuple[float, float]]:
    """(begin, end) of each, microseconds, in order."""
    found = [e for e in trace["traceEvents"] if e.get("cat") == "kernel" and KERNEL in e["name"]]
    return sorted((e["ts"], e["ts"] + e["dur"]) for e in found)


def measure(llm: eventide.LLM, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    serve(llm, batch, args, batch)
    num_requests = batch + args.requests
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        stats = serve(llm, batch, args, num_requests)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        spans = np.array(kernels(json.loads(path.read_text())))
    gaps = spans[1:, 0] - spans[:-1, 1]
    whole, busy = spans[-1, 1] - spans[0, 0], (spans[:, 1] - spans[:, 0]).sum()
    return {
        "batch": batch, "requests": num_requests, **stats, "kernels": len(spans), "busy_ms": busy / 1e3,
        "gap_us": {str(q): float(np.percentile(gaps, q)) for q in (10, 50, 90, 100)}, "idle_share": float(1 - busy / whole),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shapes", type=listed, default=["8b", "0.6b"], help="of gpu_decode.py (8b,0.6b)")
    p.add_argument("--batches", type=listed, default=["8", "64"], help="requests at any time (8,64)")
    p.add_argument("--requests", type=int, default=100, help="that come after the first batch (100)")
    p.add_argument("--prompt", type=int, default=512, help="the longest prompt (512 tokens)")
    p.add_argument("--output", type=int, default=256, help="the longest continuation (256 tokens)")
    p.add_argument("--token-budget", type=int, default=512, help="tokens of one step at most (512)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--commit", help="the commit to note, where there is no git")
    p.add_argument("--out", type=Path, default=HERE / "results" / "gpu_gaps.json")
    p.add_argument("--show", action="store_true", help="print only, write nothing")
    args = p.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: gaps are read from CUPTI through torch.profiler, and torch isn't installed; pip install torch")
    rows = []
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as folder:
            write_config(Path(folder), shape)
            with eventide.LLM(folder, device="cuda", load_format="dummy", max_seq_len=args.prompt + args.output) as llm:
                for batch in map(int, args.batches):
                    rows.append({"model": shape, **measure(llm, batch, args)})
                    print(json.dumps(rows[-1]), flush=True)
    trace = {k: getattr(args, k) for k in ("prompt", "output", "token_budget", "seed")}
    result = {**versions(Device()), **({"commit": args.commit} if args.commit else {}), "trace": trace, "rows": rows}
    if not args.show:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main))
