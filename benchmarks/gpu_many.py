"""Steps of many tokens on a GPU: prompts, and batches that decode, of a random model of a real shape.

    python benchmarks/gpu_many.py --model 8b --tokens 256,64,32,16 --batches 64,32,16,8

One kernel for each number of `--tokens` that a task of the linears takes (up to 8: one for sequences of one token each); every
figure is the median of `--rounds` launches by the GPU's own clock. A prompt is one launch, a batch one launch of 16 steps at
`--context`. With more than 64 tokens a prompt goes in steps of `--step` tokens. `--tight` holds weights in 12 bits, as the engine
does; its kernels for batches are those of `--alone`, for prompts those without. `--phases` tells where a step's time goes, from a
second kernel that records: for each kind of grid, microseconds from the last worker's end of the grid before to the last worker's
end of this one, a worker's mean time in it, how much of that one of its warps waited for weights, and what followed the last of
them.
"""

from __future__ import annotations

import argparse
import json
import sys
from statistics import median

from facts import one_line
from gpu_decode import MODELS, config_of, fill

from eventide import target
from eventide.backends.cuda.kernel import CudaKernel
from eventide.engine.limits import MAX_SEQS
from eventide.engine.sizes import PROMPT, PROMPT_QUERIES, PROMPT_SLABS, TILE, Size, direct, queries_of, slabs
from eventide.engine.steps import Chunk, Step, make_step
from eventide.ir.nodes import Plan
from eventide.models.config import ModelConfig
from eventide.models.decoder import Limits, build_decoder
from eventide.passes.pipeline import compile_plan
from eventide.profile.gpu import timelines

STEPS = 16
RECORDS = 4096  # of a worker's timeline


def milliseconds(kernel: CudaKernel, steps: list[Step], rounds: int) -> float:
    found = []
    for _ in range(rounds + 1):
        kernel.run(steps, large=False)
        found.append(kernel.milliseconds)
    return median(found[1:])


def phases(kernel: CudaKernel, steps: list[Step]) -> dict[str, list[float]]:
    """{kind of grid: [critical path, a worker's mean run, its wait for weights, what follows the last of them]} of the launch's
    middle step, in microseconds."""
    kernel.run(steps, large=False)
    timeline = timelines(kernel.plan, kernel.read_trace())[len(steps) // 2]
    shares = timeline.by_grid()
    ends: dict[str, float] = {}
    rests: dict[str, float] = {}
    for span in timeline.spans:
        ends[span.grid] = max(ends.get(span.grid, 0.0), span.end_ns)
        rests[span.grid] = rests.get(span.grid, 0.0) + (span.end_ns - span.weights_ns if span.weights_ns else 0)
    assert kernel.plan.schedule is not None
    found: dict[str, list[float]] = {}
    before = min(span.wait_ns for span in timeline.spans)
    for name in (s.grid for s in kernel.plan.schedule.segments if s.grid in ends):
        kind = found.setdefault(name.split(".")[-1], [0.0] * 5)
        kind[0] += max(0.0, ends[name] - before) / 1e3
        kind[1] += shares[name].work_ns / kernel.workers / 1e3
        kind[2] += shares[name].memory_ns / kernel.workers / 1e3
        kind[3] += rests[name] / kernel.workers / 1e3
        kind[4] += 1
        before = max(before, ends[name])
    return {kind: [round(v / n, 2) for v in sums] for kind, (*sums, n) in found.items()}


def size_of(args: argparse.Namespace, config: ModelConfig, tokens: int) -> Size:
    """The kernel for so many tokens a task, with sizes as in the engine."""
    if tokens <= TILE:
        return Size(tokens, tokens, decode=True)
    if tokens > MAX_SEQS:
        return Size(tokens, args.step, splits=args.prompt_splits, queries=PROMPT_QUERIES)
    splits = args.splits or slabs(config, tokens)
    straight = args.alone and splits > 1 and direct(config, tokens)
    return Size(tokens, tokens, decode=args.alone, splits=splits, queries=queries_of(config), direct=straight)


def plan_of(args: argparse.Namespace, tokens: int) -> tuple[Plan, ModelConfig, Limits, Size]:
    """(plan, model, limits, kernel) for so many tokens a task."""
    config = config_of(args.model)
    longest, seqs = max(args.context + STEPS, *args.prompts), min(tokens, MAX_SEQS)
    size = size_of(args, config, tokens)
    limits = Limits(max_tokens=size.most, max_rows=seqs, max_seqs=seqs, max_seq_len=-(-longest // 64) * 64)
    program = build_decoder(config, limits, "bfloat16", decode=size.decode, splits=size.splits)
    return compile_plan(program, size.target_of(target.h200(tight=args.tight)), verify=False), config, limits, size


def measure(args: argparse.Namespace, tokens: int) -> dict[str, object]:
    plan, config, limits, size = plan_of(args, tokens)
    width, seqs, prompts = limits.max_tokens, limits.max_seqs, tokens > MAX_SEQS
    kernel = CudaKernel(plan)
    fill(kernel, config, limits)
    tracer = CudaKernel(kernel.plan, memory=kernel.memory, trace=RECORDS) if args.phases else None
    found: dict[str, object] = {"tokens": tokens, "tight": args.tight}
    for length in () if size.decode else args.prompts:
        ends = [*range(width, length, width), length]
        prompt = [
            make_step(limits, [Chunk(0, a, e - a, rows="last" if e == length else "none", sample=e == length)], size.queries)
            for a, e in zip([0, *ends], ends)
        ]
        found[f"prompt of {length}"] = milliseconds(kernel, prompt, args.rounds)
        if tracer and prompts:
            found[f"phases of a prompt of {length}"] = phases(tracer, prompt[:1])
    for n in (n for n in args.batches if n <= seqs):
        cut = max(1, kernel.workers // (n * config.num_kv_heads)) if tokens <= TILE else 0  # of the past, as in the engine
        each = ([Chunk(s, args.context + i, 1) for s in range(n)] for i in range(STEPS))
        steps = [make_step(limits, chunks, size.queries, splits=cut) for chunks in each]
        found[f"batch {n}"] = milliseconds(kernel, steps, args.rounds) / STEPS
        if tracer:
            found[f"phases of batch {n}"] = phases(tracer, steps[:3])
    found |= kernel.binary.resources
    if tracer:
        tracer.close()
    kernel.close()
    kernel.memory.close()
    return found


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=MODELS, default="8b")
    p.add_argument("--tokens", type=numbers, default=[256, 64, 32, 16], help="of a linear's task: 1, 4, 8, 16, 32, 64, 128 or 256")
    p.add_argument("--batches", type=numbers, default=[64, 32, 16, 8])
    p.add_argument("--prompts", type=numbers, default=[512], help="their lengths")
    p.add_argument("--step", type=int, default=PROMPT, help="tokens of a step, where a task takes more than 64")
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--splits", type=int, help="slabs of k at most, if not as in the engine; 1: slim products")
    p.add_argument("--prompt-splits", type=int, default=PROMPT_SLABS, help="the same for more than 64 tokens a task; 2 or more")
    p.add_argument("--alone", action="store_true", help="kernels for batches that take one token of each sequence only")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tight", action="store_true")
    p.add_argument("--phases", action="store_true", help="and where a step's time goes")
    args = p.parse_args(argv)
    for tokens in args.tokens:
        found = measure(args, tokens)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main))
