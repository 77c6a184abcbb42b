"""From the start of a process to its first token on a GPU, a prompt of 512 tokens, and a long generation as one launch.

    python benchmarks/gpu_start.py --folder /tmp/8b        the 8B shape; writes 16 GB of random weights there first
    python benchmarks/gpu_start.py --folder /tmp/1b --model 1b

A process is started twice, with an empty cache of compiled code and plans and then with the cache that the first one left.
Seconds count from before the process is started until the first token is in the caller's hands; `reading` is what reading
the same files into memory takes a process that does nothing else, with the same (warm) page cache. The process goes on to
time prompts (the median of five, each with one token) and a generation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from facts import one_line
from gpu_decode import HERE, MODELS, config_of, versions

from eventide.models.config import ModelConfig

CHILD = """
import json, sys, time
import numpy as np
from eventide import LLM, SamplingParams
began, folder, prompt_len, tokens = float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
marks = {"imported": time.time() - began}
llm = LLM(folder, device="cuda", max_seq_len=4096, max_seqs=1)
marks["loaded"] = time.time() - began
one = SamplingParams(max_new_tokens=1, temperature=0, ignore_eos=True)
llm.generate([7, 8, 9], one)
marks["first token"] = time.time() - began
rng, prompts = np.random.default_rng(0), []
for _ in range(5 if prompt_len else 0):
    prompt = rng.integers(0, 1000, prompt_len).tolist()
    start = time.perf_counter()
    llm.generate(prompt, one)
    prompts.append((time.perf_counter() - start) * 1e3)
pieces = []
if tokens:
    start = time.perf_counter()
    for piece in llm.stream(prompt, SamplingParams(max_new_tokens=tokens, temperature=0, ignore_eos=True)):
        pieces.append((time.perf_counter() - start, len(piece.token_ids)))
print(json.dumps({"seconds": marks, "prompt_ms": prompts, "pieces": pieces}))
"""


def write_config(folder: Path, model: str) -> ModelConfig:
    """The model's config.json, enough for a model of random weights."""
    c = config_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "architectures": [c.architecture], "model_type": "llama" if "Llama" in c.architecture else "qwen3",
        "hidden_size": c.hidden_size, "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_dim, "vocab_size": c.vocab_size, "hidden_act": "silu",
        "tie_word_embeddings": c.tie_word_embeddings, "max_position_embeddings": c.max_position_embeddings,
        "rms_norm_eps": c.rms_norm_eps, "rope_theta": c.rope_theta, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(facts))
    return c


def write_checkpoint(folder: Path, model: str) -> int:
    """config.json and random weights under the names that checkpoints use; the number of bytes."""
    import ml_dtypes

    from eventide.models.weights import decoder_weights

    c = write_config(folder, model)
    header: dict[str, Any] = {}
    at = 0
    for source in (source for spec in decoder_weights(c) for source in spec.sources):
        size = int(np.prod(source.shape)) * 2
        header[source.name] = {"dtype": "BF16", "shape": list(source.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = (np.random.default_rng(0).standard_normal(32 << 20) * 0.02).astype(ml_dtypes.bfloat16).tobytes()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for first in range(0, at, len(block)):
            file.write(block[: min(len(block), at - first)])
    return at


def read_seconds(path: Path) -> float:
    """Reading a file into one buffer of memory."""
    buffer = memoryview(bytearray(64 << 20))
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        best = min(best, time.perf_counter() - start)
    return best


def run(folder: Path, cache: str, prompt_len: int, tokens: int) -> dict[str, Any]:
    environment = {**os.environ, "EVENTIDE_CACHE_DIR": cache}
    began = time.time()
    command = [sys.executable, "-c", CHILD, str(began), str(folder), str(prompt_len), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"error: the process failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, help="where the checkpoint stands, or is written")
    p.add_argument("--model", default="8b", choices=MODELS)
    p.add_argument("--prompt", type=int, default=512, help="tokens of the prompts (512)")
    p.add_argument("--tokens", type=int, default=3000, help="tokens of the generation (3000)")
    p.add_argument("--commit", help="the commit to note, where there is no git")
    p.add_argument("--out", type=Path, default=HERE / "results" / "gpu_start.json")
    args = p.parse_args()
    weights = args.folder / "model.safetensors"
    if not weights.exists():
        write_checkpoint(args.folder, args.model)
    reading = read_seconds(weights)
    with tempfile.TemporaryDirectory() as cache:
        cold = run(args.folder, cache, 0, 0)
        cached = run(args.folder, cache, args.prompt, args.tokens)
    pieces = cached["pieces"]
    (first_s, first_n), (last_s, _) = pieces[0], pieces[-1]
    result = {
        "model": args.model, "bytes": weights.stat().st_size, "reading_s": reading, "cold_s": cold["seconds"],
        "cached_s": cached["seconds"], "prompt_tokens": args.prompt, "prompt_ms": sorted(cached["prompt_ms"])[2],
        "prompts_ms": cached["prompt_ms"], "generation_tokens": sum(n for _, n in pieces), "pieces": len(pieces),
        "ms_a_token": (last_s - first_s) * 1e3 / (sum(n for _, n in pieces) - first_n),
    }  # fmt: skip
    from eventide.backends.cuda.driver import Device

    result = {**versions(Device()), **({"commit": args.commit} if args.commit else {}), **result}
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main))
