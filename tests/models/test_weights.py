"""The weight map of a decoder, and what a spec refuses."""

from __future__ import annotations

import pytest

from eventide.errors import TensorError
from eventide.models.weights import Source, WeightSpec, decoder_weights, total_bytes
from tests.models.test_config import parse


def test_qwen3_0_6b_has_its_published_size() -> None:
    config = parse(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=True,
    )
    specs = decoder_weights(config)
    assert total_bytes(specs, "bfloat16") == 2 * 596_049_920
    assert len({spec.name for spec in specs}) == len(specs)
    shapes = {spec.name: spec.shape for spec in specs}
    assert shapes["layers.27.qkv_proj"] == (4096, 1024)
    assert shapes["layers.0.o_proj"] == (1024, 2048)
    assert shapes["layers.0.gate_up_proj"] == (6144, 1024)
    assert "lm_head" not in shapes


def test_norms_and_biases_are_marked() -> None:
    kinds = {spec.name: spec.kind for spec in decoder_weights(parse(architectures=["Qwen2ForCausalLM"]))}
    assert kinds["layers.0.qkv_bias"] == "bias"
    assert kinds["layers.0.post_attention_norm"] == kinds["norm"] == "norm"
    assert kinds["layers.0.down_proj"] == kinds["lm_head"] == "matrix"


def test_interleaved_sources_must_have_equally_many_rows() -> None:
    spec = WeightSpec("w", (Source("a", (2, 3)), Source("b", (2, 3))), interleave=True)
    assert spec.shape == (4, 3)
    with pytest.raises(TensorError, match=r"must have equally many rows, got \[2, 1\]"):
        WeightSpec("w", (Source("a", (2, 3)), Source("b", (1, 3))), interleave=True)


def test_sources_must_have_equal_columns() -> None:
    with pytest.raises(TensorError, match="must agree beyond their rows"):
        WeightSpec("w", (Source("a", (2, 3)), Source("b", (2, 4))))
