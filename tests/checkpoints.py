"""Small random checkpoints of any family, written by transformers, for tests.

    make_checkpoint(tmp_path / "m", Shape("qwen3", num_heads=6, num_kv_heads=2))          config, weights
    make_checkpoint(tmp_path / "m", SHAPES["llama3 scaling"], num_shards=3, tokenizer=True)
    load_reference(tmp_path / "m")                                                        the same model in transformers

Weights are drawn anew after transformers' own initialization, whose unit norms and zero biases would hide mistakes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

from tests.tiny_tokenizers import make_tokenizer

transformers_logging.disable_progress_bar()

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # small, so that short prompts feel the scaling
}


@dataclass(frozen=True)
class Shape:
    """One small model. `head_dim` None: hidden_size / num_heads. `llama3`: RoPE scaled as in Llama 3.1."""

    family: str = "qwen3"
    hidden_size: int = 64
    intermediate_size: int = 96
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int | None = 16
    vocab_size: int = 256
    tied: bool = False
    rope_theta: float = 10000.0
    llama3: bool = False
    max_position_embeddings: int = 256
    dtype: str = "float32"


SHAPES: dict[str, Shape] = {
    "qwen3": Shape(),
    "qwen3 tied": Shape(tied=True, vocab_size=301),
    "qwen3 one kv head": Shape(num_heads=8, num_kv_heads=1, head_dim=8),
    "qwen3 no grouping": Shape(num_heads=3, num_kv_heads=3, head_dim=32, vocab_size=127),
    "qwen3 wide heads": Shape(hidden_size=48, num_heads=2, num_kv_heads=1, head_dim=64, rope_theta=1e6, tied=True),
    "qwen3 big head": Shape(hidden_size=96, num_heads=2, num_kv_heads=2, head_dim=128, num_layers=1),
    "llama": Shape("llama", rope_theta=5e5),
    "llama llama3": Shape("llama", llama3=True, rope_theta=5e5, num_heads=8, num_kv_heads=2, head_dim=64, tied=True),
    "llama odd vocabulary": Shape("llama", llama3=True, vocab_size=1009, intermediate_size=88, num_layers=3),
    "llama group of three": Shape("llama", hidden_size=72, num_heads=6, num_kv_heads=2, head_dim=None, vocab_size=333),
    "qwen2": Shape("qwen2", head_dim=None, rope_theta=1e6),
    "qwen2 tied": Shape(
        "qwen2", hidden_size=112, num_heads=7, num_kv_heads=1, head_dim=None, tied=True, vocab_size=515
    ),
    "qwen2 no grouping": Shape("qwen2", hidden_size=40, num_heads=5, num_kv_heads=5, head_dim=None, num_layers=4),
}


def make_config(shape: Shape) -> PreTrainedConfig:
    """The transformers configuration of a shape."""
    rope: dict[str, Any] = {"rope_theta": shape.rope_theta, **(LLAMA3 if shape.llama3 else {"rope_type": "default"})}
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied,
        "rope_parameters": rope,
        "max_position_embeddings": shape.max_position_embeddings,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "dtype": shape.dtype,
    }
    if shape.family != "qwen2" and shape.head_dim is not None:
        sizes["head_dim"] = shape.head_dim
    return {"qwen3": Qwen3Config, "llama": LlamaConfig, "qwen2": Qwen2Config}[shape.family](**sizes)


def make_model(shape: Shape, seed: int = 0) -> PreTrainedModel:
    """A model of that shape with seeded random weights, norms and biases included."""
    model = AutoModelForCausalLM.from_config(make_config(shape), dtype=getattr(torch, shape.dtype))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                noise = 1.0 + 0.2 * noise
            elif parameter.ndim == 2 and "embed" not in name:
                noise *= parameter.shape[1] ** -0.5
            else:
                noise *= 0.3
            parameter.copy_(noise)
    return model.eval()


def make_checkpoint(
    directory: Path,
    shape: Shape = SHAPES["qwen3"],
    *,
    seed: int = 0,
    num_shards: int = 1,
    tokenizer: bool = False,
    generation: dict[str, Any] | None = None,
) -> Path:
    """Write config.json, weights in at least `num_shards` files, generation_config.json and, if asked, a tokenizer."""
    if tokenizer:
        shape = replace(shape, vocab_size=max(shape.vocab_size, 300))
    model = make_model(shape, seed)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, **(generation or {}))
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(directory, max_shard_size=num_bytes + 1 if num_shards == 1 else num_bytes // num_shards)
    if tokenizer:
        make_tokenizer(directory, shape.vocab_size)
    return directory


def load_reference(directory: Path, dtype: str = "float32") -> PreTrainedModel:
    """The checkpoint as transformers loads it, attention computed eagerly."""
    AutoConfig.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.eval()


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; `...` removes a key."""
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def spell_as_transformers_4(directory: Path) -> None:
    """Rewrite config.json the way transformers 4 wrote it: rope_theta and rope_scaling at the top, torch_dtype."""
    config = json.loads((directory / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    (directory / "config.json").write_text(json.dumps(config))
