r"""Text to token ids and back, as tokenizer.json says, by the `tokenizers` library.

tokenizer = Tokenizer.load(directory, vocab_size=config.vocab_size)      None when the checkpoint has no tokenizer
tokenizer.encode("Hello")                                                [9707]
tokenizer.encode_chat([{"role": "user", "content": "Hi"}])               ids of the rendered chat template
tokenizer.decode(ids)                                                    special tokens left out
tokenizer.stream()                                                       a `Detokenizer`, for text as it comes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventide.errors import PromptError, TokenizerError
from eventide.models.chat import ChatTemplate
from eventide.models.streaming import Detokenizer

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer"]

# what a slow tokenizer leaves; the fast one is tokenizer.json
_OTHER_FORMATS = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "tekken.json")


class Tokenizer:
    """A tokenizer that fits the model's vocabulary: every id it gives is below `vocab_size`."""

    def __init__(self, inner: tokenizers.Tokenizer, vocab_size: int, chat_template: ChatTemplate | None = None) -> None:
        """Raises `TokenizerError` if `inner` has ids that the model has no row for."""
        # a file may ask to pad and to cut, which would change prompts behind the caller's back
        inner.no_padding()
        inner.no_truncation()
        self.inner = inner
        self.vocab_size = vocab_size
        self.chat_template = chat_template
        highest = max(inner.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= vocab_size:
            token = inner.id_to_token(highest)
            raise TokenizerError(
                f"the tokenizer doesn't match the model: its token {token!r} has id {highest}, and config.json gives "
                f"vocab_size {vocab_size}; take tokenizer.json and weights from the same checkpoint"
            )

    @classmethod
    def load(cls, directory: Path, vocab_size: int) -> Tokenizer | None:
        """Read tokenizer.json and the chat template; None when `directory` has no tokenizer at all.

        Raises `TokenizerError` when tokenizer.json is corrupt, when only another format is there, or when its ids don't
        fit `vocab_size`.
        """
        import tokenizers

        path = directory / "tokenizer.json"
        if not path.is_file():
            others = [name for name in _OTHER_FORMATS if (directory / name).is_file()]
            if others:
                raise TokenizerError(
                    f"{directory} has {', '.join(others)} but no tokenizer.json; save the fast tokenizer beside it "
                    "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))"
                )
            return None
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        # the library raises plain Exception
        except Exception as error:
            raise TokenizerError(
                f"{path} can't be read: {error}; it may be half downloaded, so fetch it again"
            ) from None
        return cls(inner, vocab_size, ChatTemplate.load(directory))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with the special tokens that tokenizer.json adds (a BOS, say) unless told not to.

        Raises `PromptError` for a string with half a character (a lone surrogate), as bytes that aren't UTF-8 leave it.
        """
        wrong = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
        if wrong is not None:
            raise PromptError(
                f"the prompt isn't text: character {wrong} is {text[wrong]!r}, half of a character; encode it as UTF-8"
            )
        return list(self.inner.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        """Token ids of the chat template's text for `messages`; `variables` are those of `ChatTemplate.render`.

        Raises `PromptError` when the checkpoint has no chat template.
        """
        if self.chat_template is None:
            raise PromptError("this checkpoint has no chat template; give a plain prompt instead")
        # the template writes special tokens itself
        return self.encode(self.chat_template.render(messages, **variables), add_special_tokens=False)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `token_ids`. Raises `TokenizerError` for an id outside the vocabulary.

        An id that the model has a row for and the tokenizer has no token for (padding of the embedding) gives no text.
        """
        self.check(token_ids)
        return str(self.inner.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def check(self, token_ids: Sequence[int]) -> None:
        """Raise `TokenizerError` unless every id is in ``[0, vocab_size)``."""
        if token_ids and not (min(token_ids) >= 0 and max(token_ids) < self.vocab_size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < self.vocab_size)
            raise TokenizerError(f"token id {wrong} is outside the vocabulary of {self.vocab_size} ids")

    def stream(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A new incremental decoder for one sequence."""
        return Detokenizer(lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens))
