"""What generation_config.json asks for: when to stop, and how its authors sample.

    GenerationConfig.load(directory, config)
    GenerationConfig(eos_token_ids=(151645, 151643), do_sample=True, temperature=0.6, top_k=20, top_p=0.95)

These are defaults, which a request's own sampling values override. A filter that is absent, or that would let every
token through (top_k 0, top_p 1), is None. What the file asks for and Eventide doesn't do is listed in `ignored`, so
that a caller can say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eventide.models.config import ModelConfig
from eventide.models.jsonfile import read_json

__all__ = ["GenerationConfig"]

# values at which a setting changes nothing
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "min_p": (None, 0, 0.0),
    "typical_p": (None, 1, 1.0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0, 0.0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_new_tokens": (None, 0),
}


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults of generation. Without `do_sample` the most likely token is taken and the sampling values rest."""

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def load(cls, directory: Path, config: ModelConfig) -> GenerationConfig:
        """Read `directory`/generation_config.json; what it leaves out, or all if it is absent, comes from `config`.

        Raises `CheckpointError` for a value of the wrong type or out of range.
        """
        path = directory / "generation_config.json"
        if not path.is_file():
            return cls(config.eos_token_ids, config.bos_token_id, config.pad_token_id)
        fields = read_json(path)
        top_p = fields.number("top_p", None, above=True)
        if top_p is not None and top_p > 1:
            raise fields.fail("top_p", "a number above 0 and at most 1")
        return cls(
            eos_token_ids=fields.token_ids("eos_token_id") or config.eos_token_ids,
            bos_token_id=fields.integer("bos_token_id", config.bos_token_id),
            pad_token_id=fields.integer("pad_token_id", config.pad_token_id),
            do_sample=fields.boolean("do_sample", False),
            temperature=fields.number("temperature", 1.0),
            top_k=fields.integer("top_k", None) or None,
            top_p=None if top_p == 1 else top_p,
            max_new_tokens=fields.integer("max_new_tokens", None, minimum=1),
            ignored=tuple(key for key, neutral in _NEUTRAL.items() if fields.raw.get(key) not in neutral),
        )
