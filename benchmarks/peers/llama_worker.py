"""llama.cpp through its C interface (llama-cpp-python's bindings), so that no Python stands between its tokens but a call."""

from __future__ import annotations

import ctypes
import time

import llama_cpp as ll
from worker import MIXED, NUM_LOGITS, PROMPT_LEN, options, prompt, serve

given = options()


@ll.llama_log_callback
def quiet(level: int, text: bytes, user_data: object) -> None:
    pass


ll.llama_log_set(quiet, ctypes.c_void_p())
ll.llama_backend_init()
start = time.perf_counter()
model_params = ll.llama_model_default_params()
model_params.use_mmap = given["mmap"]
model = ll.llama_model_load_from_file(given["gguf"].encode(), model_params)
context_params = ll.llama_context_default_params()
context_params.n_ctx = 8 * 1024
context_params.n_batch = context_params.n_ubatch = 512
context_params.n_seq_max = 8
context_params.n_threads = context_params.n_threads_batch = given["threads"]
context = ll.llama_init_from_model(model, context_params)
if not model or not context:
    raise SystemExit("llama.cpp can't load the model")
memory = ll.llama_get_memory(context)
greedy = ll.llama_sampler_init_greedy()
load_s = time.perf_counter() - start
batch_of = ll.llama_batch_init(512, 0, 1)


def run(entries: list[tuple[int, int, int, bool]]) -> None:
    """One llama_decode of (token, position, sequence, logits wanted)."""
    batch_of.n_tokens = len(entries)
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch_of.token[i], batch_of.pos[i] = token, position
        batch_of.n_seq_id[i], batch_of.seq_id[i][0] = 1, sequence
        batch_of.logits[i] = wanted
    if ll.llama_decode(context, batch_of):
        raise SystemExit("llama_decode failed")


def read(batch: int, length: int) -> None:
    ll.llama_memory_clear(memory, True)
    for sequence in range(batch):
        tokens = prompt(sequence, length)
        run([(token, i, sequence, i == length - 1) for i, token in enumerate(tokens)])


def decode(batch: int, tokens: int) -> dict[str, float]:
    read(batch, PROMPT_LEN)
    # the prompts were read one by one, so only the last one's logits are left; any first token will do for speed
    drawn = [ll.llama_sampler_sample(greedy, context, -1)] * batch
    begin = time.perf_counter()
    for step in range(tokens):
        run([(token, PROMPT_LEN + step, sequence, True) for sequence, token in enumerate(drawn)])
        drawn = [ll.llama_sampler_sample(greedy, context, i) for i in range(batch)]
    return {"tokens_per_s": batch * tokens / (time.perf_counter() - begin)}


def mixed(batch: int, tokens: int) -> dict[str, float]:
    ll.llama_memory_clear(memory, True)
    lengths = [MIXED[i % len(MIXED)] for i in range(batch)]
    for sequence, length in enumerate(lengths):
        entries = [(token, i, sequence, i == length - 1) for i, token in enumerate(prompt(sequence, length))]
        for start in range(0, length, 512):
            run(entries[start : start + 512])
    drawn = [ll.llama_sampler_sample(greedy, context, -1)] * batch
    begin = time.perf_counter()
    for step in range(tokens):
        run([(token, lengths[sequence] + step, sequence, True) for sequence, token in enumerate(drawn)])
        drawn = [ll.llama_sampler_sample(greedy, context, i) for i in range(batch)]
    return {"tokens_per_s": batch * tokens / (time.perf_counter() - begin)}


def prefill(batch: int, tokens: int) -> dict[str, float]:
    ll.llama_memory_clear(memory, True)
    begin = time.perf_counter()
    read(batch, tokens)
    ll.llama_sampler_sample(greedy, context, -1)
    return {"tokens_per_s": batch * tokens / (time.perf_counter() - begin)}


def logits() -> dict[str, list[float]]:
    read(1, PROMPT_LEN)
    found = ll.llama_get_logits_ith(context, -1)
    return {"logits": [found[i] for i in range(NUM_LOGITS)]}


system = ll.llama_print_system_info().decode()
serve(
    {"version": ll.__version__, "load_s": load_s, "mmap": given["mmap"], "system": system},
    {"decode": decode, "mixed": mixed, "prefill": prefill, "logits": logits},
)
