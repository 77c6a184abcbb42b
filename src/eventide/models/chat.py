"""Chat templates, rendered as transformers renders them.

    template = ChatTemplate.load(directory)                      None when the checkpoint has none
    template.render([{"role": "user", "content": "Hi"}])
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

A template is Jinja code that comes with a checkpoint, so it runs in Jinja's immutable sandbox. What transformers
gives to templates is given here: `trim_blocks` and `lstrip_blocks`, loop controls, the ``generation`` block,
``raise_exception``, ``strftime_now``, a ``tojson`` that leaves HTML characters alone, and the special tokens by their
names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from eventide.errors import PromptError, TokenizerError
from eventide.models.jsonfile import Fields, read_json

__all__ = ["ChatTemplate"]

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
Message = Mapping[str, Any]


class ChatTemplate:
    """One compiled template with the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`; raises `TokenizerError` if it isn't a valid template."""
        import jinja2

        self.source = source
        self.special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"the chat template can't be compiled: {error}") from None

    @classmethod
    def load(cls, directory: Path) -> ChatTemplate | None:
        """chat_template.jinja, or else `chat_template` in tokenizer_config.json; None when there is neither."""
        path = directory / "tokenizer_config.json"
        fields = read_json(path) if path.is_file() else Fields({}, path.name)
        file = directory / "chat_template.jinja"
        try:
            source = file.read_text(encoding="utf-8") if file.is_file() else _named_default(fields)
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{file} can't be read: {error}") from None
        return None if source is None else cls(source, special_tokens(fields))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt's text for `messages`, dictionaries with ``role`` and ``content``.

        `tools` are JSON schemas; further `variables` (such as ``enable_thinking``) reach the template by their names.
        Raises `PromptError` when a message is malformed or when the template refuses the conversation.
        """
        import jinja2

        if not messages:
            raise PromptError("a chat needs at least one message")
        names = {**self.special_tokens, **_plain(variables)}
        names["messages"] = [_normalized(position, message) for position, message in enumerate(messages)]
        names["tools"], names["documents"] = _plain(tools), _plain(documents)
        names["add_generation_prompt"] = add_generation_prompt
        try:
            return str(self._template.render(names))
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise PromptError(f"the model's chat template refuses this conversation: {error}") from None


def _plain(value: Any) -> Any:
    # a template is foreign code, so it sees plain data and never an object with methods
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(f"what a chat template is given must be plain JSON data: {error}") from None


def _normalized(position: int, message: Message) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        got = str(message)[:60]
        raise PromptError(f"message {position} of the chat must be a dictionary with role and content, got {got!r}")
    # templates test for a key's absence, so a null counts as one
    present: dict[str, Any] = _plain({key: value for key, value in message.items() if value is not None})
    # the same thing under three names: templates read one of the first two
    reasoning = next((present[key] for key in _REASONING_NAMES if key in present), None)
    if reasoning is not None:
        present = {"thinking": reasoning, **present, "reasoning_content": reasoning}
    return present


def special_tokens(fields: Fields) -> dict[str, str]:
    """Special tokens that tokenizer_config.json names, as text: ``{"bos_token": "<s>", ...}``."""
    tokens = {}
    for name in _SPECIAL_NAMES:
        token = fields.raw.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None and not isinstance(content, str):
            raise TokenizerError(f"{fields.source}: {name} must be a string or an object with content, got {token!r}")
        if content is not None:
            tokens[name] = content
    return tokens


def _named_default(fields: Fields) -> str | None:
    source = fields.raw.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = [entry for entry in source if isinstance(entry, dict) and entry.get("name") == "default"]
        source = named[0].get("template") if named else None
    if source is not None and not isinstance(source, str):
        raise TokenizerError(f"{fields.source}: chat_template must be a string or a list of named templates")
    return source


def _environment() -> Any:
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """``{% generation %}…{% endgeneration %}`` marks the assistant's words for training; here it is its content."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # a call block, as in transformers, so that names set inside stay inside
            return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

        def _content(self, caller: Any) -> Any:
            return caller()

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
