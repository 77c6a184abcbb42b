"""Configuration, weight map and RoPE table together give transformers' logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eventide.models.checkpoint import open_weights
from eventide.models.registry import family_of, load_config
from eventide.models.weights import iter_pieces, iter_weights
from tests.checkpoints import SHAPES, Shape, load_reference, make_checkpoint
from tests.numpy_model import logits


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits(tmp_path: Path, shape: Shape) -> None:
    make_checkpoint(tmp_path, shape)
    config = load_config(tmp_path)
    specs = family_of(config).weight_specs(config)
    weights = dict(iter_weights(specs, open_weights(tmp_path, specs, dtype="float32"), "float32"))
    token_ids = np.random.default_rng(0).integers(0, shape.vocab_size, 48).tolist()
    with torch.no_grad():
        expected = load_reference(tmp_path)(torch.tensor([token_ids])).logits[0].numpy()
    found = logits(config, weights, token_ids)
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
    # the shapes are chosen so that a flat or constant output can't pass
    assert expected.std() > 0.5 and np.abs(expected - expected[0]).max() > 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces_put_in_their_rows_are_the_weights(tmp_path: Path, dtype: str) -> None:
    """Stored in the wanted dtype, a piece is a view of the file; otherwise a whole weight."""
    make_checkpoint(tmp_path, SHAPES["qwen3"])
    config = load_config(tmp_path)
    specs = family_of(config).weight_specs(config)
    source = open_weights(tmp_path, specs, dtype=dtype)
    want = dict(iter_weights(specs, source, dtype))
    found: dict[str, np.ndarray] = {}
    ended: list[str] = []
    for piece in iter_pieces(specs, source, dtype):
        array = found.setdefault(piece.name, np.zeros(piece.shape, piece.array.dtype))
        array[piece.first :: piece.step][: len(piece.array)] = piece.array
        assert piece.array.base is not None or dtype == "bfloat16"
        ended += [piece.name] if piece.last else []
    assert ended == list(want) and all(np.array_equal(found[name], want[name]) for name in want)
