"""From a model's name to a running plan: resolve, check, choose sizes, compile, load the weights.

Everything that can be refused is refused before weights are read: the configuration, the tokenizer, every weight's name
and shape, the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from .. import dtypes
from ..errors import UsageError
from ..models import hub
from ..models.checkpoint import LOAD_FORMATS, open_weights
from ..models.config import ModelConfig
from ..models.decoder import Limits, build_decoder
from ..models.generation import GenerationConfig
from ..models.memory import available_bytes
from ..models.registry import family_of, load_config
from ..models.rope import rope_table
from ..models.tokenizer import Tokenizer
from ..models.weights import Piece, WeightSource, WeightSpec, iter_pieces, iter_weights, total_bytes
from ..ops.program import Program
from .limits import choose_limits

__all__ = ["Loaded", "Progress", "open_model"]

Progress = Callable[[str, float], None]  # (what is being done, share done from 0 to 1)


@dataclass(frozen=True)
class Loaded:
    """A model, checked and sized, its weights not read yet."""

    directory: Path
    config: ModelConfig
    generation: GenerationConfig
    tokenizer: Tokenizer | None
    dtype: str
    limits: Limits
    device: str
    specs: Sequence[WeightSpec]
    source: WeightSource
    weight_bytes: int
    available: int | None  # bytes, before the weights
    decode: bool = False  # the program of steps in which a sequence has one token
    splits: int = 0  # in the program of steps of many tokens on a GPU, see `build_decoder`

    def program(self) -> Program:
        if self.decode or self.splits:
            return build_decoder(self.config, self.limits, self.dtype, decode=self.decode, splits=self.splits)
        return family_of(self.config).build_program(self.config, self.limits, self.dtype)

    def weights(self, progress: Progress | None = None) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Every weight of the program by name, one in memory at a time: those of the checkpoint, and the RoPE table."""
        yield "rope", rope_table(self.config, self.limits.max_seq_len)
        total, done = total_bytes(self.specs, self.dtype), 0
        for name, array in iter_weights(self.specs, self.source, self.dtype):
            yield name, array
            done += array.nbytes
            if progress:
                progress("loading weights", done / total)

    def pieces(self, progress: Progress | None = None) -> Iterator[Piece]:
        """The same weights in pieces as they are stored, see `iter_pieces`."""
        table = rope_table(self.config, self.limits.max_seq_len)
        yield Piece("rope", table.shape, table)
        total, done = total_bytes(self.specs, self.dtype), 0
        for piece in iter_pieces(self.specs, self.source, self.dtype):
            yield piece
            done += piece.array.nbytes
            if progress:
                progress("loading weights", done / total)


def open_model(
    model: str | Path,
    *,
    dtype: str = "auto",
    max_seq_len: int | None = None,
    load_format: str = "auto",
    max_seqs: int | None = None,
    device: str = "cpu",
) -> Loaded:
    """Read and check everything but the weights themselves. Raises the errors of `models` and of `choose_limits`."""
    if load_format not in LOAD_FORMATS:
        raise UsageError(f"load_format must be one of {', '.join(LOAD_FORMATS)}, got {load_format!r}")
    directory = hub.resolve(model, weights=load_format != "dummy")
    config = load_config(directory)
    chosen = _choose_dtype(dtype, config, device)
    specs = family_of(config).weight_specs(config)
    source = open_weights(directory, specs, dtype=chosen, load_format=load_format)
    tokenizer = Tokenizer.load(directory, config.vocab_size)
    generation = GenerationConfig.load(directory, config)
    weight_bytes = total_bytes(specs, chosen)
    available, limits = _limits(device, config, chosen, max_seq_len, max_seqs, weight_bytes)
    return Loaded(directory, config, generation, tokenizer, chosen, limits, device, specs, source, weight_bytes, available)


def _limits(
    device: str, config: ModelConfig, dtype: str, max_seq_len: int | None, max_seqs: int | None, weight_bytes: int
) -> tuple[int | None, Limits]:
    """(bytes that may be taken, what fits)."""
    if device == "cuda":
        from .cuda import cuda_limits

        return cuda_limits(config, max_seq_len, max_seqs, weight_bytes)
    more = {} if max_seqs is None else {"max_seqs": max_seqs}
    available = available_bytes()
    return available, choose_limits(config, dtype, max_seq_len, available=available, weight_bytes=weight_bytes, **more)


def _choose_dtype(dtype: str, config: ModelConfig, device: str) -> str:
    if device == "cuda":
        if dtype not in ("auto", "bfloat16"):
            dtypes.check(dtype)
            raise UsageError(f"the GPU computes in bfloat16 only, got dtype={dtype!r}; use dtype='bfloat16' or device='cpu'")
        return "bfloat16"
    if dtype == "auto":
        # float16 has no fast path on CPUs, and float32 holds all of its values
        return "float32" if config.dtype == "float16" else config.dtype
    if dtype not in ("float32", "bfloat16"):
        dtypes.check(dtype)
        raise UsageError(f"dtype must be auto, float32 or bfloat16, got {dtype!r}")
    return dtype
