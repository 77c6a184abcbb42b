"""Llama 3.x: no norm of queries and keys, no biases; from 3.1 on, RoPE scaled by wavelength (``llama3``)."""

from __future__ import annotations

from eventide.models.config import ModelConfig, parse_decoder_config
from eventide.models.jsonfile import Fields
from eventide.models.registry import ModelFamily, register_model
from eventide.models.weights import WeightSpec, decoder_weights

__all__ = ["Llama"]


@register_model
class Llama(ModelFamily):
    name = "llama"
    architectures = ("LlamaForCausalLM",)

    @classmethod
    def parse_config(cls, fields: Fields, architecture: str) -> ModelConfig:
        return parse_decoder_config(fields, architecture=architecture)

    @classmethod
    def weight_specs(cls, config: ModelConfig) -> list[WeightSpec]:
        return decoder_weights(config)
