"""transformers on the CPU, bfloat16, its default attention, a loop without `generate`'s extra work."""

from __future__ import annotations

import time

import torch
import transformers
from worker import NUM_LOGITS, PROMPT_LEN, options, prompt, serve

given = options()
torch.set_num_threads(given["threads"])
start = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16).eval()
load_s = time.perf_counter() - start


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.tensor([prompt(i, length) for i in range(batch)])


@torch.inference_mode()
def decode(batch: int, tokens: int) -> dict[str, float]:
    out = model(ids(batch, PROMPT_LEN), use_cache=True, logits_to_keep=1)
    begin = time.perf_counter()
    for _ in range(tokens):
        token = out.logits[:, -1].argmax(dim=-1, keepdim=True)
        out = model(token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
    out.logits[:, -1].argmax(dim=-1)
    return {"tokens_per_s": batch * tokens / (time.perf_counter() - begin)}


@torch.inference_mode()
def prefill(batch: int, tokens: int) -> dict[str, float]:
    given_ids = ids(batch, tokens)
    begin = time.perf_counter()
    model(given_ids, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(dim=-1)
    return {"tokens_per_s": batch * tokens / (time.perf_counter() - begin)}


@torch.inference_mode()
def logits() -> dict[str, list[float]]:
    return {"logits": model(ids(1, PROMPT_LEN)).logits[0, -1, :NUM_LOGITS].float().tolist()}


versions = {"version": transformers.__version__, "torch": torch.__version__, "load_s": load_s}
serve(versions, {"decode": decode, "prefill": prefill, "logits": logits})
