"""RoPE angles against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eventide.models.rope import inverse_frequencies, rope_table
from tests.checkpoints import LLAMA3, Shape, make_config
from tests.models.test_config import parse


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("llama3", [False, True])
def test_against_transformers(head_dim: int, theta: float, llama3: bool) -> None:
    config = parse(
        architectures=["LlamaForCausalLM"], head_dim=head_dim, rope_theta=theta, rope_scaling=LLAMA3 if llama3 else None
    )
    theirs = LlamaRotaryEmbedding(make_config(Shape("llama", head_dim=head_dim, rope_theta=theta, llama3=llama3)))
    np.testing.assert_allclose(inverse_frequencies(config), theirs.inv_freq.numpy(), rtol=3e-7)
    table = rope_table(config, 300)
    assert table.shape == (300, head_dim) and table.dtype == np.float32
    cosines, sines = np.split(table, 2, axis=1)
    expected_cosines, expected_sines = theirs(torch.zeros(1), torch.arange(300)[None])
    np.testing.assert_allclose(cosines, expected_cosines[0, :, : head_dim // 2], atol=5e-5)
    np.testing.assert_allclose(sines, expected_sines[0, :, : head_dim // 2], atol=5e-5)


def test_llama3_keeps_short_and_stretches_long_wavelengths() -> None:
    plain = inverse_frequencies(parse(head_dim=128))
    scaled = inverse_frequencies(parse(head_dim=128, rope_scaling={**LLAMA3, "original_max_position_embeddings": 8192}))
    ratio = plain / scaled
    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(8.0)
    assert np.all(np.diff(ratio) >= -1e-6)
