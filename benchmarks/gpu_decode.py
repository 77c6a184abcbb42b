"""Batch-1 decoding on a GPU: milliseconds a token, beside the floor, a graph of one kernel an operator, and transformers.

    python benchmarks/gpu_decode.py --transformers python3 --ablations       everything; results as JSON
    python benchmarks/gpu_decode.py --quick                                  two small rows, 64 tokens, no peers
    python benchmarks/gpu_decode.py --models 8b --context 4096 --show

Random bfloat16 weights of the real shapes, greedy, one sequence. A launch of the persistent kernel makes all the tokens of a
row, a launch of the graph one; a figure is the median of `--rounds` runs by the GPU's own clock, divided by their tokens. The
read ceiling is measured before and after every row; `floor` is the bytes of weights and of the past at the larger of them.
`--transformers` runs peers/transformers_gpu.py with the interpreter given, for the same shape. `--ablations` compiles the
persistent kernel again with one mechanism left out. Kernels are counted by torch.profiler, where torch is installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np
from facts import commit, one_line

from eventide import __version__, target
from eventide.backends.cuda.bandwidth import measure_read_bandwidth
from eventide.backends.cuda.driver import Device
from eventide.backends.cuda.fit import divisions
from eventide.backends.cuda.kernel import CudaKernel
from eventide.backends.cuda.layout import packed_bytes
from eventide.engine.steps import Chunk, decode_tables, default_block_table, split_tables_by_step
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
# what is left out, as changes to the kernel's configuration
ABLATIONS: dict[str, dict[str, int]] = {
    "no run-ahead": {"no_run_ahead": 1},
    "88 KB or more in flight, not 48": {"in_flight": 15},
    "no limit in flight, of 16 slots": {"slots": 16, "in_flight": 16},
    "one barrier a phase": {"phase_barrier": 1, "announce": 0},
    "counters only": {"announce": 0},
}


def config_of(model: str) -> ModelConfig:
    facts = {"tied": True, **MODELS[model]}
    return ModelConfig(tie_word_embeddings=facts.pop("tied"), dtype="bfloat16", **facts)


def plan_of(
    model: str, context: int, tokens: int, schedule: str = "static", *, tight: bool = True
) -> tuple[Any, ModelConfig, Limits]:
    config = config_of(model)
    limits = Limits(max_tokens=1, max_rows=1, max_seqs=1, max_seq_len=-(-(context + tokens) // 64) * 64)
    made_for = target.h200(tile_tokens=1, tight=tight)
    plan = compile_plan(build_decoder(config, limits, "bfloat16", decode=True), made_for, schedule)
    return plan, config, limits


def fill(kernel: CudaKernel, config: ModelConfig, limits: Limits) -> int:
    """Random weights, the same 16 million over and over, which stay on the GPU; bytes of a token's reads."""
    d, memory = kernel.device, kernel.memory
    random = (np.random.default_rng(0).standard_normal(16 << 20) * 0.02).astype(ml_dtypes.bfloat16)
    source = d.allocate(random.nbytes, "random numbers")
    d.upload(source, random)
    streamed = 0
    for t in kernel.plan.tensors.values():
        if t.role != "weight":
            continue
        if t.name == "rope":
            kernel.bind_weights("rope", rope_table(config, limits.max_seq_len))
            continue
        size, shape = packed_bytes(t), [int(str(e)) for e in t.shape]
        if len(shape) == 1:
            kernel.bind_weights(t.name, np.ones(shape, ml_dtypes.bfloat16))
        elif t.layout == "plain":
            for at in range(0, size, random.nbytes):
                count = min(random.nbytes, size - at)
                d.call(d.cu.cuMemcpyDtoDAsync, kernel.addresses[t.name] + at, source, count, d.stream)
        else:
            d.fill(kernel.addresses[t.name], 0, size)
            rows = random.size // shape[1]
            for first in range(0, shape[0], rows):
                memory.pack(t, source, first, 1, min(rows, shape[0] - first))
        memory.bound.add(t.name)
        # an untied embedding gives one row a token
        streamed += size if t.name != "embed_tokens" or config.tie_word_embeddings else config.hidden_size * 2
    memory.end_loading()
    d.free(source)
    return streamed


class Case:
    """One row's weights on the GPU, and how to run a kernel over them."""

    def __init__(self, device: Device, row: Row, tokens: int, *, tight: bool = True) -> None:
        began = time.perf_counter()
        self.row, self.tokens = row, tokens
        plan, self.config, self.limits = plan_of(row.model, row.context, tokens, tight=tight)
        self.kernel = CudaKernel(plan, device=device)
        self.weight_bytes = fill(self.kernel, self.config, self.limits)
        self.seconds_to_ready = time.perf_counter() - began
        self.past_bytes = 2 * self.config.num_layers * self.config.kv_rows * 2 * (row.context + tokens / 2)
        self.splits = max(1, self.kernel.workers // (2 * self.config.num_kv_heads))

    def run(self, kernel: CudaKernel) -> np.ndarray:
        """The tokens of one generation, [tokens]."""
        chunk = Chunk(0, self.row.context, 1)
        symbols, inputs, stacked = decode_tables(self.limits, [chunk], self.tokens, default_block_table(self.limits))
        inputs |= split_tables_by_step(self.limits, inputs["pos"][:, 0] + 1, self.splits)
        symbols["num_splits"] = inputs["split_begin"].shape[1]
        stacked = stacked - {"slot"} | {"split_begin", "split_end"}
        found = kernel.run_loop(symbols, inputs, self.tokens, stacked=stacked, keep=["next_token"], interval_s=1.0)
        return found.outputs["next_token"][:, 0]

    def measure(self, kernel: CudaKernel, rounds: int) -> list[float]:
        """Milliseconds a token, of each round."""
        found = []
        for _ in range(rounds + 1):
            self.run(kernel)
            found.append(kernel.milliseconds / self.tokens)
        return found[1:]

    def with_changes(self, **changes: int) -> CudaKernel:
        """The persistent kernel with other settings."""
        config = replace(divisions(self.kernel.plan)[0], **changes)
        return CudaKernel(self.kernel.plan, config, memory=self.kernel.memory)

    def close(self) -> None:
        self.kernel.close()
        self.kernel.memory.close()


def ablations(case: Case, rounds: int) -> dict[str, float]:
    found = {}
    for name, changes in ABLATIONS.items():
        kernel = case.with_changes(**changes)
        found[name] = median(case.measure(kernel, rounds))
        kernel.close()
    other = Case(case.kernel.device, case.row, case.tokens, tight=False)
    found["weights in 16 bits"] = median(other.measure(other.kernel, rounds))
    other.close()
    return found


def launches(case: Case, kernel: CudaKernel) -> dict[str, int] | None:
    """Kernels that ran while one generation was made, by name, as CUPTI saw them; None where torch isn't installed."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        return None
    torch.cuda.init()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        case.run(kernel)
        torch.cuda.synchronize()
    names = (e.name for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA)
    return dict(Counter(name for name in names if not name.startswith(("Memcpy", "Memset"))))


def transformers(python: str, case: Case, rounds: int) -> dict[str, Any]:
    c = case.config
    facts = {
        "model_type": "llama" if "Llama" in c.architecture else "qwen3", "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size, "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_dim, "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_word_embeddings, "max_position_embeddings": c.max_position_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta}, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(facts, file)
        file.flush()
        numbers = [str(n) for n in (case.row.context, case.tokens, rounds)]
        command = [python, str(HERE / "peers" / "transformers_gpu.py"), file.name, *numbers]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(device: Device, row: Row, args: argparse.Namespace, tokens: int, rounds: int) -> dict[str, Any]:
    ceiling = [measure_read_bandwidth(device)]
    case = Case(device, row, tokens)
    found = case.measure(case.kernel, rounds)
    entry: dict[str, Any] = {
        "model": NAMES[row.model], "context": row.context, "tokens": tokens, "ms": median(found), "rounds_ms": found,
        "must_ms": row.must, "weight_bytes": case.weight_bytes, "past_bytes": case.past_bytes,
        "seconds_to_ready": case.seconds_to_ready, **case.kernel.binary.resources, "launches": launches(case, case.kernel),
    }  # fmt: skip
    if not args.no_per_op:
        plan, *_ = plan_of(row.model, row.context, tokens, "per_op")
        graph = CudaKernel(plan, memory=case.kernel.memory)
        found = case.measure(graph, rounds)
        entry |= {"per_op_ms": median(found), "per_op_rounds_ms": found}
        entry["per_op_launches"] = sum((launches(case, graph) or {}).values())
        entry["per_op_same_tokens"] = bool(np.array_equal(case.run(graph), case.run(case.kernel)))
        graph.close()
    if args.ablations:
        entry["ablations_ms"] = ablations(case, max(1, rounds // 2))
    case.close()
    if args.transformers:
        entry["transformers"] = transformers(args.transformers, case, max(1, rounds // 2))
    ceiling.append(measure_read_bandwidth(device))
    entry["ceiling_bytes_s"] = ceiling
    entry["floor_ms"] = (entry["weight_bytes"] + entry["past_bytes"]) / max(ceiling) * 1e3
    return entry


def told(entry: dict[str, Any]) -> str:
    """One row for the terminal."""
    rate = (entry["weight_bytes"] + entry["past_bytes"]) / entry["ms"] / 1e9
    text = (
        f"{entry['model']:13} context {entry['context']:5}  {entry['ms']:.4f} ms  floor {entry['floor_ms']:.4f}  "
        f"must {entry['must_ms']:.2f}  {rate:.2f} of {max(entry['ceiling_bytes_s']) / 1e12:.2f} TB/s  "
        f"spills {entry['spill_bytes']}"
    )
    if "per_op_ms" in entry:
        text += f"\n{'':14}per_op {entry['per_op_ms']:.4f} ms, same tokens: {entry['per_op_same_tokens']}"
    if entry["launches"] is not None:
        text += f"\n{'':14}kernels of a generation: {entry['launches']}, per_op {entry.get('per_op_launches')}"
    if "transformers" in entry:
        peer = entry["transformers"]
        text += f"\n{'':14}transformers: graph {peer['graph_ms']:.3f}, eager {peer['eager_ms']:.3f}"
    for name, ms in entry.get("ablations_ms", {}).items():
        text += f"\n{'':14}{name}: {ms:.4f} ms ({ms / entry['ms'] - 1:+.1%})"
    return text


def versions(device: Device) -> dict[str, Any]:
    from cuda.bindings import nvrtc

    smi = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    return {
        "gpu": device.name, "multiprocessors": device.num_sms, "driver": smi.stdout.strip().splitlines()[0] if smi.stdout else "",
        "cuda_driver": device.driver_version, "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
        "python": platform.python_version(), "eventide": __version__, "commit": commit(),
    }  # fmt: skip


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="the two small rows, 64 tokens, 3 launches")
    p.add_argument("--models", help=f"some of {', '.join(MODELS)}, with commas")
    p.add_argument("--context", type=int, help="one context for all rows in place of the table's")
    p.add_argument("--tokens", type=int, help="tokens a launch (256)")
    p.add_argument("--rounds", type=int, help="launches a row (5)")
    p.add_argument("--transformers", metavar="PYTHON", help="an interpreter that has torch and transformers")
    p.add_argument("--ablations", action="store_true", help="each row again with one mechanism left out in turn")
    p.add_argument("--no-per-op", action="store_true", help="leave out the graph of one kernel an operator")
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
    result: dict[str, Any] = {**versions(device), "rows": []}
    if args.commit:
        result["commit"] = args.commit
    out = args.out or HERE / "results" / "gpu_decode.json"
    for row in rows:
        entry = measure(device, row, args, args.tokens or (64 if args.quick else 256), args.rounds or (3 if args.quick else 5))
        result["rows"].append(entry)
        print(told(entry), flush=True)
        if not args.show:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main))
