"""Decode steps of transformers on a GPU: `python transformers_gpu.py CONFIG.json CONTEXT TOKENS ROUNDS` prints JSON.

The model has random bfloat16 weights and a static cache that is full up to the context. A step is one token: model, final
norm, head and argmax, whose result is the next step's input; it is run as it is ("eager") and recorded in a CUDA graph
("graph"), which is the stronger. The cache holds exactly the tokens that are generated, so attention needs no mask and takes
its grouped-query path. Times are medians of single steps between CUDA events, queued one behind the other.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache


class Decoder:
    """A decode loop on fixed buffers."""

    def __init__(self, model: Any, config: Any, context: int, tokens: int) -> None:
        self.model, self.context = model, context
        self.cache = StaticCache(config=config, max_cache_len=context + tokens)
        self.cache.early_initialization(1, config.num_key_value_heads, config.head_dim, torch.bfloat16, "cuda")
        for layer in self.cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        self.ids = torch.zeros((1, 1), dtype=torch.long, device="cuda")
        self.position = torch.zeros((1, 1), dtype=torch.long, device="cuda")
        self.reset()

    def reset(self) -> None:
        self.ids.fill_(7)
        self.position.fill_(self.context)
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.context)

    def step(self) -> None:
        mask = None if self.model.config.model_type == "llama" else {"full_attention": None}
        out = self.model(
            input_ids=self.ids, attention_mask=mask, position_ids=self.position, past_key_values=self.cache, use_cache=True
        )
        self.ids.copy_(out.logits[:, -1, :].argmax(-1, keepdim=True))
        self.position.add_(1)


def recorded(decoder: Decoder) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            decoder.reset()
            decoder.step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    decoder.reset()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoder.step()
    return graph.replay


def measure(decoder: Decoder, call: Callable[[], None], tokens: int, rounds: int) -> float:
    found: list[float] = []
    for _ in range(rounds + 1):
        decoder.reset()
        torch.cuda.synchronize()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(tokens + 1)]
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        torch.cuda.synchronize()
        found += [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    return statistics.median(found[tokens:])


def main(path: str, context: int, tokens: int, rounds: int) -> dict[str, Any]:
    facts = json.loads(Path(path).read_text())
    config = AutoConfig.for_model(facts.pop("model_type"), **facts)
    if config.model_type == "llama":
        # its forward makes a mask of its own, which the cache, full as it is, doesn't need
        from transformers.models.llama import modeling_llama as module

        module.create_causal_mask = lambda *args, **options: None
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.02)
    with torch.inference_mode():
        decoder = Decoder(model, config, context, tokens)
        eager = measure(decoder, decoder.step, min(tokens, 32), 1)
        graph = measure(decoder, recorded(decoder), tokens, rounds)
    return {"eager_ms": eager, "graph_ms": graph, "torch": torch.__version__, "transformers": transformers.__version__}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    print(json.dumps(main(sys.argv[1], *(int(a) for a in sys.argv[2:5]))))
