"""Chat templates against transformers' own rendering, and the ways in which they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from eventide.errors import PromptError, TokenizerError
from eventide.models.chat import ChatTemplate
from tests.checkpoints import edit_json
from tests.tiny_tokenizers import CHATML, TEMPLATES, make_tokenizer

USER = {"role": "user", "content": "  What's 3 < 4 & “why”?\n"}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is. \U0001f600"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "é": [1, 2.5, None, True]}}}
CALLS = [{"name": "add", "arguments": {"a": "<b>", "b": [1]}}]

CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "three turns": [USER, ANSWER, USER],
    "system and turns": [SYSTEM, USER, ANSWER, USER],
    "nulls": [{**USER, "tool_calls": None, "name": None}],
    "tool calls": [USER, {**ANSWER, "tool_calls": CALLS}, USER],
    "reasoning": [USER, {**ANSWER, "reasoning": "because"}, USER],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompt": {"add_generation_prompt": True},
    "no thinking": {"add_generation_prompt": True, "enable_thinking": False},
    "date": {"date_string": "20 Nov 2026"},
    "tools": {"tools": [TOOL], "add_generation_prompt": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_against_transformers(
    tmp_path: Path, template: str, chat: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    make_tokenizer(tmp_path, template=template)
    ours = ChatTemplate.load(tmp_path)
    assert ours is not None
    given = {"add_generation_prompt": False, **options}
    try:
        expected = PreTrainedTokenizerFast.from_pretrained(tmp_path).apply_chat_template(chat, tokenize=False, **given)
    except Exception as error:
        with pytest.raises(PromptError) as caught:
            ours.render(chat, **given)
        assert str(error) in str(caught.value)
    else:
        assert ours.render(chat, **given) == expected


def test_reasoning_is_known_under_its_three_names() -> None:
    template = ChatTemplate("{{ messages[0].thinking }} {{ messages[0].reasoning_content }}", {})
    for name in ("reasoning", "thinking", "reasoning_content"):
        assert template.render([{"role": "assistant", "content": "", name: "hm"}]) == "hm hm"


def test_generation_prompt_is_added_unless_told_not_to(tmp_path: Path) -> None:
    template = ChatTemplate(CHATML, {})
    assert template.render([SYSTEM, USER]).endswith("<|im_start|>assistant\n")
    assert template.render([SYSTEM, USER], add_generation_prompt=False).endswith("<|im_end|>\n")


def test_places_of_a_template(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    make_tokenizer(tmp_path, template="one")
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}]
    for source, expected in (("one", "one"), (named, "three"), (named[:1], None), (None, None)):
        edit_json(config, chat_template=source)
        template = ChatTemplate.load(tmp_path)
        assert (template and template.source) == expected
    (tmp_path / "chat_template.jinja").write_text("four {{ bos_token }}{{ eos_token }}{{ pad_token }}")
    template = ChatTemplate.load(tmp_path)
    assert template is not None
    assert template.render([USER]) == "four <s></s>"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("chat_template", "{% if %}", "chat template can't be compiled"),
        ("chat_template", 5, "chat_template must be a string or a list"),
        ("bos_token", 5, "bos_token must be a string or an object with content, got 5"),
    ],
)
def test_broken_templates(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    make_tokenizer(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", **{key: value})
    with pytest.raises(TokenizerError, match=expected):
        ChatTemplate.load(tmp_path)


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match="can't be read"):
        ChatTemplate.load(tmp_path)


REFUSED: dict[str, tuple[str, list[Any], str]] = {
    "empty": (CHATML, [], "at least one message"),
    "text": (CHATML, ["Hi"], "message 0 of the chat must be a dictionary with role and content, got 'Hi'"),
    "no role": (CHATML, [USER, {"content": "x"}], "message 1 of the chat"),
    "not plain data": (CHATML, [{"role": "user", "content": Path("x")}], "must be plain JSON data"),
    "no content": ("{{ messages[0].content.strip() }}", [{"role": "user"}], "refuses .*has no attribute 'content'"),
    "the template's own words": (TEMPLATES["instruct"], [ANSWER], "Conversation roles must alternate"),
    "the sandbox": ("{{ messages.__class__.__mro__ }}", [USER], "refuses this conversation: .*unsafe"),
    "changing its input": ("{{ messages.append(1) }}", [USER], "refuses this conversation: .*'append' .* is unsafe"),
}


@pytest.mark.parametrize(("source", "messages", "expected"), REFUSED.values(), ids=REFUSED)
def test_refusals(source: str, messages: list[Any], expected: str) -> None:
    with pytest.raises(PromptError, match=expected):
        ChatTemplate(source, {}).render(messages)


def test_caller_keeps_its_messages() -> None:
    messages = [{"role": "user", "content": "x", "name": None}]
    before = json.dumps(messages)
    ChatTemplate(CHATML, {}).render(messages)
    assert json.dumps(messages) == before
