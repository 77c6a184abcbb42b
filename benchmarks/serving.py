"""Serving: an arrival trace replayed against the engine, under every schedule asked for, and against vLLM where it is installed.

    python benchmarks/serving.py                                     eventide-tiny, 200 requests, static and per_op
    python benchmarks/serving.py --model ./Qwen3-0.6B --rate 2 --requests 50 --patterns bursty
    python benchmarks/serving.py --shapes 8b,0.6b --device cuda      random weights of real shapes; results/gpu_serving.json

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from facts import commit, one_line

import eventide

HERE = Path(__file__).parent
PERCENTILES = (50, 90, 99)
BURST = 8
PATTERNS = ("poisson", "bursty")


@dataclass
class Arrival:
    """One request of the trace, and when what it got came, in seconds since the trace began."""

    at: float
    prompt: list[int]
    max_new_tokens: int
    times: list[float] = field(default_factory=list)  # of each token


def make_trace(args: argparse.Namespace, pattern: str, vocab_size: int, warm_up: bool = False) -> list[Arrival]:
    rng = np.random.default_rng([args.seed, warm_up])
    if pattern == "poisson":
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


def told(name: str, pattern: str, found: dict[str, Any]) -> str:
    times = "  ".join(
        f"{key.upper()} " + " / ".join(f"{found[f'{key}_ms'][str(q)]:.2f}" for q in PERCENTILES) for key in ("ttft", "tpot")
    )
    rates = f"{found['requests_per_s']:6.1f} requests/s  {found['tokens_per_s']:8.1f} tokens/s"
    return f"{name:8} {pattern:8} {rates}  {times} ms ({', '.join(f'p{q}' for q in PERCENTILES)})"


def ours(model: str | Path, schedule: str, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pattern's figures under a schedule."""
    load_format = "dummy" if args.dummy or args.shapes else "auto"
    options = {"device": args.device, "num_threads": args.threads, "load_format": load_format}
    with eventide.LLM(model, schedule=schedule, max_seq_len=args.prompt + args.output, **options) as llm:
        # pages, caches, threads; by prompts of its own, since what has been read before is found in the cache
        replay(eventide.Engine(llm), make_trace(args, args.patterns[0], llm.config.vocab_size, warm_up=True)[:2])
        for pattern in args.patterns:
            engine = eventide.Engine(llm, token_budget=args.token_budget)
            trace = make_trace(args, pattern, llm.config.vocab_size)
            yield pattern, {"device": llm.device, **figures(trace, replay(engine, trace)), "stats": engine.stats}


def has_vllm(args: argparse.Namespace) -> bool:
    found = subprocess.run([args.vllm, "-c", "import vllm"], capture_output=True).returncode == 0
    if not found:
        print(f"vLLM isn't installed for {args.vllm}: only Eventide is measured (--vllm PYTHON names another)", file=sys.stderr)
    return found


def vllm(model: Path, vocab_size: int, args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same of vLLM, in a process of its own."""
    traces = [make_trace(args, args.patterns[0], vocab_size, warm_up=True)[:2]]
    traces += [make_trace(args, pattern, vocab_size) for pattern in args.patterns]
    with tempfile.TemporaryDirectory() as folder:
        told, found = Path(folder) / "traces.json", Path(folder) / "times.json"
        told.write_text(json.dumps([[asdict(a) for a in trace] for trace in traces]))
        load_format = "dummy" if args.dummy or args.shapes else "auto"
        command = [args.vllm, str(HERE / "peers" / "vllm_serving.py"), str(model), load_format, str(told), str(found)]
        command += [str(args.prompt + args.output), str(args.token_budget or 0)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
        result = json.loads(found.read_text())
    for pattern, trace, run in zip(args.patterns, traces[1:], result["runs"][1:], strict=True):
        for arrival, times in zip(trace, run["times"], strict=True):
            arrival.times = times
        yield pattern, {"version": result["version"], **figures(trace, run["seconds"])}


@contextmanager
def models(args: argparse.Namespace) -> Iterator[dict[str, str | Path]]:
    """What is served, by name: the model, or folders with the configuration of every shape."""
    if not args.shapes:
        yield {args.model: args.model}
        return
    from gpu_start import write_config

    with tempfile.TemporaryDirectory() as folder:
        places = {shape: Path(folder) / shape for shape in args.shapes}
        for shape, place in places.items():
            write_config(place, shape)
        yield dict(places)


def listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def patterns(text: str) -> list[str]:
    found = listed(text)
    if not found or set(found) - set(PATTERNS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PATTERNS)}, got {text!r}")
    return found


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="eventide-tiny", help="a checkpoint, a bundled model or a hub id (default eventide-tiny)")
    p.add_argument("--dummy", action="store_true", help="random weights: --model is a folder with a config.json")
    p.add_argument("--shapes", type=listed, default=[], help="random weights of shapes of gpu_decode.py instead, such as 8b,0.6b")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--schedules", type=listed, default=["static", "per_op"], help="with commas (default static,per_op)")
    p.add_argument("--vllm", default=sys.executable, metavar="PYTHON", help="the interpreter that may have vLLM (this one)")
    p.add_argument("--requests", type=int, default=200)
    p.add_argument("--rate", type=float, default=20.0, help="requests a second (default 20)")
    p.add_argument("--patterns", type=patterns, default=["poisson"], help="poisson, bursty, or both with a comma")
    p.add_argument("--prompt", type=int, default=128, help="the longest prompt (default 128 tokens)")
    p.add_argument("--output", type=int, default=64, help="the longest continuation (default 64 tokens)")
    p.add_argument("--token-budget", type=int, help="tokens of one step at most")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, help="CPU workers")
    p.add_argument("--commit", help="the commit to note, where there is no git")
    p.add_argument("--out", type=Path, help="where results go (benchmarks/results/serving.json, on a GPU gpu_serving.json)")
    p.add_argument("--show", action="store_true", help="print only, write nothing")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    runs: list[dict[str, Any]] = []

    def note(name: str, schedule: str, pattern: str, found: dict[str, Any]) -> None:
        runs.append({"model": name, "pattern": pattern, "schedule": schedule, **found})
        print(told(schedule, pattern, found), flush=True)

    with models(args) as served:
        for name, model in served.items():
            print(name, flush=True)
            for schedule in args.schedules:
                for pattern, found in ours(model, schedule, args):
                    note(name, schedule, pattern, found)
        on_gpu = any(run["device"] == "cuda" for run in runs)
        if on_gpu and has_vllm(args):
            for name, model in served.items():
                place = Path(model) if Path(model).exists() else eventide.models.hub.resolve(model)
                size = eventide.models.registry.load_config(place).vocab_size
                for pattern, found in vllm(place, size, args):
                    note(name, "vllm", pattern, found)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": args.commit or commit(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "load_average_before": os.getloadavg()[0]},
        "trace": {k: getattr(args, k) for k in ("requests", "rate", "prompt", "output", "token_budget", "seed")},
        "runs": runs,
    }
    if on_gpu:
        from gpu_decode import versions

        from eventide.backends.cuda.driver import Device

        result = {**versions(Device()), **result}
    if not args.show:
        out = args.out or HERE / "results" / ("gpu_serving.json" if on_gpu else "serving.json")
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main))
