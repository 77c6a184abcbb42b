"""Serving: an arrival trace replayed against the engine, under every schedule asked for.

    python benchmarks/serving.py                                     eventide-tiny, 200 requests, static and per_op
    python benchmarks/serving.py --model ./Qwen3-0.6B --rate 2 --requests 50 --pattern bursty
    python benchmarks/serving.py --dummy config.json --device cuda   random weights of a shape

Arrivals are Poisson at `--rate` requests a second, or come in bursts of eight at the same average rate. Prompts have 16 to
`--prompt` tokens and continuations 8 to `--output`, log-uniform; everything is drawn from `--seed`, so a trace can be played
again. A request's clock starts when it arrives, whether or not the engine has a place for it.

  TTFT   milliseconds from arrival to the first token          TPOT   milliseconds between two tokens after it

Results are printed as percentiles and written as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from facts import commit

import eventide

HERE = Path(__file__).parent
PERCENTILES = (50, 90, 99)
BURST = 8


@dataclass
class Arrival:
    """One request of the trace, and when what it got came, in seconds since the trace began."""

    at: float
    prompt: list[int]
    max_new_tokens: int
    times: list[float] = field(default_factory=list)  # of each token


def make_trace(args: argparse.Namespace, vocab_size: int, warm_up: bool = False) -> list[Arrival]:
    rng = np.random.default_rng([args.seed, warm_up])
    if args.pattern == "poisson":
        at = np.cumsum(rng.exponential(1 / args.rate, args.requests))
    else:
        at = np.repeat(np.cumsum(rng.exponential(BURST / args.rate, -(-args.requests // BURST))), BURST)[: args.requests]

    def lengths(lo: int, hi: int) -> list[int]:
        return np.exp(rng.uniform(np.log(lo), np.log(hi), args.requests)).astype(int).tolist()

    prompts, outputs = lengths(min(16, args.prompt), args.prompt), lengths(min(8, args.output), args.output)
    return [Arrival(t, rng.integers(0, vocab_size, p).tolist(), n) for t, p, n in zip(at.tolist(), prompts, outputs, strict=True)]


def replay(engine: eventide.Engine, trace: list[Arrival]) -> float:
    """Seconds that it took; fills in the times."""
    start, coming = time.perf_counter(), list(enumerate(trace))[::-1]
    while coming or engine.num_requests:
        now = time.perf_counter() - start
        while coming and coming[-1][1].at <= now:
            i, arrival = coming.pop()
            params = eventide.SamplingParams(arrival.max_new_tokens, temperature=0, ignore_eos=True)
            engine.add(eventide.Request(i, arrival.prompt, params))
        if not engine.num_requests:
            time.sleep(max(0.0, coming[-1][1].at - now))
            continue
        # at most 0.03 seconds of decoding at once, so that nobody who arrives waits long to be seen
        found = engine.step(max_steps=256)
        now = time.perf_counter() - start
        for output in found:
            trace[output.id].times += [now] * len(output.token_ids)  # type: ignore[call-overload]
    return time.perf_counter() - start


def figures(trace: list[Arrival], seconds: float) -> dict[str, Any]:
    first = [1e3 * (a.times[0] - a.at) for a in trace]
    each = [1e3 * (a.times[-1] - a.times[0]) / (len(a.times) - 1) for a in trace if len(a.times) > 1]
    tokens = sum(len(a.times) for a in trace)
    return {
        "seconds": seconds,
        "requests_per_s": len(trace) / seconds,
        "tokens_per_s": tokens / seconds,
        "ttft_ms": dict(zip(map(str, PERCENTILES), np.percentile(first, PERCENTILES).tolist(), strict=True)),
        "tpot_ms": dict(zip(map(str, PERCENTILES), np.percentile(each, PERCENTILES).tolist(), strict=True)),
    }


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="eventide-tiny", help="a checkpoint, a bundled model or a hub id (default eventide-tiny)")
    p.add_argument("--dummy", action="store_true", help="random weights: --model is a folder with a config.json")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--schedules", default="static,per_op", help="with commas (default static,per_op)")
    p.add_argument("--requests", type=int, default=200)
    p.add_argument("--rate", type=float, default=20.0, help="requests a second (default 20)")
    p.add_argument("--pattern", choices=("poisson", "bursty"), default="poisson")
    p.add_argument("--prompt", type=int, default=128, help="the longest prompt (default 128 tokens)")
    p.add_argument("--output", type=int, default=64, help="the longest continuation (default 64 tokens)")
    p.add_argument("--token-budget", type=int, help="tokens of one step at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, help="CPU workers")
    p.add_argument("--out", type=Path, help="where results go (benchmarks/results/serving.json)")
    p.add_argument("--show", action="store_true", help="print only, write nothing")
    args = p.parse_args(argv)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load_average_before": os.getloadavg()[0]},
        "trace": {k: getattr(args, k) for k in ("model", "requests", "rate", "pattern", "prompt", "output", "seed")},
        "schedules": {},
    }
    for schedule in args.schedules.split(","):
        load_format = "dummy" if args.dummy else "auto"
        options = {"device": args.device, "num_threads": args.threads, "load_format": load_format}
        with eventide.LLM(args.model, schedule=schedule, max_seq_len=args.prompt + args.output, **options) as llm:
            # pages, caches, threads; by prompts of its own, since what has been read before is found in the cache
            replay(eventide.Engine(llm), make_trace(args, llm.config.vocab_size, warm_up=True)[:2])
            engine = eventide.Engine(llm, token_budget=args.token_budget)
            trace = make_trace(args, llm.config.vocab_size)
            found = {"device": llm.device, **figures(trace, replay(engine, trace)), "stats": engine.stats}
        result["schedules"][schedule] = found
        times = "  ".join(
            f"{name.upper()} " + " / ".join(f"{found[f'{name}_ms'][str(q)]:.2f}" for q in PERCENTILES) for name in ("ttft", "tpot")
        )
        print(
            f"{schedule:8} {found['requests_per_s']:6.1f} requests/s  {found['tokens_per_s']:8.1f} tokens/s  {times} ms "
            f"({', '.join(f'p{q}' for q in PERCENTILES)})",
            flush=True,
        )
    if not args.show:
        out = args.out or HERE / "results" / "serving.json"
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
