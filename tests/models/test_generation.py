"""generation_config.json: values, defaults from config.json, and values that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eventide.errors import CheckpointError
from eventide.models.generation import GenerationConfig
from tests.checkpoints import make_checkpoint
from tests.models.test_config import parse

CONFIG = parse(bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0)


def load(directory: Path, **values: Any) -> GenerationConfig:
    (directory / "generation_config.json").write_text(json.dumps(values))
    return GenerationConfig.load(directory, CONFIG)


def test_as_transformers_writes_it(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, generation={"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95})
    assert GenerationConfig.load(tmp_path, CONFIG) == GenerationConfig(
        eos_token_ids=(2,), bos_token_id=1, pad_token_id=0, do_sample=True, temperature=0.6, top_k=20, top_p=0.95
    )


def test_absent_file_and_empty_file(tmp_path: Path) -> None:
    expected = GenerationConfig(eos_token_ids=(2, 3), bos_token_id=1, pad_token_id=0)
    assert GenerationConfig.load(tmp_path, CONFIG) == expected
    assert load(tmp_path) == expected


def test_eos_list_and_filters_that_let_everything_through(tmp_path: Path) -> None:
    loaded = load(tmp_path, eos_token_id=[7, 9, 7], top_k=0, top_p=1.0, temperature=None)
    assert loaded.eos_token_ids == (7, 9)
    assert (loaded.top_k, loaded.top_p, loaded.temperature) == (None, None, 1.0)


def test_what_is_ignored_is_named(tmp_path: Path) -> None:
    assert load(tmp_path, repetition_penalty=1.05, num_beams=4).ignored == ("repetition_penalty", "num_beams")
    assert load(tmp_path, repetition_penalty=1.0, num_beams=1, min_p=0.0).ignored == ()


BAD = [
    ({"top_p": 1.5}, "top_p must be a number above 0 and at most 1, got 1.5"),
    ({"top_p": 0}, "top_p must be a finite number above 0"),
    ({"temperature": -1}, "temperature must be a finite number of at least 0, got -1"),
    ({"top_k": 2.5}, "top_k must be an integer of at least 0, got 2.5"),
    ({"do_sample": "yes"}, "do_sample must be true or false"),
    ({"eos_token_id": "</s>"}, "eos_token_id must be a token id"),
]


@pytest.mark.parametrize(("values", "expected"), BAD)
def test_bad_values(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError, match="generation_config.json: " + expected):
        load(tmp_path, **values)
