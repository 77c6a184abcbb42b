"""Speed on this CPU beside transformers and llama.cpp, all in one run: paired, interleaved, medians.

Every contender is a process of its own that holds the same random bfloat16 weights (llama.cpp in a GGUF file made of
them) and waits; the driver asks one after another to do the same piece of work, round after round, and measures the
memory's read bandwidth in each round too. So a machine that changes its speed changes it for all of them, and ratios
compare what was measured within the same seconds.

  decode      tokens a second after a short prompt, batch 1 and batch 8
  prefill     tokens a second of a prompt of 512 tokens, to its last logits
  busy        decode batch 1 while another process keeps one core busy

Peers are installed only for this, in environments of their own:

  python -m venv /tmp/hf    && /tmp/hf/bin/pip install torch==2.13.0 transformers safetensors
  python -m venv /tmp/llama && /tmp/llama/bin/pip install llama-cpp-python gguf numpy       (builds llama.cpp from source
                                                                                            for this machine: minutes)
  make run                                                                                  (installs Eventide into .venv)
  .venv/bin/python benchmarks/cpu.py --transformers /tmp/hf/bin/python --llama-cpp /tmp/llama/bin/python

A peer whose interpreter isn't given is left out. Results go to benchmarks/results/ as JSON, with machine, versions and
commit.
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
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from facts import commit  # noqa: E402
from peers.model import MODELS, make_checkpoint  # noqa: E402

# what the issue asks of Eventide: (name, figure over figure, least ratio)
BARS = (
    ("qwen3-0.6b decode 1", "bandwidth", 0.90),
    ("qwen3-0.6b decode 1", "llama.cpp", 1.15),
    ("qwen3-0.6b decode 1", "transformers", 2.5),
    ("qwen3-0.6b decode 8", "llama.cpp", 2.0),
    ("qwen3-0.6b prefill 512", "llama.cpp", 1.8),
    ("qwen3-0.6b prefill 512", "transformers", 1.8),
    ("tiny decode 1", "llama.cpp", 1.8),
    ("qwen3-0.6b decode 1 busy", "llama.cpp", 1.0),
)


@dataclass(frozen=True)
class Work:
    """One measurement: `tokens` is the prompt's length for a prefill, else the tokens to generate."""

    model: str
    kind: str
    batch: int
    tokens: int
    busy: bool = False

    @property
    def name(self) -> str:
        size = self.tokens if self.kind == "prefill" else self.batch
        return f"{self.model} {self.kind} {size}{' busy' if self.busy else ''}"


def works(quick: bool) -> list[Work]:
    n = 12 if quick else 32
    return [
        Work("qwen3-0.6b", "decode", 1, n),
        Work("qwen3-0.6b", "decode", 8, n // 2),
        Work("qwen3-0.6b", "prefill", 1, 512),
        Work("qwen3-0.6b", "decode", 1, n // 2, busy=True),
        Work("tiny", "decode", 1, 400),
        Work("tiny", "decode", 8, 200),
        Work("tiny", "prefill", 1, 512),
    ]


class Contender:
    """A process that holds one model and answers requests of one JSON line with one JSON line."""

    def __init__(self, name: str, python: str, script: str, options: dict[str, Any]) -> None:
        self.name = name
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(options["threads"])}
        self.process = subprocess.Popen(
            [python, "-u", str(HERE / "peers" / script), json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.facts = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print other things
                return json.loads(line)
        raise SystemExit(f"error: {self.name} ended with exit code {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def contenders(args: argparse.Namespace, model: str, directory: Path, gguf: Path) -> list[Contender]:
    options = {"model": str(directory), "gguf": str(gguf), "threads": args.threads}
    found = [Contender("eventide", sys.executable, "eventide_worker.py", options)]
    if args.transformers:
        found.append(Contender("transformers", args.transformers, "transformers_worker.py", options))
    if args.llama_cpp:
        found += [
            Contender("llama.cpp", args.llama_cpp, "llama_worker.py", {**options, "mmap": False}),
            Contender("llama.cpp mapped", args.llama_cpp, "llama_worker.py", {**options, "mmap": True}),
        ]
    return found


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Tokens a second of every contender for every work, a list with one figure a round; bandwidth in bytes a second."""
    figures: dict[str, dict[str, list[float]]] = {}
    directory = Path(args.work_dir)
    for model in args.models:
        checkpoint = make_checkpoint(directory / model, MODELS[model])
        gguf = directory / f"{model}.gguf"
        if args.llama_cpp and not gguf.exists():
            subprocess.run([args.llama_cpp, HERE / "peers" / "make_gguf.py", checkpoint, gguf], check=True)
        peers = contenders(args, model, checkpoint, gguf)
        for peer in peers:
            args.facts.setdefault(peer.name, {}).update(peer.facts)
        _check_agreement(peers, args.facts)
        todo = [work for work in works(args.quick) if work.model == model]
        for work in todo:  # warm up: pages, caches, threads
            for peer in peers:
                peer.ask(kind=work.kind, batch=work.batch, tokens=min(work.tokens, 64 if work.kind == "prefill" else 4))
        for number in range(args.rounds):
            for work in todo:
                row = figures.setdefault(work.name, {})
                # the order turns from round to round, so that nobody always follows the same neighbour
                order = peers[number % len(peers) :] + peers[: number % len(peers)]
                burner = _burn_a_core() if work.busy else None
                try:
                    row.setdefault("bandwidth", []).append(peers[0].ask(kind="bandwidth")["bytes_per_s"])
                    for peer in order:
                        answer = peer.ask(kind=work.kind, batch=work.batch, tokens=work.tokens)
                        row.setdefault(peer.name, []).append(answer["tokens_per_s"])
                finally:
                    if burner:
                        burner.kill()
                        burner.wait()
                shown = ", ".join(f"{name} {values[-1]:,.1f}" for name, values in row.items() if name != "bandwidth")
                print(f"round {number + 1}/{args.rounds}  {work.name}: {shown}", file=sys.stderr, flush=True)
        for peer in peers:
            peer.close()
    return figures


def _burn_a_core() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def _check_agreement(peers: list[Contender], facts: dict[str, Any]) -> None:
    """All contenders must hold the same weights: their last logits of one prompt may differ by rounding alone."""
    expected = peers[0].ask(kind="logits")["logits"]
    norm = sum(x * x for x in expected) ** 0.5
    for peer in peers[1:]:
        found = peer.ask(kind="logits")["logits"]
        error = sum((x - y) ** 2 for x, y in zip(found, expected, strict=True)) ** 0.5 / norm
        facts[peer.name]["logits_error"] = error
        if not error < 0.05:
            raise SystemExit(f"error: {peer.name} computes something else: relative difference of its logits {error:.3g}")


def summarize(figures: dict[str, dict[str, list[float]]], weight_bytes: dict[str, int]) -> dict[str, Any]:
    """Medians, and ratios of Eventide to each contender as medians over the rounds."""
    summary: dict[str, Any] = {}
    for name, row in figures.items():
        medians = {who: median(values) for who, values in row.items()}
        ratios = {}
        for who, values in row.items():
            if who == "bandwidth":
                if "decode 1" in name:
                    # a decode step reads every weight once (of the embeddings, tied to the head, the head's share)
                    pairs = [e * weight_bytes[name.split()[0]] / b for e, b in zip(row["eventide"], values, strict=True)]
                    ratios[who] = median(pairs)
            elif who != "eventide":
                ratios[who] = median(e / v for e, v in zip(row["eventide"], values, strict=True))
        if "llama.cpp mapped" in ratios:  # its better loading mode counts
            best = [max(pair) for pair in zip(row["llama.cpp"], row["llama.cpp mapped"], strict=True)]
            ratios["llama.cpp"] = median(e / v for e, v in zip(row["eventide"], best, strict=True))
            del ratios["llama.cpp mapped"]
        summary[name] = {"medians": medians, "ratios": ratios}
    bars = []
    for name, against, least in BARS:
        if against in summary.get(name, {}).get("ratios", {}):
            ratio = summary[name]["ratios"][against]
            bars.append({"work": name, "against": against, "ratio": ratio, "bar": least, "reached": ratio >= least})
    return {"works": summary, "bars": bars}


def machine() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    flags = next((line.split(":")[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "isa": [flag for flag in wanted if flag in flags],
        "load_average_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _show(result: dict[str, Any]) -> None:
    for name, entry in result["works"].items():
        parts = [
            f"{who} {value / 1e9:.1f} GB/s" if who == "bandwidth" else f"{who} {value:,.1f}"
            for who, value in entry["medians"].items()
        ]
        print(f"{name:26s} {' · '.join(parts)}")
    for bar in result["bars"]:
        verdict = "reached" if bar["reached"] else "MISSED"
        print(f"{verdict:8s} {bar['work']:26s} {bar['ratio']:5.2f} × {bar['against']} (bar {bar['bar']})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers", metavar="PYTHON", help="an interpreter that has torch and transformers")
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="an interpreter that has llama-cpp-python and gguf")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="fewer tokens a round")
    parser.add_argument("--work-dir", default=str(Path(tempfile.gettempdir()) / "eventide-bench"), help="1.2 GB twice")
    parser.add_argument("--output", help="default: benchmarks/results/cpu-DATE.json")
    args = parser.parse_args()
    args.facts = {}
    before = machine()
    start = time.time()
    figures = measure(args)
    result = summarize(figures, {name: shape.decode_bytes for name, shape in MODELS.items()})
    document = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start)),
        "commit": commit(),
        "machine": before,
        "threads": args.threads,
        "rounds": args.rounds,
        "contenders": args.facts,
        **result,
        "figures": figures,
    }
    path = Path(args.output or HERE / "results" / f"cpu-{time.strftime('%Y%m%d-%H%M', time.gmtime(start))}.json")
    path.write_text(json.dumps(document, indent=1) + "\n")
    _show(result)
    print(f"written to {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
