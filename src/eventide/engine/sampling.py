"""How a request draws its tokens and when it stops: `SamplingParams`, checked when it is made.

    SamplingParams(max_new_tokens=64, temperature=0.8, top_p=0.95, seed=7, stop=["\\n\\n"])
    SamplingParams(temperature=0)                         greedy, whatever the model's authors prefer

A value left at None is the model's own: what its generation_config.json says, or else greedy decoding and
`DEFAULT_MAX_NEW_TOKENS`. `resolve` joins the two into a `Resolved`, which has no gaps.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SamplingError
from ..models.generation import GenerationConfig
from ..models.streaming import StopStrings
from .steps import MAX_LOGPROBS, Sampling

__all__ = ["DEFAULT_MAX_NEW_TOKENS", "Resolved", "SamplingParams"]

DEFAULT_MAX_NEW_TOKENS = 256
_GREEDY_BELOW = 1e-6  # so cold that only exact ties would be drawn from; colder still, float32 logits overflow
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingParams:
    """What a request asks for. Raises `SamplingError` for a value out of range.

    max_new_tokens: tokens to generate at most, at least 1.
    temperature: 0 (or less than 1e-6) takes the most likely token; otherwise logits are divided by it before drawing.
    top_k: draw among the k most likely tokens (0: all). top_p: among the fewest whose probabilities reach p, in (0, 1].
    seed: equal seeds give equal draws, whatever else runs in the batch; None takes a fresh one.
    stop: a string or several; text ends before the first of them that appears.
    ignore_eos: go on after the model's end-of-sequence tokens.
    logprobs: None for none; n from 0 to 20 reports the chosen token's log-probability and those of the n best.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _integer("max_new_tokens", self.max_new_tokens, 1, None)
        _integer("top_k", self.top_k, 0, 2**31 - 1, " (0 keeps all tokens)")
        _integer("seed", self.seed, 0, _MAX_SEED)
        _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        _number("temperature", self.temperature, "a finite number of at least 0 (0 is greedy)", lambda t: t >= 0)
        _number("top_p", self.top_p, "a number above 0 and at most 1", lambda p: 0 < p <= 1)
        if not isinstance(self.ignore_eos, bool):
            raise SamplingError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        try:
            StopStrings(self.stop)
        except TypeError:
            raise SamplingError(f"stop must be non-empty strings, got {self.stop!r}") from None

    def resolve(self, defaults: GenerationConfig) -> Resolved:
        """These values, with the model's where they are None; a missing seed is drawn here."""
        temperature = self.temperature
        if temperature is None:
            temperature = defaults.temperature if defaults.do_sample else 0.0
        top_k = (defaults.top_k if defaults.do_sample else None) if self.top_k is None else self.top_k
        top_p = (defaults.top_p if defaults.do_sample else None) if self.top_p is None else self.top_p
        return Resolved(
            max_new_tokens=self.max_new_tokens or defaults.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
            sampling=Sampling(
                temperature=0.0 if temperature < _GREEDY_BELOW else float(temperature),
                top_k=top_k or 0,
                top_p=1.0 if top_p is None else float(top_p),
                seed=secrets.randbits(62) if self.seed is None else self.seed,
                num_logprobs=self.logprobs or 0,
            ),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            eos_token_ids=frozenset(() if self.ignore_eos else defaults.eos_token_ids),
            wants_logprobs=self.logprobs is not None,
        )


@dataclass(frozen=True)
class Resolved:
    """Sampling values without gaps, as one request uses them."""

    max_new_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    eos_token_ids: frozenset[int] = frozenset()
    wants_logprobs: bool = False


def _integer(name: str, value: Any, lo: int, hi: int | None, note: str = "") -> None:
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < lo or (hi is not None and value > hi):
        bounds = f"of at least {lo}" if hi is None else f"from {lo} to {hi}"
        raise SamplingError(f"{name} must be an integer {bounds}{note}, got {value!r}")


def _number(name: str, value: Any, expected: str, fits: Any) -> None:
    if value is None:
        return
    try:
        good = not isinstance(value, (bool, str)) and math.isfinite(value) and fits(value)
    except TypeError:
        good = False
    if not good:
        raise SamplingError(f"{name} must be {expected}, got {value!r}")
