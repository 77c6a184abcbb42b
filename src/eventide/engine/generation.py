"""A request on its way: what is known of its tokens, where its keys and values are, and what it still has to show.

    g = Generation(0, params, prompt, rank=(0, 0), tokenizer=tokenizer)
    g.chunk(3)                the step's part that reads its next three tokens, and draws one if nothing else is known
    g.take(outputs, row)      tokens that steps drew for it
    g.piece()                 the text that they make certain; a stop string may end it here

`known` is the prompt and what was drawn; the first `cached_len` of them have keys and values. So `unread` is the rest of the
prompt at first, one while it generates, and everything again when it has had to give up its pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..errors import CheckpointError
from ..models.streaming import Detokenizer, StopStrings
from ..models.tokenizer import Tokenizer
from ..ops.sample import NO_TOKEN
from .outputs import FinishReason, Piece, TokenLogprob
from .pool import Place
from .runner import Outputs
from .sampling import Resolved
from .steps import Chunk

__all__ = ["SAMPLED", "Generation", "bounded"]

SAMPLED = ("next_token", "logprob", "top_ids", "top_logprobs")


@dataclass(eq=False)
class Generation:
    """A request with `max_new_tokens` already bounded by what the context leaves. Lower ranks go first."""

    index: int
    params: Resolved
    prompt: Sequence[int]
    rank: tuple[int, int]
    text: Detokenizer | None
    stops: StopStrings
    known: list[int]
    hashes: list[bytes] = field(default_factory=list)  # of the full pages of `known`
    num_published: int = 0  # of its pages, that others may find
    place: Place | None = None
    cached_len: int = 0
    read_len: int = 0  # what was known when it got its place: read as a prompt is
    finish_reason: FinishReason | None = None
    fresh: list[int] = field(default_factory=list)  # drawn since the last piece
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @classmethod
    def of(
        cls, index: int, params: Resolved, prompt: Sequence[int], rank: tuple[int, int], tokenizer: Tokenizer | None
    ) -> Generation:
        text = None if tokenizer is None else tokenizer.stream()
        return cls(index, params, prompt, rank, text, StopStrings(params.stop), list(prompt))

    @property
    def unread(self) -> int:
        return len(self.known) - self.cached_len

    @property
    def left(self) -> int:
        """Tokens that it may still draw."""
        return self.params.max_new_tokens - (len(self.known) - len(self.prompt))

    def chunk(self, count: int, cached_len: int | None = None, known_len: int | None = None) -> Chunk:
        """Its next `count` tokens; a token is drawn when they reach the end of what is known. The lengths may be those of a
        later step."""
        assert self.place is not None
        start = self.cached_len if cached_len is None else cached_len
        last = start + count == (len(self.known) if known_len is None else known_len)
        sampling = self.params.sampling
        return Chunk(self.place.seq, start, count, rows="last" if last else "none", sampling=sampling, sample=last)

    def take(self, outputs: Outputs, row: int) -> int:
        """Notes the tokens that row `row` of some steps drew, `outputs` being `[steps, rows, …]`; how many they are."""
        tokens = outputs["next_token"][:, row].tolist()
        if NO_TOKEN in tokens:
            raise CheckpointError(
                "the model's logits are not numbers (NaN or infinite), so no token can be drawn: its weights hold such values, "
                "or overflow; fetch the checkpoint again, or try dtype='float32'"
            )
        self.known += tokens
        self.fresh += tokens
        if self.params.wants_logprobs:
            n = self.params.sampling.num_logprobs
            for i, token in enumerate(tokens):
                ids, values = (outputs[name][i, row, :n].tolist() for name in ("top_ids", "top_logprobs"))
                self.logprobs.append(TokenLogprob(token, float(outputs["logprob"][i, row]), dict(zip(ids, values))))
        # steps end at the first of these that comes
        if tokens[-1] in self.params.eos_token_ids:
            self.finish_reason = "stop"
        elif self.left <= 0:
            self.finish_reason = "length"
        return len(tokens)

    def piece(self) -> Piece:
        """What has come since the last piece. A stop string may end it here, and drops later tokens."""
        tokens, logprobs = self.fresh, self.logprobs
        self.fresh, self.logprobs = [], []
        text = ""
        if self.text is not None and not self.params.stop:
            text = self.text.push(tokens)
            if self.finish_reason is not None:
                text += self.text.finish()
        elif self.text is not None:
            for i, token in enumerate(tokens):
                shown, stopped = self.stops.push(self.text.push([token]))
                text += shown
                if stopped:
                    self.finish_reason = "stop"
                    tokens, logprobs = tokens[: i + 1], logprobs[: i + 1]
                    break
            else:
                if self.finish_reason is not None:
                    shown, stopped = self.stops.push(self.text.finish())
                    text += shown + ("" if stopped else self.stops.finish())
                    self.finish_reason = "stop" if stopped else self.finish_reason
        wanted = logprobs if self.params.wants_logprobs else None
        return Piece(self.index, tokens, text, self.finish_reason, wanted)


def bounded(params: Resolved, prompt_len: int, max_seq_len: int) -> Resolved:
    """`params` with max_new_tokens cut to what the context leaves after the prompt."""
    return replace(params, max_new_tokens=min(params.max_new_tokens, max_seq_len - prompt_len))
