"""Qwen2 and Qwen2.5, dense: biases on the query, key and value projections, always; none on the output projection."""

from __future__ import annotations

from eventide.models.config import ModelConfig, parse_decoder_config
from eventide.models.jsonfile import Fields
from eventide.models.registry import ModelFamily, register_model
from eventide.models.weights import WeightSpec, decoder_weights

__all__ = ["Qwen2"]


@register_model
class Qwen2(ModelFamily):
    name = "qwen2"
    architectures = ("Qwen2ForCausalLM",)

    @classmethod
    def parse_config(cls, fields: Fields, architecture: str) -> ModelConfig:
        # the biases are part of the architecture, so the flags of other families mean nothing in its config.json
        return parse_decoder_config(
            fields, architecture=architecture, qkv_bias=True, max_position_embeddings=32768, rejected_flags=()
        )

    @classmethod
    def weight_specs(cls, config: ModelConfig) -> list[WeightSpec]:
        return decoder_weights(config)
