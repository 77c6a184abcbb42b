"""The models that are measured: shapes, and a checkpoint of seeded random bfloat16 weights for each.

Needs Eventide (for the weight map and the random values); the peers read what is written.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
            "attention_bias": False,
            "use_sliding_window": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "torch_dtype": "bfloat16",
        }

    @property
    def decode_bytes(self) -> int:
        """Bytes of the weights that a decode step reads: all of them, the embeddings once, as the head."""
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        layer = self.hidden * (rows + self.heads * self.head_dim + 3 * self.inner)
        return 2 * (self.layers * layer + self.vocab * self.hidden)


MODELS = {
    "qwen3-0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151_936),
    "tiny": Shape(256, 768, 4, 4, 2, 64, 4096),
}


def make_checkpoint(directory: Path, shape: Shape) -> Path:
    """Write config.json and model.safetensors unless they are there."""
    import numpy as np

    from eventide.dtypes import to_numpy
    from eventide.models.dummy import DummyWeights
    from eventide.models.registry import family_of, load_config

    weights = directory / "model.safetensors"
    if weights.exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(shape.config(), indent=1))
    config = load_config(directory)
    specs = [(spec, source) for spec in family_of(config).weight_specs(config) for source in spec.sources]
    header, offset = {}, 0
    for _, source in specs:
        num_bytes = 2 * int(np.prod(source.shape))
        header[source.name] = {"dtype": "BF16", "shape": source.shape, "data_offsets": [offset, offset + num_bytes]}
        offset += num_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = DummyWeights(0)
    part = weights.with_suffix(".part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for spec, source in specs:
            array = np.empty(source.shape, to_numpy("bfloat16"))
            random.fill(source, spec.kind, array)
            file.write(array.tobytes())
    part.rename(weights)
    return directory
