"""Decoding a batch of mixed lengths on this CPU beside llama.cpp, in one run.

    .venv/bin/python benchmarks/batch.py --llama-cpp /tmp/llama/bin/python          (set up as benchmarks/cpu.py --help says)

Eight sequences of the Qwen3-0.6B shape, prompts of 16 to 900 tokens, each drawing `--tokens` more at once; the time begins when
all of them have drawn their first. Eventide runs them through `eventide.Engine`, llama.cpp as one batch a step through its C
interface; both hold the same random bfloat16 weights and are asked in turns, round after round. llama.cpp is loaded in both of
its ways and the better one of each round counts. Results, with machine and commit, go to benchmarks/results/ as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from cpu import Contender, machine  # noqa: E402
from facts import commit  # noqa: E402
from peers.model import MODELS, make_checkpoint  # noqa: E402

MODEL = "qwen3-0.6b"
BAR = 1.7  # times llama.cpp's tokens a second


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama-cpp", metavar="PYTHON", required=True, help="an interpreter that has llama-cpp-python and gguf")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--tokens", type=int, default=16, help="tokens of each sequence that are timed (default 16)")
    p.add_argument("--work-dir", type=Path, default=Path(tempfile.gettempdir()) / "eventide-bench", help="1.2 GB twice")
    p.add_argument("--out", type=Path, default=HERE / "results" / "batch.json")
    p.add_argument("--show", action="store_true", help="print only, write nothing")
    args = p.parse_args()
    before = machine()
    checkpoint = make_checkpoint(args.work_dir / MODEL, MODELS[MODEL])
    gguf = args.work_dir / f"{MODEL}.gguf"
    if not gguf.exists():
        subprocess.run([args.llama_cpp, HERE / "peers" / "make_gguf.py", checkpoint, gguf], check=True)
    options = {"model": str(checkpoint), "gguf": str(gguf), "threads": args.threads}
    peers = [
        Contender("eventide", sys.executable, "eventide_worker.py", options),
        Contender("llama.cpp", args.llama_cpp, "llama_worker.py", {**options, "mmap": False}),
        Contender("llama.cpp mapped", args.llama_cpp, "llama_worker.py", {**options, "mmap": True}),
    ]
    for peer in peers:  # pages, caches, threads
        peer.ask(kind="mixed", batch=8, tokens=4)
    rounds: list[dict[str, float]] = []
    for number in range(args.rounds):
        order = peers[number % len(peers) :] + peers[: number % len(peers)]
        rounds.append({peer.name: peer.ask(kind="mixed", batch=8, tokens=args.tokens)["tokens_per_s"] for peer in order})
        print(", ".join(f"{name} {rounds[-1][name]:.1f}" for name in sorted(rounds[-1])), file=sys.stderr, flush=True)
    for peer in peers:
        peer.close()
    ratio = median(r["eventide"] / max(r["llama.cpp"], r["llama.cpp mapped"]) for r in rounds)
    medians = {peer.name: median(r[peer.name] for r in rounds) for peer in peers}
    print(" · ".join(f"{name} {value:.1f} tokens/s" for name, value in medians.items()))
    print(f"{'reached' if ratio >= BAR else 'MISSED'}: {ratio:.2f} × llama.cpp (bar {BAR})")
    if not args.show:
        document = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit(), "machine": before,
            "threads": args.threads, "tokens": args.tokens, "contenders": {peer.name: peer.facts for peer in peers},
            "medians": medians, "ratio": ratio, "bar": BAR, "rounds": rounds,
        }  # fmt: skip
        args.out.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written to {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
