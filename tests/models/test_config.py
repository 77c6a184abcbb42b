"""config.json of every family, in both spellings, against transformers; and every way in which it can be unusable."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventide.errors import CheckpointError, MissingFileError, UnsupportedModelError
from eventide.models.config import Llama3Scaling, ModelConfig
from eventide.models.jsonfile import Fields
from eventide.models.registry import find_family, load_config
from eventide.models.rope import inverse_frequencies
from tests.checkpoints import LLAMA3, SHAPES, Shape, edit_json, make_config, spell_as_transformers_4

SMALL: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
SCALING = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)


def parse(**changes: Any) -> ModelConfig:
    raw = {key: value for key, value in {**SMALL, **changes}.items() if value is not ...}
    fields = Fields(raw, "config.json")
    family, architecture = find_family(fields)
    return family.parse_config(fields, architecture)


@pytest.mark.parametrize("spelling", [4, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_families(tmp_path: Path, shape: Shape, spelling: int) -> None:
    theirs = make_config(shape)
    theirs.architectures = [ARCHITECTURES[shape.family]]
    theirs.save_pretrained(tmp_path)
    if spelling == 4:
        spell_as_transformers_4(tmp_path)
    assert load_config(tmp_path) == ModelConfig(
        architecture=theirs.architectures[0],
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim or shape.hidden_size // shape.num_heads,
        vocab_size=shape.vocab_size,
        rms_norm_eps=theirs.rms_norm_eps,
        rope_theta=shape.rope_theta,
        rope_scaling=SCALING if shape.llama3 else None,
        qkv_bias=shape.family == "qwen2",
        qk_norm=shape.family == "qwen3",
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.max_position_embeddings,
        dtype="float32",
        bos_token_id=1,
        eos_token_ids=(2,),
    )


def test_derived_sizes() -> None:
    config = parse(head_dim=32)
    assert (config.q_rows, config.kv_rows) == (128, 64)


def test_defaults() -> None:
    config = parse(eos_token_id=[5, 7, 5], pad_token_id=-1, torch_dtype="torch.bfloat16")
    assert config.head_dim == 128  # of Qwen3, whatever hidden_size and the heads say
    assert config.eos_token_ids == (5, 7)
    assert config.pad_token_id is None
    assert config.dtype == "bfloat16"
    assert replace(config, dtype="float32") == parse(eos_token_id=[5, 7])
    assert parse(architectures=["LlamaForCausalLM"]).head_dim == 16


def test_model_type_stands_in_for_architectures() -> None:
    assert parse(architectures=None, model_type="llama").architecture == "LlamaForCausalLM"


def test_a_window_that_no_layer_uses_is_fine() -> None:
    assert parse(use_sliding_window=True, sliding_window=32, max_window_layers=4).num_layers == 4
    assert parse(use_sliding_window=False, sliding_window=32, max_window_layers=2).num_layers == 4
    assert parse(use_sliding_window=True, sliding_window=32, layer_types=["full_attention"] * 4).num_layers == 4


def test_qwen2_ignores_flags_it_does_not_have() -> None:
    assert parse(architectures=["Qwen2ForCausalLM"], attention_bias=True).qkv_bias


# every key that is read
KEYS = [
    *SMALL, "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "rope_type", "factor", "type",
    "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "partial_rotary_factor", "hidden_act",
    "tie_word_embeddings", "max_position_embeddings", "dtype", "torch_dtype", "bos_token_id", "eos_token_id",
    "model_type", "pad_token_id", "layer_types", "use_sliding_window", "sliding_window", "max_window_layers",
    "quantization_config", "attention_bias", "mlp_bias", "num_experts",
]  # fmt: skip
UNSUPPORTED = {
    "sliding window": ({"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}, "sliding-window"),
    "layer types": ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'"),
    "linear rope, new spelling": ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
    "rope by layer type": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layers"),
    "partial rope": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "mixture of experts": ({"num_experts": 8}, "num_experts=8"),
    "quantization": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    "activation": ({"hidden_act": "gelu"}, "'gelu'"),
    "attention bias": ({"attention_bias": True}, "attention_bias=true"),
    "mlp bias": ({"architectures": ["LlamaForCausalLM"], "mlp_bias": True}, "LlamaForCausalLM: mlp_bias=true"),
    "dtype": ({"dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
}


@pytest.mark.parametrize(("changes", "expected"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_unsupported_features(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UnsupportedModelError, match="isn't supported") as caught:
        parse(**changes)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_architecture_lists_the_known_ones() -> None:
    message = "GPT2LMHeadModel; Eventide has .*LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    with pytest.raises(UnsupportedModelError, match=message):
        parse(architectures=["GPT2LMHeadModel"])
    with pytest.raises(UnsupportedModelError, match="unknown architecture mamba"):
        parse(architectures=None, model_type="mamba")


MALFORMED = {
    "no architecture": ({"architectures": ...}, "architectures is missing"),
    "missing size": ({"hidden_size": ...}, "hidden_size is missing"),
    "size as text": ({"hidden_size": "64"}, 'hidden_size must be an integer of at least 1, got "64"'),
    "size as boolean": ({"num_hidden_layers": True}, "num_hidden_layers must be an integer"),
    "no layers": ({"num_hidden_layers": 0}, "at least 1, got 0"),
    "heads and groups": ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple"),
    "heads and hidden": ({"architectures": ["LlamaForCausalLM"], "num_attention_heads": 6}, "without head_dim, hidden"),
    "odd head": ({"head_dim": 7}, "head_dim must be even for RoPE, got 7"),
    "epsilon": ({"rms_norm_eps": 0}, "rms_norm_eps must be a finite number above 0, got 0"),
    "epsilon beyond floats": ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a finite number above 0, got 10000"),
    "layers": ({"num_hidden_layers": 10**7}, "num_hidden_layers must be an integer of at most 10000, got 10000000"),
    "theta": ({"rope_theta": float("inf")}, "rope_theta must be a finite number"),
    "flag": ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
    "rope object": ({"rope_scaling": [1]}, "rope_scaling must be an object"),
    "llama3 incomplete": ({"rope_scaling": {**LLAMA3, "factor": None}}, "config.json: rope_scaling: factor is missing"),
    "llama3 factors": ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor must be above"),
    "eos": ({"eos_token_id": ["</s>"]}, "eos_token_id must be a token id or a list of token ids"),
    "activation": ({"hidden_act": 3}, "hidden_act must be a string"),
    "architectures": ({"architectures": "Qwen3ForCausalLM"}, "architectures must be a list of strings"),
}


@pytest.mark.parametrize(("changes", "expected"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_values(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected):
        parse(**changes)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=6,
)


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@given(changes=st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
@settings(max_examples=400)
def test_any_value_is_read_or_refused(changes: dict[str, Any]) -> None:
    with contextlib.suppress(CheckpointError):
        config = parse(**changes)
        assert config.num_heads % config.num_kv_heads == 0
        assert inverse_frequencies(config).shape == (config.head_dim // 2,)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"config\.json is missing"):
        load_config(tmp_path)


BROKEN = [
    ('{"hidden_size": 6', "isn't valid JSON"),
    ('{"hidden_size": ' + "9" * 5000 + "}", "isn't valid JSON"),
    ("[1, 2]", "must hold a JSON object, got"),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN)
def test_broken_file(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=expected):
        load_config(tmp_path)


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="can't be read"):
        load_config(tmp_path)


def test_edit_json_removes_and_changes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    edit_json(tmp_path / "config.json", hidden_size=..., vocab_size=5)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        **{key: value for key, value in SMALL.items() if key != "hidden_size"},
        "vocab_size": 5,
    }
