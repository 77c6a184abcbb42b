"""Eventide as a contender, through its public interface."""

from __future__ import annotations

import time

from worker import MIXED, NUM_LOGITS, PROMPT_LEN, options, prompt, serve

import eventide
from eventide import SamplingParams
from eventide.profile.bandwidth import measure_read_bandwidth

given = options()
start = time.perf_counter()
llm = eventide.LLM(given["model"], device="cpu", num_threads=given["threads"], max_seq_len=1024)
load_s = time.perf_counter() - start
read: list[int] = []  # prompts of each prefill


def decode(batch: int, tokens: int) -> dict[str, float]:
    params = SamplingParams(max_new_tokens=tokens + 1, temperature=0, ignore_eos=True)
    pieces = llm.stream([prompt(i, PROMPT_LEN) for i in range(batch)], params)
    for _ in range(batch):  # the first token of each comes from reading the prompts
        next(pieces)
    begin = time.perf_counter()
    count = sum(len(piece.token_ids) for piece in pieces)
    return {"tokens_per_s": count / (time.perf_counter() - begin)}


def prefill(batch: int, tokens: int) -> dict[str, float]:
    params = SamplingParams(max_new_tokens=1, temperature=0, ignore_eos=True)
    # other prompts every time: what has been read before would be found in the cache
    read.append(batch)
    prompts = [prompt(sum(read) + i, tokens) for i in range(batch)]
    begin = time.perf_counter()
    llm.generate(prompts, params)
    return {"tokens_per_s": batch * tokens / (time.perf_counter() - begin)}


def mixed(batch: int, tokens: int) -> dict[str, float]:
    engine = eventide.Engine(llm)
    # those that are read first draw while the others are read
    params = SamplingParams(max_new_tokens=tokens + 40, temperature=0, ignore_eos=True)
    for i in range(batch):
        engine.add(eventide.Request(i, prompt(i, MIXED[i % len(MIXED)]), params))
    begun: set[object] = set()
    while len(begun) < batch:
        begun |= {output.id for output in engine.step()}
    begin, done = time.perf_counter(), 0
    while done < tokens:
        found = engine.step(tokens - done)
        done += len(found[0].token_ids)
        assert len(found) == batch
    seconds = time.perf_counter() - begin
    for i in range(batch):
        engine.cancel(i)
    engine.step()
    return {"tokens_per_s": batch * tokens / seconds}


def logits() -> dict[str, list[float]]:
    return {"logits": llm.logits(prompt(0, PROMPT_LEN))[-1][:NUM_LOGITS].tolist()}


def bandwidth() -> dict[str, float]:
    return {"bytes_per_s": measure_read_bandwidth(given["threads"], seconds=0.3)}


serve(
    {"version": eventide.__version__, "load_s": load_s},
    {"decode": decode, "mixed": mixed, "prefill": prefill, "logits": logits, "bandwidth": bandwidth},
)
