"""Qwen3, dense: per-head RMS norm of queries and keys, no biases; head_dim is its own key in config.json."""

from __future__ import annotations

from eventide.models.config import ModelConfig, parse_decoder_config
from eventide.models.jsonfile import Fields
from eventide.models.registry import ModelFamily, register_model
from eventide.models.weights import WeightSpec, decoder_weights

__all__ = ["Qwen3"]


@register_model
class Qwen3(ModelFamily):
    name = "qwen3"
    architectures = ("Qwen3ForCausalLM",)

    @classmethod
    def parse_config(cls, fields: Fields, architecture: str) -> ModelConfig:
        return parse_decoder_config(
            fields, architecture=architecture, qk_norm=True, default_head_dim=128, max_position_embeddings=32768
        )

    @classmethod
    def weight_specs(cls, config: ModelConfig) -> list[WeightSpec]:
        return decoder_weights(config)
