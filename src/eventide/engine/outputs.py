"""What generation returns: a `Completion` for a prompt, or `Piece`s of one while it grows.

    completion.text           "in the garden."       without special tokens, cut before a stop string
    completion.token_ids      [512, 88, 7, 2047]     all that were generated, an end-of-sequence token included
    completion.finish_reason  "stop" (end of sequence or stop string) or "length" (max_new_tokens, or a full context)
    completion.logprobs       None, or one `TokenLogprob` a token
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Completion", "FinishReason", "Piece", "TokenLogprob"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities under the model's unscaled distribution: of the chosen token, and of the best
    ones by id, most likely first."""

    token_id: int
    logprob: float
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """The continuation of one prompt. `text` is empty where the checkpoint has no tokenizer."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Piece:
    """What a step added to the continuation of prompt `index`: tokens, and the text that has become certain.

    `finish_reason` is None until the last piece of that prompt. Texts joined give the completion's text.
    """

    index: int
    token_ids: list[int]
    text: str
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
