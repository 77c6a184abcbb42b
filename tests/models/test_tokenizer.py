"""Encoding and decoding against transformers, and tokenizers that don't fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Inner
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from eventide.errors import PromptError, TokenizerError
from eventide.models.tokenizer import Tokenizer
from tests.tiny_tokenizers import CORPUS, make_metaspace_tokenizer, make_tokenizer

TEXTS = [
    *CORPUS[:4],
    "",
    " ",
    "  leading and trailing  ",
    "<s>not text</s>",
    "\u4f60\u597d \U0001f600\U0001f468\u200d\U0001f469",
    "a\tb\r\n\0c",
]


def load(directory: Path, vocab_size: int = 400) -> Tokenizer:
    tokenizer = Tokenizer.load(directory, vocab_size)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("make", [make_tokenizer, make_metaspace_tokenizer])
@pytest.mark.parametrize("text", TEXTS)
def test_against_transformers(tmp_path: Path, make: object, text: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    ours, theirs = load(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ids = ours.encode(text)
    assert ids == theirs(text).input_ids
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_chat_against_transformers(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    chat = [{"role": "user", "content": "One and two?"}]
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert load(tmp_path).encode_chat(chat) == expected


def test_special_tokens_of_the_post_processor(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    inner = Inner.from_file(str(tmp_path / "tokenizer.json"))
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.enable_truncation(3)
    inner.enable_padding(length=64)
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load(tmp_path)
    plain = tokenizer.encode("The quick brown fox", add_special_tokens=False)
    # the truncation and the padding that the file asks for are left out
    assert len(plain) > 3
    assert tokenizer.encode("The quick brown fox") == [1, *plain]
    assert (
        tokenizer.encode_chat([{"role": "user", "content": "x"}])[0] == 3
    )  # the template's own start, no BOS before it


def test_no_tokenizer(tmp_path: Path) -> None:
    assert Tokenizer.load(tmp_path, 400) is None


def test_another_format_only(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(TokenizerError, match=r"has vocab\.json, merges\.txt but no tokenizer\.json"):
        Tokenizer.load(tmp_path, 400)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Unheard"}}'])
def test_corrupt_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json can't be read"):
        Tokenizer.load(tmp_path, 400)


def test_vocabulary_of_another_model(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, vocab_size=320)
    assert load(tmp_path, 320).vocab_size == 320
    with pytest.raises(TokenizerError, match=r"its token '.*' has id 319, and config\.json gives vocab_size 319"):
        Tokenizer.load(tmp_path, 319)


def test_an_added_token_beyond_the_vocabulary(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, vocab_size=320)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 320, "content": "<new>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="'<new>' has id 320"):
        Tokenizer.load(tmp_path, 320)


@pytest.mark.parametrize("token_id", [-1, 400, 10**12])
def test_ids_outside_the_vocabulary(tmp_path: Path, token_id: int) -> None:
    make_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match=f"token id {token_id} is outside the vocabulary of 400 ids"):
        load(tmp_path).decode([5, token_id])


def test_ids_that_only_pad_the_embedding_have_no_text(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, vocab_size=320)
    tokenizer = load(tmp_path, 512)
    ids = tokenizer.encode("One and two")
    assert tokenizer.decode([*ids, 511]) == "One and two"


def test_no_chat_template(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(PromptError, match="no chat template"):
        load(tmp_path).encode_chat([{"role": "user", "content": "x"}])
