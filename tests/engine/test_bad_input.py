"""What a user can get wrong with `LLM`: one clear sentence each, before weights are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import eventide
from eventide import SamplingParams
from eventide.errors import (
    CheckpointError,
    EventideError,
    MissingFileError,
    OutOfMemoryError,
    PromptError,
    TensorError,
    TokenizerError,
    UnsupportedModelError,
    UsageError,
)  # fmt: skip
from tests.checkpoints import edit_json
from tests.tiny_tokenizers import make_tokenizer


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([[]], "the prompt is empty"),
        ([[3, "a"]], r"a prompt is a string or a list of token ids, got \[3, 'a'\]"),
        ([None], "a prompt is a string or a list of token ids, got None"),
        (7, "a prompt is a string or a list of token ids, got 7"),
        (b"text", "a prompt is a string or a list of token ids, got b'text'"),
        ({"prompt": "x"}, "a prompt is a string or a list of token ids, got {'prompt': 'x'}"),
        ("a\udcff", r"the prompt isn't text: character 1 is '\\udcff', half of a character"),
        ([5, 320], "token id 320 is outside the vocabulary of 320 ids"),
        ([5, -1], "token id -1 is outside"),
        ([7] * 256, "the prompt has 256 tokens, and the context holds 256, one of them for the first new token; shorten"),
    ],
)
def test_prompts(llm: eventide.LLM, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        llm.generate(prompt)
    with pytest.raises(PromptError, match=message):
        llm.stream(prompt)


def test_what_is_not_sampling_params(llm: eventide.LLM) -> None:
    for params in ({"temperature": 0}, 5, ["warm"]):
        with pytest.raises(UsageError, match="params must be SamplingParams, or a list with one for each prompt, got "):
            llm.generate([5], params)  # type: ignore[call-overload]
    with pytest.raises(PromptError, match="logits takes a list of token ids, got 'text'"):
        llm.logits("text")  # type: ignore[arg-type]


def test_arrays_of_token_ids(llm: eventide.LLM) -> None:
    params = SamplingParams(max_new_tokens=2, temperature=0, ignore_eos=True)
    expected = [found.token_ids for found in llm.generate([[5, 6, 7], [7, 6, 5]], params)]
    found = llm.generate(np.array([[5, 6, 7], [7, 6, 5]]), params)  # type: ignore[call-overload]
    assert [one.token_ids for one in found] == expected
    assert llm.generate(np.array([5, 6, 7]), params).token_ids == expected[0]  # type: ignore[call-overload]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, in the references
@pytest.mark.parametrize("device", ["cpu", "interp"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(bare: Path, tmp_path: Path, device: str, value: float) -> None:
    """Said, instead of tokens that mean nothing; the sampler's result is never used as an index."""
    broken = shutil.copytree(bare, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = np.full_like(weights["model.norm.weight"], value)
    save_file(weights, broken / "model.safetensors")
    with eventide.LLM(broken, device=device, num_threads=2) as llm:
        for params in (
            SamplingParams(temperature=0), SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_k=5),
            SamplingParams(temperature=1.0, top_p=0.9), SamplingParams(temperature=0, logprobs=3),
        ):  # fmt: skip
            with pytest.raises(CheckpointError, match="logits are not numbers"):
                llm.generate([[5, 6, 7], [8]], params)
        assert not np.isfinite(llm.logits([5, 6, 7])).all()


def test_a_longer_context_is_offered(checkpoint: Path) -> None:
    with (
        eventide.LLM(checkpoint, device="interp", max_seq_len=100) as llm,
        pytest.raises(PromptError, match="or load the model with max_seq_len up to 256"),
    ):
        llm.generate([7] * 100)
    with eventide.LLM(checkpoint, device="interp", max_seq_len=100) as llm:
        assert llm.logits([7] * 100).shape == (100, 320)
        with pytest.raises(PromptError, match="has 101 tokens, and the context holds 100; shorten"):
            llm.logits([7] * 101)


def test_without_a_tokenizer(bare: Path) -> None:
    with eventide.LLM(bare, device="interp") as llm:
        found = llm.generate([5, 6, 7], SamplingParams(max_new_tokens=3, temperature=0, ignore_eos=True))
        assert found.text == "" and len(found.token_ids) == 3
        with pytest.raises(PromptError, match="no tokenizer, which a text prompt needs; give token ids"):
            llm.generate("Hello")
        with pytest.raises(PromptError, match="no tokenizer, which chat needs"):
            llm.chat([{"role": "user", "content": "Hello"}])
        with pytest.raises(PromptError, match="no tokenizer, which stop strings need"):
            llm.generate([5], SamplingParams(stop="x"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, r"device must be one of auto, .*interp.*, got 'tpu'"),
        ({"schedule": "fast"}, "schedule must be one of auto, static, per_op, got 'fast'"),
        ({"dtype": "int8"}, "dtype must be auto, float32 or bfloat16, got 'int8'"),
        ({"dtype": "float17"}, "unknown dtype 'float17'"),
        ({"max_seq_len": 0}, "max_seq_len must be from 1 to 256"),
        ({"num_threads": 0}, "num_threads must be an integer from 1 to 1024, got 0"),
        ({"num_threads": "2"}, "num_threads must be an integer from 1 to 1024, got '2'"),
        ({"max_seqs": 0}, "max_seqs must be an integer from 1 to 512, got 0"),
        ({"load_format": "gguf"}, "load_format must be one of auto, safetensors, dummy, got 'gguf'"),
    ],
)
def test_options(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        eventide.LLM(checkpoint, **options)


def _copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def _break(directory: Path, what: str) -> None:
    config, weights = directory / "config.json", directory / "model.safetensors"
    if what == "no config":
        config.unlink()
    elif what == "architecture":
        edit_json(config, architectures=["GPT2LMHeadModel"])
    elif what == "sliding window":
        edit_json(config, use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=None)
    elif what == "shape":
        edit_json(config, intermediate_size=128)
    elif what == "half downloaded":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "header":
        weights.write_bytes(weights.read_bytes()[:8] + b"?" * 100 + weights.read_bytes()[108:])
    elif what == "tokenizer":
        (directory / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("no config", MissingFileError, "config.json"),
        ("architecture", UnsupportedModelError, "GPT2LMHeadModel; Eventide has .*Qwen3ForCausalLM"),
        ("sliding window", UnsupportedModelError, "sliding"),
        ("shape", TensorError, r"expected shape \[128, 48\] from config.json, got \[64, 48\]"),
        ("half downloaded", MissingFileError, "model.safetensors"),
        ("header", CheckpointError, "model.safetensors"),
        ("tokenizer", TokenizerError, "tokenizer.json can't be read"),
    ],
)
def test_broken_checkpoints(
    checkpoint: Path, tmp_path: Path, what: str, error: type[EventideError], message: str
) -> None:
    directory = _copy(checkpoint, tmp_path)
    _break(directory, what)
    with pytest.raises(error, match=message):
        eventide.LLM(directory)


def test_a_tokenizer_of_another_model(bare: Path, tmp_path: Path) -> None:
    directory = make_tokenizer(_copy(bare, tmp_path), vocab_size=400)
    with pytest.raises(TokenizerError, match=r"the model: its token .* and config.json gives vocab_size 320"):
        eventide.LLM(directory)


def test_not_enough_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "64KiB")
    with pytest.raises(OutOfMemoryError, match=r"the weights of small in float32 need .* and 64\.0 KiB are available"):
        eventide.LLM(checkpoint)
    monkeypatch.setenv("EVENTIDE_MEMORY_LIMIT", "420KiB")
    with pytest.raises(OutOfMemoryError, match="keys and values of one sequence"):
        eventide.LLM(checkpoint, max_seq_len=256)


def test_dummy_weights(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    with pytest.raises(MissingFileError, match="load_format='dummy'"):
        eventide.LLM(tmp_path)
    params = SamplingParams(max_new_tokens=4, temperature=0, ignore_eos=True)
    found = []
    for _ in range(2):
        with eventide.LLM(tmp_path, load_format="dummy", device="interp") as llm:
            assert llm.tokenizer is None
            found.append(llm.generate([3, 4, 5], params).token_ids)
    assert found[0] == found[1]


@pytest.mark.parametrize("device", ["cpu", "interp"])
def test_use_after_close(bare: Path, device: str) -> None:
    llm = eventide.LLM(bare, device=device, num_threads=2)
    llm.close()
    llm.close()
    for use in (lambda: llm.generate([5, 6]), lambda: llm.stream([5, 6]), lambda: llm.logits([5, 6])):
        with pytest.raises(UsageError, match=r"this model was closed; load it again"):
            use()
    assert "linear" in str(llm.plan)
