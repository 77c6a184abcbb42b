"""Which weights a program takes, and how a checkpoint's tensors become them.

A `WeightSpec` names one weight of the program and the checkpoint tensors whose rows it holds, one after another:

    WeightSpec("layers.0.qkv_proj", sources=(
        Source("model.layers.0.self_attn.q_proj.weight", (2048, 1024)),
        Source("model.layers.0.self_attn.k_proj.weight", (1024, 1024)),
        Source("model.layers.0.self_attn.v_proj.weight", (1024, 1024))))       shape (4096, 1024)

Linear weights are `[out_features, in_features]`, as in the checkpoint. A tied LM head has no spec of its own: the
program uses ``embed_tokens`` twice. `iter_weights` yields one array at a time, from a checkpoint or from seeded
random values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from eventide import dtypes
from eventide.errors import TensorError
from eventide.models.config import ModelConfig

__all__ = [
    "Kind", "Piece", "Source", "WeightSource", "WeightSpec", "decoder_weights", "iter_pieces", "iter_weights", "total_bytes",
]  # fmt: skip


Kind = Literal["matrix", "norm", "bias"]


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint: its name there and the shape it must have."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightSpec:
    """One weight of the program: `sources` concatenated along rows, or with `interleave` row by row in turn (gate 0,
    up 0, gate 1, …). `kind` tells what random values suit it."""

    name: str
    sources: tuple[Source, ...]
    kind: Kind = "matrix"
    interleave: bool = False

    def __post_init__(self) -> None:
        tails = {source.shape[1:] for source in self.sources}
        if len(tails) != 1:
            raise TensorError(f"weight {self.name}: sources must agree beyond their rows, got {sorted(tails)}")
        heights = [source.shape[0] for source in self.sources]
        if self.interleave and len(set(heights)) != 1:
            raise TensorError(f"weight {self.name}: interleaved sources must have equally many rows, got {heights}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the concatenation."""
        return (sum(source.shape[0] for source in self.sources), *self.sources[0].shape[1:])

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


class WeightSource(Protocol):
    """Where weights come from: a checkpoint's files, or seeded random values."""

    def view(self, source: Source) -> npt.NDArray[Any] | None:
        """The tensor as it is stored, read-only and without a copy, checked against `source`; None if there is no
        store."""

    def fill(self, source: Source, kind: Kind, out: npt.NDArray[Any]) -> None:
        """Write the tensor into `out` (shape `source.shape`, any float dtype, rows apart or not), converting it."""


def iter_weights(
    specs: Sequence[WeightSpec], source: WeightSource, dtype: str
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield (name, array of `spec.shape` in `dtype`) for every spec, in order, holding no array itself.

    A weight with one source that is stored in `dtype` is a read-only view of the mapped file; every other one is a new
    array. Raises `TensorError` for a tensor that is missing or has another shape or dtype than expected.
    """
    wanted = dtypes.to_numpy(dtype)
    for spec in specs:
        if len(spec.sources) == 1:
            view = source.view(spec.sources[0])
            if view is not None and view.dtype == wanted and view.flags.aligned:
                yield spec.name, view
                continue
        out = np.empty(spec.shape, wanted)
        row = 0
        for i, part in enumerate(spec.sources):
            rows = slice(i, None, len(spec.sources)) if spec.interleave else slice(row, row + part.shape[0])
            source.fill(part, spec.kind, out[rows])
            row += part.shape[0]
        yield spec.name, out
        del out


@dataclass(frozen=True)
class Piece:
    """Rows of one weight: row i of `array` is row `first + i * step` of the weight, whose shape is `shape`."""

    name: str
    shape: tuple[int, ...]
    array: npt.NDArray[Any]
    first: int = 0
    step: int = 1
    last: bool = True  # of its weight


def iter_pieces(specs: Sequence[WeightSpec], source: WeightSource, dtype: str) -> Iterator[Piece]:
    """The same weights as `iter_weights`, but as they are stored: one piece for each source of a spec, without a copy, where
    the store has `dtype`. For who can put rows where they belong."""
    wanted = dtypes.to_numpy(dtype)
    for spec in specs:
        views = [source.view(part) for part in spec.sources]
        stored = [v for v in views if v is not None and v.dtype == wanted and v.flags.aligned]
        if len(stored) < len(spec.sources):
            for name, array in iter_weights([spec], source, dtype):
                yield Piece(name, spec.shape, array)
            continue
        row = 0
        for i, view in enumerate(stored):
            first, step = (i, len(stored)) if spec.interleave else (row, 1)
            yield Piece(spec.name, spec.shape, view, first, step, i == len(stored) - 1)
            row += len(view)


def total_bytes(specs: Sequence[WeightSpec], dtype: str) -> int:
    """Bytes of all the weights in `dtype`."""
    return sum(spec.num_elements for spec in specs) * dtypes.itemsize(dtype)


def decoder_weights(config: ModelConfig) -> list[WeightSpec]:
    """The weights of a Llama-like decoder under the names that Qwen and Llama checkpoints use, in order of use.

    Names in the program: ``embed_tokens``; for each layer ``layers.{i}.`` + ``input_norm``, ``qkv_proj`` (queries,
    keys, values), ``qkv_bias``, ``q_norm``, ``k_norm``, ``o_proj``, ``post_attention_norm``, ``gate_up_proj`` (gate
    and up rows in turn), ``down_proj``; then ``norm`` and, unless tied, ``lm_head``.
    """
    specs = [_spec("embed_tokens", ("model.embed_tokens.weight", (config.vocab_size, config.hidden_size)))]
    layer_specs = _layer_weights(config)
    for layer in range(config.num_layers):
        for spec in layer_specs:
            sources = tuple(Source(f"model.layers.{layer}.{part.name}", part.shape) for part in spec.sources)
            specs.append(replace(spec, name=f"layers.{layer}.{spec.name}", sources=sources))
    specs.append(_spec("norm", ("model.norm.weight", (config.hidden_size,)), kind="norm"))
    if not config.tie_word_embeddings:
        specs.append(_spec("lm_head", ("lm_head.weight", (config.vocab_size, config.hidden_size))))
    return specs


def _layer_weights(config: ModelConfig) -> list[WeightSpec]:
    """The weights of one layer, in order of use, named without the layer's prefix on both sides."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    qkv = (("q", config.q_rows), ("k", config.kv_rows), ("v", config.kv_rows))
    specs = [
        _spec("input_norm", ("input_layernorm.weight", (hidden,)), kind="norm"),
        _spec("qkv_proj", *((f"self_attn.{part}_proj.weight", (rows, hidden)) for part, rows in qkv)),
    ]
    if config.qkv_bias:
        biases = ((f"self_attn.{part}_proj.bias", (rows,)) for part, rows in qkv)
        specs.append(_spec("qkv_bias", *biases, kind="bias"))
    if config.qk_norm:
        specs.append(_spec("q_norm", ("self_attn.q_norm.weight", (head,)), kind="norm"))
        specs.append(_spec("k_norm", ("self_attn.k_norm.weight", (head,)), kind="norm"))
    return [
        *specs,
        _spec("o_proj", ("self_attn.o_proj.weight", (hidden, config.q_rows))),
        _spec("post_attention_norm", ("post_attention_layernorm.weight", (hidden,)), kind="norm"),
        replace(
            _spec("gate_up_proj", ("mlp.gate_proj.weight", (inner, hidden)), ("mlp.up_proj.weight", (inner, hidden))),
            interleave=True,
        ),
        _spec("down_proj", ("mlp.down_proj.weight", (hidden, inner))),
    ]


def _spec(name: str, *parts: tuple[str, tuple[int, ...]], kind: Kind = "matrix") -> WeightSpec:
    return WeightSpec(name, tuple(Source(tensor, shape) for tensor, shape in parts), kind)
