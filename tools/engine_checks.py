"""The engine against requests run one by one: long runs of what the tests do in little.

    python tools/engine_checks.py steps                      500 mixed steps of 1 to 64 sequences of 1 to 4,096 tokens
    python tools/engine_checks.py churn                      10,000 requests, some cancelled, in a cache too small for them
    python tools/engine_checks.py churn --requests 500 --device cpu --seed 3
    python tools/engine_checks.py steps --device cuda        the same on a GPU

Both use a small model with random weights, prompts that partly begin alike, greedy and drawn tokens, and compare every
request's tokens and log-probabilities with the same request alone in an engine that has served nobody before. They also say
that the plan is the same afterwards (a digest of its serial form; on a GPU of all plans and of the compiled kernels), that
nothing was compiled and no library or kernel loaded or process begun meanwhile, and that every page has come back. Exit code 1
where anything of that fails.

On the CPU, in float32, equal means bit for bit. On a GPU, in bfloat16, a step of another composition adds in another order, and
the rule is, with the bound `BOUND` standard deviations of a row of logits:
  - a token's log-probability differs from that of the request alone by no more than the bound;
  - the token is the one drawn alone wherever the gap between the two best (of the scores that a draw compares, where it isn't
    greedy) exceeds the bound. Behind a token that differs the continuations are different texts, so every token is also held to
    the logits of one pass over all that stands before it: it is the best of that row, or less than the bound behind it;
  - the same requests in the same composition give the same bits: all steps run twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import eventide
from eventide.backends.cuda import fit
from eventide.backends.cuda.driver import Device
from eventide.engine import plans
from eventide.ir import serial
from eventide.ops.sample.reference import gumbel

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 4096,
    "attention_bias": False, "use_sliding_window": False, "bos_token_id": None, "eos_token_id": 7, "torch_dtype": "float32",
}  # fmt: skip
# the kernels of a GPU are made for heads of 64 or 128; few layers of the 0.6B shape, and fewer words
GPU_CONFIG = {
    **CONFIG, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "vocab_size": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
BOUND = 0.05  # of the standard deviation of a row of logits; see above
COMPILING = ("ctypes.dlopen", "subprocess.Popen", "os.posix_spawn", "os.exec")


@dataclass
class Found:
    """What a request got."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    reason: str | None = None

    def add(self, output: eventide.Output) -> None:
        assert self.reason is None, f"request {output.id} got more after its end"
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs or ()
        self.reason = output.finish_reason


@dataclass
class Report:
    """What a run did and what it found wrong."""

    figures: dict[str, Any]
    problems: list[str]


def open_model(folder: Path, max_seqs: int, max_seq_len: int, device: str = "cpu") -> eventide.LLM:
    config = CONFIG if device == "cpu" else GPU_CONFIG
    (folder / "config.json").write_text(json.dumps(config))
    return eventide.LLM(
        folder, load_format="dummy", device=device, dtype=str(config["torch_dtype"]), max_seqs=max_seqs, max_seq_len=max_seq_len
    )


def digest(llm: eventide.LLM) -> str:
    runner: Any = llm._runner
    kernels = [*runner._decode.values(), *runner._mixed.values()] if llm.device == "cuda" else []
    found = hashlib.sha256()
    for plan in [llm.plan, *(kernel.plan for kernel in kernels)]:
        found.update(json.dumps(serial.to_dict(plan), sort_keys=True).encode())
    for kernel in kernels:
        found.update(kernel.binary.cubin)
    return found.hexdigest()


@contextmanager
def counted_compilations() -> Iterator[Counter[str]]:
    """Plans compiled by the engine, code compiled for and loaded to a GPU, libraries loaded and processes begun inside the
    block."""
    found: Counter[str] = Counter()
    compile_plan, compile_source, load, on = plans.compile_plan, fit.compile_source, Device.load, True

    def counting(*args: Any, **options: Any) -> Any:
        found["plan"] += 1
        return compile_plan(*args, **options)

    def compiling(*args: Any, **options: Any) -> Any:
        found["source"] += 1
        return compile_source(*args, **options)

    def loading(*args: Any) -> Any:
        found["kernel"] += 1
        return load(*args)

    def audit(event: str, args: Any) -> None:  # hooks can't be taken out again
        if on and event in COMPILING:
            found[event] += 1

    sys.addaudithook(audit)
    plans.compile_plan, fit.compile_source, Device.load = counting, compiling, loading  # type: ignore[method-assign]
    try:
        yield found
    finally:
        plans.compile_plan, fit.compile_source, on = compile_plan, compile_source, False
        Device.load = load  # type: ignore[method-assign]


def random_request(
    rng: np.random.Generator, id: int, common: list[int], most_prompt: int, most_new: int, vocab_size: int
) -> eventide.Request:
    """Lengths are log-uniform. A third begins with some of `common`, half draws at random, the end token ends some early."""
    new = int(np.exp(rng.uniform(0, np.log(most_new + 1))))
    length = int(np.exp(rng.uniform(0, np.log(most_prompt + 1))))
    prompt = rng.integers(0, vocab_size, length).tolist()
    if rng.random() < 1 / 3:
        shared = int(rng.integers(0, length))
        prompt[:shared] = common[:shared]
    params = eventide.SamplingParams(
        new, temperature=0.9 if rng.random() < 0.5 else 0.0, top_k=40, seed=id, ignore_eos=bool(rng.random() < 0.5), logprobs=1
    )
    return eventide.Request(id, prompt, params, priority=int(rng.integers(0, 3)))


def alone(llm: eventide.LLM, request: eventide.Request) -> Found:
    """The same request in an engine that knows nothing of others."""
    engine, found = eventide.Engine(llm), Found()
    engine.add(request)
    for output in engine.run():
        found.add(output)
    return found


@dataclass
class Compared:
    """What a comparison found: what is wrong, and the largest differences, in standard deviations of a row of logits."""

    problems: list[str] = field(default_factory=list)
    logprob: float = 0.0  # between log-probabilities of the same token
    behind: float = 0.0  # of a chosen token, behind the best one
    others: int = 0  # requests with a token that isn't the one drawn alone
    seconds: float = 0.0

    @property
    def figures(self) -> dict[str, Any]:
        found = {"logprobs_differ_by": self.logprob, "tokens_behind_by": self.behind}
        return {name: round(value, 4) for name, value in found.items()} | {"with_another_token": self.others}


def compare(llm: eventide.LLM, requests: list[eventide.Request], found: dict[int, Found]) -> Compared:
    """Requests that got something else than alone."""
    begin, compared = time.perf_counter(), Compared()
    for r in requests:
        got, want = found[r.id], alone(llm, r)  # type: ignore[index]
        n = len(got.token_ids)
        same = got.token_ids == want.token_ids[:n]
        if (same or llm.device == "cpu") and got.reason not in ("cancelled", want.reason):
            compared.problems.append(f"request {r.id} ended after {n} tokens ({got.reason}), alone as {want.reason}")
        elif same and got.reason != "cancelled" and n != len(want.token_ids):
            compared.problems.append(f"request {r.id} ended after {n} tokens, alone after {len(want.token_ids)}")
        elif llm.device == "cuda":
            compare_nearly(llm, r, got, want, compared)
        elif not same or got.logprobs != want.logprobs[:n]:
            compared.problems.append(f"request {r.id} got other tokens or log-probabilities than alone")
    compared.seconds = time.perf_counter() - begin
    return compared


def compare_nearly(llm: eventide.LLM, r: eventide.Request, got: Found, want: Found, compared: Compared) -> None:
    """The rule for bfloat16."""
    n, params = len(got.token_ids), r.params
    assert params is not None and not isinstance(r.prompt, str)
    if n == 0:  # cancelled before it began
        return
    rows = llm.logits([*r.prompt, *got.token_ids[:-1]])[len(r.prompt) - 1 :].astype(np.float64)
    bounds = rows.std(axis=1)
    top = rows.max(axis=1)
    logprobs = rows - top[:, None] - np.log(np.exp(rows - top[:, None]).sum(axis=1))[:, None]
    places = zip(got.token_ids, want.token_ids)
    common = next((i for i, (a, b) in enumerate(places) if a != b), min(n, len(want.token_ids)))
    compared.others += got.token_ids != want.token_ids[:n]
    for i, token in enumerate(got.token_ids):
        apart = abs(got.logprobs[i].logprob - logprobs[i, token])
        if i < common:
            apart = max(apart, abs(got.logprobs[i].logprob - want.logprobs[i].logprob))
        behind = _behind(rows[i], token, params, len(r.prompt) + i, BOUND * bounds[i])
        compared.logprob = max(compared.logprob, apart / bounds[i])
        compared.behind = max(compared.behind, behind / bounds[i])
        if apart > BOUND * bounds[i]:
            compared.problems.append(f"request {r.id}, token {i}: its log-probability is {apart:.4f} from that alone")
        if behind > BOUND * bounds[i]:
            compared.problems.append(f"request {r.id}, token {i} ({token}) is {behind:.4f} behind the best one alone")


def _behind(row: np.ndarray, token: int, params: eventide.SamplingParams, position: int, bound: float) -> float:
    """How far a token stands behind the best one, in what the sampler compares, given back in units of logits. A draw compares
    what top_k leaves; tokens within `bound` of its edge may be left or not."""
    if not params.temperature:
        return float(row.max() - row[token])
    assert params.top_k and params.seed is not None
    scores = row + params.temperature * gumbel(params.seed, position, len(row))
    edge = np.partition(row, -params.top_k)[-params.top_k]
    kept = scores[row >= edge + bound]
    return float(max(edge - row[token], kept.max(initial=-np.inf) - scores[token], 0.0))


def serve_steps(llm: eventide.LLM, num_steps: int, seed: int, token_budget: int) -> tuple[list, dict[int, Found], dict[str, Any]]:  # type: ignore[type-arg]
    """Steps until `num_steps` of them have read prompts and drawn tokens for others at once; the number of sequences walks
    between 1 and all that there are slots for. (requests, what they got, figures)."""
    rng, limits = np.random.default_rng(seed), llm.limits
    engine = eventide.Engine(llm, token_budget=token_budget)
    pages = engine.free_pages
    common = rng.integers(0, llm.config.vocab_size, limits.max_seq_len).tolist()
    requests: list[eventide.Request] = []
    found: dict[int, Found] = {}
    most_new = min(400, limits.max_seq_len // 2)
    # it begins with more short prompts than there are slots for
    burst = target = limits.max_seqs * 5 // 4
    mixed, batches = 0, Counter[int]()

    def step() -> None:
        nonlocal mixed
        reading = sum(g.unread > 1 for g in (*engine._loop.running, *engine._loop.waiting)) + len(engine._wishes)
        drawing = sum(g.unread == 1 for g in engine._loop.running)
        mixed += bool(reading and drawing)
        for output in engine.step():
            found[output.id].add(output)  # type: ignore[index]
        batches[max(1, len(engine._loop.running))] += 1

    while mixed < num_steps:
        if rng.random() < 0.03:
            target = int(rng.integers(1, limits.max_seqs * 5 // 4 + 1))  # at times more than there are slots for
        while engine.num_requests < target:
            most_prompt = 64 if len(requests) < burst else limits.max_seq_len - most_new
            requests.append(random_request(rng, len(requests), common, most_prompt, most_new, llm.config.vocab_size))
            found[len(requests) - 1] = Found()
            engine.add(requests[-1])
        step()
    while engine.num_requests:
        step()
    lengths = [len(r.prompt) for r in requests]
    figures = {
        "mixed_steps": mixed, "steps": engine.stats["steps"], "batches": [min(batches), max(batches)], "requests": len(requests),
        "prompt_lengths": [min(lengths), max(lengths)], **engine.stats, "pages_lost": pages - engine.free_pages,
    }  # fmt: skip
    return requests, found, figures


def run_steps(llm: eventide.LLM, num_steps: int, seed: int, token_budget: int) -> Report:
    """Mixed steps, on a GPU twice; then every request alone."""
    before, begin = digest(llm), time.perf_counter()
    with counted_compilations() as compiled:
        requests, found, figures = serve_steps(llm, num_steps, seed, token_budget)
        seconds = time.perf_counter() - begin
        again = serve_steps(llm, num_steps, seed, token_budget) if llm.device == "cuda" else (requests, found, figures)
        compared = compare(llm, requests, found)
    problems = compared.problems
    if again[1] != found or again[2] != figures:
        problems.append("the same steps a second time gave other tokens or log-probabilities")
    figures |= {"plan": before[:16], "compiled": sum(compiled.values()), "seconds": round(seconds, 1)}
    figures |= (compared.figures if llm.device == "cuda" else {}) | {"seconds_alone": round(compared.seconds, 1)}
    return Report(figures, problems + _problems(llm, before, compiled, figures["pages_lost"]))


def run_churn(llm: eventide.LLM, num_requests: int, seed: int, cache_tokens: int, token_budget: int) -> Report:
    """Requests at random times, some cancelled at random times, in a cache too small for those that would run."""
    rng, limits = np.random.default_rng(seed), llm.limits
    engine = eventide.Engine(llm, token_budget=token_budget, cache_tokens=cache_tokens)
    pages, before = engine.free_pages, digest(llm)
    longest = min(limits.max_seq_len, cache_tokens)
    common = rng.integers(0, llm.config.vocab_size, longest).tolist()
    words = llm.config.vocab_size
    requests = [random_request(rng, i, common, longest // 3, longest - longest // 3, words) for i in range(num_requests)]
    found = {i: Found() for i in range(num_requests)}
    coming, alive, cancelled = list(range(num_requests))[::-1], set[int](), 0
    begin = time.perf_counter()

    def take(outputs: list[eventide.Output]) -> None:
        for output in outputs:
            found[output.id].add(output)  # type: ignore[index]
            if output.finish_reason is not None:
                alive.discard(output.id)  # type: ignore[arg-type]

    with counted_compilations() as compiled:
        while coming or engine.num_requests:
            for _ in range(min(len(coming), int(rng.poisson(1.5)) if engine.num_requests < 4 * limits.max_seqs else 0)):
                i = coming.pop()
                engine.add(requests[i])
                alive.add(i)
            if alive and rng.random() < 0.03:
                victim = int(rng.choice(sorted(alive)))
                engine.cancel(victim)
                alive.discard(victim)
                cancelled += 1
            take(engine.step(int(rng.integers(1, 9))))
        take(engine.step())
    seconds, lost = time.perf_counter() - begin, pages - engine.free_pages
    open_ones = [f"request {i} never ended" for i, one in found.items() if one.reason is None]
    compared = compare(llm, requests, found)
    figures = {
        "requests": num_requests, "cancelled": cancelled, "cache_tokens": cache_tokens, **engine.stats, "pages_lost": lost,
        "plan": before[:16], "compiled": sum(compiled.values()), "seconds": round(seconds, 1),
        **(compared.figures if llm.device == "cuda" else {}), "seconds_alone": round(compared.seconds, 1),
    }  # fmt: skip
    return Report(figures, open_ones + compared.problems + _problems(llm, before, compiled, lost))


def _problems(llm: eventide.LLM, before: str, compiled: Counter[str], lost: int) -> list[str]:
    found = [f"compiled or loaded something: {dict(compiled)}"] if compiled else []
    found += ["the plan is another one afterwards"] if digest(llm) != before else []
    return found + ([f"{lost} pages are lost"] if lost else [])


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("steps", "churn"))
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("--steps", type=int, default=500, help="mixed steps (500)")
    p.add_argument("--requests", type=int, default=10_000, help="requests of churn (10,000)")
    p.add_argument("--seqs", type=int, default=64, help="sequences at once (64)")
    p.add_argument("--length", type=int, help="tokens of a request at most (steps: 4,096; churn: 512)")
    p.add_argument("--token-budget", type=int, default=512)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args(argv)
    length = args.length or (4096 if args.what == "steps" else 512)
    with tempfile.TemporaryDirectory() as folder, open_model(Path(folder), args.seqs, length, args.device) as llm:
        if args.what == "steps":
            report = run_steps(llm, args.steps, args.seed, args.token_budget)
        else:
            report = run_churn(llm, args.requests, args.seed, 2 * length, args.token_budget)
    print(json.dumps(report.figures, indent=1))
    for problem in report.problems[:20]:
        print(f"WRONG: {problem}", file=sys.stderr)
    print(f"{len(report.problems)} problems" if report.problems else "all requests as alone", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
