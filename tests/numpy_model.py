"""A decoder in plain NumPy, float32: the shortest statement of what config, weight map and RoPE table mean together.

`logits(config, weights, token_ids)` takes the weights by their program names and returns float32 `[num_tokens,
vocab_size]`. It is checked against transformers, and stands between the two when a plan's results differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from eventide.models.config import ModelConfig
from eventide.models.rope import rope_table

Array = npt.NDArray[Any]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * weight


def rotate(x: Array, table: Array) -> Array:
    """`x` is `[num_tokens, heads, head_dim]`."""
    cos, sin = np.split(table[:, None, :], 2, axis=-1)
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def attention(q: Array, k: Array, v: Array) -> Array:
    """Causal, `[num_tokens, heads, head_dim]` each; a key head serves num_heads / num_kv_heads query heads."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.float32(np.sqrt(q.shape[-1]))
    scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", scores / scores.sum(axis=-1, keepdims=True), v)


def logits(
    config: ModelConfig, weights: Mapping[str, Array], token_ids: list[int], seen: dict[str, Array] | None = None
) -> Array:
    """`seen` gets what stands between: qkv, rotated queries, attention, both residual sums and the gated product of each
    layer, under the names that plans give them."""
    seen = {} if seen is None else seen
    num_tokens, eps = len(token_ids), config.rms_norm_eps
    table = rope_table(config, num_tokens)
    x = weights["embed_tokens"][token_ids]
    for layer in range(config.num_layers):
        own = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"layers.{layer}.")}
        qkv = rms_norm(x, own["input_norm"], eps) @ own["qkv_proj"].T + own.get("qkv_bias", np.float32(0))
        q, k, v = (
            part.reshape(num_tokens, -1, config.head_dim)
            for part in np.split(qkv, [config.q_rows, config.q_rows + config.kv_rows], axis=1)
        )
        if config.qk_norm:
            q, k = rms_norm(q, own["q_norm"], eps), rms_norm(k, own["k_norm"], eps)
        q = rotate(q, table)
        mixed = attention(q, rotate(k, table), v).reshape(num_tokens, -1)
        found = {"qkv": qkv, "rope": q.reshape(num_tokens, -1), "attn": mixed, "merge": mixed}
        x = found["x1"] = x + mixed @ own["o_proj"].T
        gate_up = rms_norm(x, own["post_attention_norm"], eps) @ own["gate_up_proj"].T
        gate, up = gate_up[:, 0::2], gate_up[:, 1::2]
        found["act"] = gate / (1 + np.exp(-gate)) * up
        x = found["x2"] = x + found["act"] @ own["down_proj"].T
        seen.update({f"layers.{layer}.{name}": array for name, array in found.items()})
    head = weights["embed_tokens" if config.tie_word_embeddings else "lm_head"]
    return rms_norm(x, weights["norm"], eps) @ head.T
