"""Small checkpoints, and a model loaded from one on every device that runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import eventide
from eventide.engine.devices import DEVICES
from tests.checkpoints import Shape, make_checkpoint

SMALL = Shape(hidden_size=48, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, vocab_size=320)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, float32, 256 positions, with a tokenizer and a chat template."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "small", SMALL, tokenizer=True)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a tokenizer."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "bare", SMALL)


def _device(name: str) -> object:
    # tests of its own cover the interpreter, which takes three times as long while lines are counted
    return pytest.param(name, marks=pytest.mark.untraced) if name == "interp" else name


@pytest.fixture(scope="session", params=map(_device, sorted(DEVICES)))
def llm(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[eventide.LLM]:
    if request.param == "cuda":
        pytest.skip("the CUDA device has tests of its own")
    with eventide.LLM(checkpoint, device=request.param, num_threads=2) as loaded:
        yield loaded
