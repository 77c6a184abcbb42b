"""Steps of many tokens on a GPU: a prompt of 512 tokens, and batches that decode, of a random model of a real shape.

    python benchmarks/gpu_many.py --model 8b --tokens 128,64,32,16 --batches 64,32,16,8

One kernel for each number of `--tokens` that a task of the linears takes; every figure is the median of `--rounds` launches by
the GPU's own clock. A prompt is one launch, a batch one launch of 16 steps at `--context`. With 128 tokens and more a
prompt is one step, as in the engine. `--tight` holds weights in 12 bits.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from statistics import median

from facts import one_line
from gpu_decode import MODELS, config_of, fill

from eventide import target
from eventide.backends.cuda.kernel import CudaKernel
from eventide.engine.cuda import PROMPT, PROMPT_QUERIES, PROMPT_TILE
from eventide.engine.limits import MAX_SEQS
from eventide.engine.steps import Chunk, Step, make_step
from eventide.models.decoder import Limits, build_decoder
from eventide.passes.pipeline import compile_plan

STEPS = 16


def milliseconds(kernel: CudaKernel, steps: list[Step], rounds: int) -> float:
    found = []
    for _ in range(rounds + 1):
        kernel.run(steps, large=False)
        found.append(kernel.milliseconds)
    return median(found[1:])


def measure(args: argparse.Namespace, tokens: int) -> dict[str, object]:
    config = config_of(args.model)
    longest, prompts = max(args.context + STEPS, PROMPT), tokens >= PROMPT_TILE
    width, seqs = (PROMPT, MAX_SEQS) if prompts else (tokens, tokens)
    limits = Limits(max_tokens=width, max_rows=seqs, max_seqs=seqs, max_seq_len=-(-longest // 64) * 64)
    program = build_decoder(config, limits, "bfloat16", splits=1 if prompts else args.splits)
    together = PROMPT_QUERIES if prompts else max(1, 16 * config.num_kv_heads // config.num_heads)  # queries of one attention task
    made_for = replace(target.h200(tile_tokens=tokens, tight=args.tight), tile_queries=together)
    kernel = CudaKernel(compile_plan(program, made_for, verify=False))
    fill(kernel, config, limits)
    prompt = [
        make_step(limits, [Chunk(0, e - width, width, rows="last" if e == PROMPT else "none", sample=e == PROMPT)], together)
        for e in range(width, PROMPT + width, width)
    ]
    found: dict[str, object] = {"tokens": tokens, "tight": args.tight}
    found[f"prompt of {PROMPT}"] = milliseconds(kernel, prompt, args.rounds)
    for n in (n for n in args.batches if n <= seqs):
        steps = [make_step(limits, [Chunk(s, args.context + i, 1) for s in range(n)], together) for i in range(STEPS)]
        found[f"batch {n}"] = milliseconds(kernel, steps, args.rounds) / STEPS
    found |= kernel.binary.resources
    kernel.close()
    kernel.memory.close()
    return found


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=MODELS, default="8b")
    p.add_argument("--tokens", type=numbers, default=[128, 64, 32, 16], help="of a task of the linears: 16, 32, 64, 128 or 256")
    p.add_argument("--batches", type=numbers, default=[64, 32, 16, 8])
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--splits", type=int, default=4, help="slabs of k at most")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tight", action="store_true")
    args = p.parse_args(argv)
    for tokens in args.tokens:
        found = measure(args, tokens)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main))
