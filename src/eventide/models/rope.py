"""Rotary position embeddings (Su et al. 2021), by half: element i of a head turns with element i + head_dim / 2.

    inverse_frequencies(config)      float32 [head_dim / 2]: radians per position
    rope_table(config, 4096)         float32 [4096, head_dim]: cosines, then sines

    rotated[i]                 = x[i] · cos[p, i] − x[i + head_dim / 2] · sin[p, i]          for i < head_dim / 2
    rotated[i + head_dim / 2]  = x[i + head_dim / 2] · cos[p, i] + x[i] · sin[p, i]

Angles are float32 products, as transformers computes them, so that both agree at long positions too.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from eventide.models.config import ModelConfig

__all__ = ["inverse_frequencies", "rope_table"]

Floats = npt.NDArray[np.float32]


def inverse_frequencies(config: ModelConfig) -> Floats:
    """Radians per position of each pair, float32 `[head_dim / 2]`: rope_theta^(−2i / head_dim), scaled where asked.

    ``llama3`` (Llama 3.1's reference code): wavelengths beyond original_max_position_embeddings / low_freq_factor are
    stretched by `factor`, those below … / high_freq_factor stay, and between them the two blend linearly.
    """
    frequencies = config.rope_theta ** (-np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is not None:
        turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
        blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        blend = np.clip(blend, 0.0, 1.0)
        frequencies = frequencies * (blend + (1.0 - blend) / scaling.factor)
    return frequencies.astype(np.float32)


def rope_table(config: ModelConfig, num_positions: int) -> Floats:
    """What the operator `rope_append` reads: float32 `[num_positions, head_dim]`, cosines in the first half of a row
    and sines in the second."""
    positions = np.arange(num_positions, dtype=np.float32)
    angles = positions[:, None] * inverse_frequencies(config)[None, :]
    table: Floats = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return table
