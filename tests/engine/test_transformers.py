"""Eventide beside transformers: teacher-forced logits, greedy tokens, bfloat16, on random small models of all families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import eventide
from eventide import SamplingParams
from tests.checkpoints import SHAPES, load_reference, make_checkpoint

pytestmark = pytest.mark.untraced  # in transformers, counting our lines takes longer than the tests

NUM_TOKENS = 48
# each covers another corner in the slow interpreter; the CPU runs them all
INTERPRETED = ("qwen3 tied", "llama llama3", "qwen2 tied")


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _logits(directory: Path, token_ids: list[int], dtype: str = "float32") -> np.ndarray:
    with torch.no_grad():
        found = load_reference(directory, dtype)(torch.tensor([token_ids])).logits[0]
    return found.float().numpy()


def _cases() -> list[tuple[str, str]]:
    return [("cpu", name) for name in SHAPES] + [("interp", name) for name in INTERPRETED]


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 12
    assert {s.family for s in SHAPES.values()} == {"qwen3", "llama", "qwen2"}
    assert {s.tied for s in SHAPES.values()} == {s.llama3 for s in SHAPES.values()} == {True, False}


@pytest.mark.parametrize(("device", "name"), _cases())
def test_float32(tmp_path: Path, device: str, name: str) -> None:
    directory = make_checkpoint(tmp_path, SHAPES[name], seed=1)
    token_ids = np.random.default_rng(0).integers(0, SHAPES[name].vocab_size, NUM_TOKENS).tolist()
    with eventide.LLM(directory, device=device, num_threads=2) as llm:
        assert _relative(llm.logits(token_ids), _logits(directory, token_ids)) < 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_64_greedy_tokens(tmp_path: Path, name: str) -> None:
    directory = make_checkpoint(tmp_path, SHAPES[name], seed=2)
    prompts = [[5, 9, 60], [7] * 20]
    params = SamplingParams(max_new_tokens=64, temperature=0, ignore_eos=True)
    model = load_reference(directory)
    with eventide.LLM(directory, device="cpu", num_threads=2) as llm:
        found = [completion.token_ids for completion in llm.generate(prompts, params)]
    for prompt, token_ids in zip(prompts, found):
        # the token that transformers finds likeliest after each of ours: all equal means that its 64 are these
        with torch.no_grad():
            logits = model(torch.tensor([prompt + token_ids])).logits[0]
        assert len(token_ids) == 64 and token_ids == logits[len(prompt) - 1 : -1].argmax(-1).tolist()
        if name in ("qwen3", "llama", "qwen2"):
            assert token_ids == _generated(model, prompt)


def _generated(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    with torch.no_grad():
        return model.generate(
            torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False, eos_token_id=None,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long), pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip


@pytest.mark.parametrize(("device", "name"), [("cpu", "qwen3"), ("cpu", "llama llama3"), ("cpu", "qwen2"), ("interp", "qwen3")])
def test_bfloat16(tmp_path: Path, device: str, name: str) -> None:
    """As near to exact arithmetic on the same rounded weights as transformers' own bfloat16 is, or nearer."""
    directory = make_checkpoint(tmp_path, replace(SHAPES[name], dtype="bfloat16"), seed=3)
    token_ids = np.random.default_rng(1).integers(0, SHAPES[name].vocab_size, NUM_TOKENS).tolist()
    exact = _logits(directory, token_ids)
    theirs = _relative(_logits(directory, token_ids, "bfloat16"), exact)
    with eventide.LLM(directory, device=device, num_threads=2) as llm:
        assert llm.dtype == "bfloat16"
        ours = _relative(llm.logits(token_ids), exact)
    assert 1e-4 < theirs < 0.05 and ours < 1.5 * theirs


def test_sharded_and_single_files_agree(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    whole = make_checkpoint(tmp_path / "whole", shape, seed=4)
    shards = make_checkpoint(tmp_path / "shards", shape, seed=4, num_shards=3)
    assert len(list(shards.glob("*.safetensors"))) >= 3
    found = []
    for directory in (whole, shards):
        with eventide.LLM(directory, device="cpu", num_threads=2) as llm:
            found.append(llm.logits([3, 1, 4, 1, 5]))
    assert np.array_equal(*found)


def test_devices_agree_on_long_mixed_batches(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, SHAPES["qwen3"], seed=5)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 256, n).tolist() for n in (1, 33, 70)]
    params = SamplingParams(max_new_tokens=6, temperature=0.9, top_k=40, top_p=0.9, seed=11, ignore_eos=True)
    found = []
    for device in ("cpu", "interp"):
        with eventide.LLM(directory, device=device, num_threads=3) as llm:
            found.append([completion.token_ids for completion in llm.generate(prompts, params)])
    assert found[0] == found[1]
