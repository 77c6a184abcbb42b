"""Arrival traces replayed against vLLM: `python vllm_serving.py MODEL LOAD_FORMAT TRACES.json TIMES.json MAX_LEN BUDGET`.

TRACES holds lists of arrivals, {"at", "prompt", "max_new_tokens"}; TIMES gets, for each list, the seconds that it took and when
each request's tokens came. As in serving.py: greedy, no end token, a clock that starts with the arrival. The engine steps in
this process, with its defaults (CUDA graphs, chunked prefill), but for the longest context and, if BUDGET isn't 0, the tokens
of a step. Written for vLLM's V1 `LLMEngine`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a step is a step of the GPU, not of a queue

import vllm
from vllm import EngineArgs, LLMEngine, SamplingParams


def replay(engine: LLMEngine, trace: list[dict[str, Any]], name: str) -> dict[str, Any]:
    start, coming = time.perf_counter(), list(enumerate(trace))[::-1]
    times: list[list[float]] = [[] for _ in trace]
    while coming or engine.has_unfinished_requests():
        now = time.perf_counter() - start
        while coming and coming[-1][1]["at"] <= now:
            i, arrival = coming.pop()
            n = arrival["max_new_tokens"]
            params = SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            engine.add_request(f"{name}-{i}", {"prompt_token_ids": arrival["prompt"]}, params)
        if not engine.has_unfinished_requests():
            time.sleep(max(0.0, coming[-1][1]["at"] - now))
            continue
        outputs = engine.step()
        now = time.perf_counter() - start
        for output in outputs:
            had = times[int(output.request_id.rsplit("-", 1)[1])]
            had += [now] * (len(output.outputs[0].token_ids) - len(had))
    return {"seconds": time.perf_counter() - start, "times": times}


def main() -> int:
    model, load_format, traces, found, longest, budget = sys.argv[1:]
    more = {"max_num_batched_tokens": int(budget)} if int(budget) else {}
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=model, load_format=load_format, dtype="bfloat16", max_model_len=int(longest), skip_tokenizer_init=True, **more
        )
    )  # fmt: skip
    runs = [replay(engine, trace, str(i)) for i, trace in enumerate(json.loads(Path(traces).read_text()))]
    Path(found).write_text(json.dumps({"version": vllm.__version__, "runs": runs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
