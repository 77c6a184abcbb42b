"""Batch-1 decoding on a GPU: milliseconds a token, beside what reading the weights alone would take.

    python benchmarks/gpu_decode.py                         every row, 256 tokens each, results as JSON
    python benchmarks/gpu_decode.py --quick                 two small rows, 64 tokens
    python benchmarks/gpu_decode.py --models 8b --context 4096 --show

Random bfloat16 weights of the real shapes, greedy, one sequence. A launch makes all the tokens of a row; it runs `--rounds`
times, timed by the GPU's own clock, and a figure is the median of launches divided by their tokens. The read ceiling is
measured before and after the rows, on a buffer of 8 GiB. `floor` is the bytes of weights and of the past, at the ceiling.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np

from eventide import __version__, target
from eventide.backends.cuda.codegen import DEVICE
from eventide.backends.cuda.driver import Device
from eventide.backends.cuda.kernel import CudaKernel
from eventide.backends.cuda.layout import packed_bytes
from eventide.backends.cuda.nvrtc import compile_source
from eventide.engine.steps import Chunk, decode_tables, default_block_table, split_tables
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.models.rope import rope_table
from eventide.passes.pipeline import compile_plan

HERE = Path(__file__).parent
SHARED = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_scaling": None, "qkv_bias": False, "max_position_embeddings": 40960}
QWEN3 = {**SHARED, "architecture": "Qwen3ForCausalLM", "qk_norm": True, "vocab_size": 151936, "head_dim": 128, "num_kv_heads": 8}
LLAMA = {**SHARED, "architecture": "LlamaForCausalLM", "qk_norm": False, "vocab_size": 128256, "head_dim": 64, "num_kv_heads": 8}
MODELS: dict[str, dict[str, Any]] = {
    "0.6b": {**QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_layers": 28, "num_heads": 16},
    "1b": {**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_layers": 16, "num_heads": 32},
    "1.7b": {**QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_layers": 28, "num_heads": 16},
    "8b": {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_layers": 36, "num_heads": 32, "tied": False},
}
NAMES = {"0.6b": "Qwen3-0.6B", "1b": "Llama-3.2-1B", "1.7b": "Qwen3-1.7B", "8b": "Qwen3-8B"}


@dataclass(frozen=True)
class Row:
    """One line of the table; `must` is milliseconds a token."""

    model: str
    context: int
    must: float


ROWS = (Row("0.6b", 512, 0.52), Row("1b", 512, 0.63), Row("1.7b", 512, 0.90), Row("8b", 512, 3.60), Row("8b", 4096, 3.8))


def config_of(model: str) -> ModelConfig:
    facts = {"tied": True, **MODELS[model]}
    return ModelConfig(tie_word_embeddings=facts.pop("tied"), dtype="bfloat16", **facts)


def plan_of(model: str, context: int, tokens: int) -> tuple[Any, ModelConfig, Limits]:
    config = config_of(model)
    limits = Limits(max_tokens=1, max_rows=1, max_seqs=1, max_seq_len=-(-(context + tokens) // 64) * 64)
    plan = compile_plan(build_decoder(config, limits, "bfloat16", decode=True), target.h200(tile_tokens=1))
    return plan, config, limits


def fill(kernel: CudaKernel, config: ModelConfig, limits: Limits) -> int:
    """Random weights, written as they stand in memory (any order of random numbers is as random); bytes of a token's reads."""
    d = kernel.device
    random = (np.random.default_rng(0).standard_normal(16 << 20) * 0.02).astype(ml_dtypes.bfloat16)
    blocks = [(a.nbytes, d.allocate(a.nbytes, "random numbers")) for a in (random, np.ones(1 << 20, ml_dtypes.bfloat16))]
    d.upload(blocks[0][1], random)
    d.upload(blocks[1][1], np.ones(1 << 20, ml_dtypes.bfloat16))
    streamed = 0
    for t in kernel.plan.tensors.values():
        if t.role != "weight":
            continue
        if t.name == "rope":
            kernel.bind_weights("rope", rope_table(config, limits.max_seq_len))
            continue
        size, (length, source) = packed_bytes(t), blocks[0 if t.ndim == 2 else 1]
        for at in range(0, size, length):
            d.call(d.cu.cuMemcpyDtoDAsync, kernel.addresses[t.name] + at, source, min(length, size - at), d.stream)
        kernel.memory.bound.add(t.name)
        # an untied embedding gives one row a token
        streamed += size if t.name != "embed_tokens" or config.tie_word_embeddings else config.hidden_size * 2
    d.synchronize()
    for _, address in blocks:
        d.free(address)
    return streamed


def measure(device: Device, row: Row, tokens: int, rounds: int) -> dict[str, Any]:
    began = time.perf_counter()
    plan, config, limits = plan_of(row.model, row.context, tokens)
    kernel = CudaKernel(plan, device=device)
    weight_bytes = fill(kernel, config, limits)
    ready = time.perf_counter() - began
    symbols, inputs, stacked = decode_tables(limits, [Chunk(0, row.context, 1)], tokens, default_block_table(limits))
    inputs |= split_tables(limits, row.context + tokens, max(1, kernel.workers // (2 * config.num_kv_heads)))
    symbols["num_splits"] = len(inputs["split_begin"])
    found = []
    for _ in range(rounds + 1):
        kernel.run_loop(symbols, inputs, tokens, stacked=stacked - {"slot"})
        found.append(kernel.milliseconds / tokens)
    past = 2 * config.num_layers * config.kv_rows * 2 * (row.context + tokens / 2)
    kernel.close()
    kernel.memory.close()
    return {
        "model": NAMES[row.model], "context": row.context, "tokens": tokens, "ms": median(found[1:]), "rounds_ms": found[1:],
        "must_ms": row.must, "weight_bytes": weight_bytes, "past_bytes": past, "seconds_to_ready": ready, **kernel.binary.resources,
    }  # fmt: skip


def read_ceiling(device: Device, nbytes: int = 8 << 30) -> float:
    """Bytes a second: the best of 8 passes over a buffer far larger than the cache."""
    text = "\n".join(p.read_text().replace("#pragma once\n", "") for p in (DEVICE / "ptx.cuh", HERE / "gpu_read.cu"))
    function = device.function(compile_source(text).cubin, "read_all")
    device.shared_memory(function, 24 * 8192)
    buffer = device.allocate(nbytes, "the read test")
    device.fill(buffer, 1, nbytes)
    begin, end, found = device.event(), device.event(), []
    chunks = nbytes // 8192
    for _ in range(8):
        device.record(begin)
        values = (ctypes.c_uint64(buffer), ctypes.c_int64(chunks), ctypes.c_uint64(buffer))
        device.launch(function, device.num_sms, 288, 24 * 8192, *values)
        device.record(end)
        device.synchronize()
        found.append(chunks // device.num_sms * device.num_sms * 8192 / device.milliseconds(begin, end) * 1e3)
    device.free(buffer)
    return max(found[1:])


def versions(device: Device) -> dict[str, Any]:
    from cuda.bindings import nvrtc

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    smi = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    return {
        "gpu": device.name, "multiprocessors": device.num_sms, "driver": smi.stdout.strip().splitlines()[0] if smi.stdout else "",
        "cuda_driver": device.driver_version, "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
        "python": platform.python_version(), "eventide": __version__, "commit": commit,
    }  # fmt: skip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="the two small rows, 64 tokens, 3 launches")
    p.add_argument("--models", help=f"some of {', '.join(MODELS)}, with commas")
    p.add_argument("--context", type=int, help="one context for all rows in place of the table's")
    p.add_argument("--tokens", type=int, help="tokens a launch (256)")
    p.add_argument("--rounds", type=int, help="launches a row (5)")
    p.add_argument("--commit", help="the commit to note, where there is no git")
    p.add_argument("--out", type=Path, help="where results go (benchmarks/results/gpu_decode.json)")
    p.add_argument("--show", action="store_true", help="print only, write nothing")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    models = args.models.split(",") if args.models else list(MODELS)
    if unknown := set(models) - set(MODELS):
        print(f"error: unknown model '{min(unknown)}'; known are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    rows = [r for r in ROWS if r.model in models and (not args.quick or r.model in ("0.6b", "1b"))]
    if args.context:
        rows = list(dict.fromkeys(replace(r, context=args.context, must=float("nan")) for r in rows))
    device = Device()
    result: dict[str, Any] = {**versions(device), "ceiling_bytes_s": [read_ceiling(device)], "rows": []}
    if args.commit:
        result["commit"] = args.commit
    for row in rows:
        entry = measure(device, row, args.tokens or (64 if args.quick else 256), args.rounds or (3 if args.quick else 5))
        entry["floor_ms"] = (entry["weight_bytes"] + entry["past_bytes"]) / result["ceiling_bytes_s"][0] * 1e3
        result["rows"].append(entry)
        rate = (entry["weight_bytes"] + entry["past_bytes"]) / entry["ms"] / 1e9
        print(
            f"{entry['model']:13} context {row.context:5}  {entry['ms']:.4f} ms  floor {entry['floor_ms']:.4f}  "
            f"must {row.must:.2f}  {rate:.2f} TB/s  spills {entry['spill_bytes']}  ready in {entry['seconds_to_ready']:.1f} s",
            flush=True,
        )
    result["ceiling_bytes_s"].append(read_ceiling(device))
    print(f"read ceiling {', '.join(f'{v / 1e12:.3f}' for v in result['ceiling_bytes_s'])} TB/s")
    if not args.show:
        out = args.out or HERE / "results" / "gpu_decode.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
