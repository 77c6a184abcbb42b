"""Which kernels a GPU has for a model: sizes of steps, and how each kernel takes its tokens.

    Size(1, 1, decode=True)              one sequence that has one token
    Size(16, 16, decode=True, splits=1)  up to 16 sequences of one token each, products slim
    Size(16, 16, decode=True, splits=4, direct=True)  the same of a small model, products direct
    Size(64, 64, splits=4, queries=4)    up to 64 tokens of any sequences, 64 a product's task, 4 an attention task
    Size(256, 2048, splits=2, ...)       prompts

`sizes_for` lists them for a model and a number of sequences. `target_of` and `limits_of` say what their plans are compiled with;
benchmarks/gpu_many.py, which has limits of its own, takes sizes and targets from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..models.config import ModelConfig
from ..models.decoder import Limits
from ..models.registry import ModelFamily, family_of
from ..target import Target

__all__ = [
    "PROMPT", "PROMPT_QUERIES", "PROMPT_ROWS", "PROMPT_SLABS", "TILE",
    "Size", "appends", "direct", "queries_of", "sizes_for", "slabs",
]  # fmt: skip

TILE = 8  # tokens of the narrow kernels
FEW = 4  # sequences up to which a narrow one decodes faster, where that of 16 tokens is slim or direct
WIDE = (16, 32, 64)  # tokens of the wide ones for batches
SLABS = 4  # of k, into which they cut the outputs to the residual at most
SLIM_TOKENS, SLIM_HIDDEN = 16, 2560  # but with so few tokens and so many columns products are slim, and nothing is cut
DIRECT_TOKENS, DIRECT_HIDDEN = 16, 1024  # and with so few products are direct: a line of columns for each warp
PROMPT, PROMPT_TILE, PROMPT_QUERIES = 2048, 256, 32  # of the one for prompts: tokens of a step, of a linear's task, of attention's
PROMPT_ROWS = 512  # and its rows of logits at most
BATCH_PROMPT = 512  # tokens of a step where it decodes more sequences than the others hold: every step has inputs for so many
PROMPT_SLABS = 2  # of k, for the outputs to the residual: a step's tiles alone would leave half of the workers without
_ROWS = 16  # that one walk of attention has at most, query heads of a KV head times tokens (ops/attention)


@dataclass(frozen=True)
class Size:
    """A kernel that there may be. tile: tokens of a product's task, most: of a step. decode: whether it is one for sequences of one
    token each. splits: slabs of k, as `build_decoder` takes them. queries: query tokens of one attention task. direct: whether
    products take their input as it stands."""

    tile: int
    most: int
    decode: bool = False
    splits: int = 0
    queries: int = 1
    direct: bool = False

    def target_of(self, made_for: Target) -> Target:
        return replace(made_for, tile_tokens=self.tile, tile_queries=self.queries, slim=self.splits == 1, direct=self.direct)

    def limits_of(self, limits: Limits) -> Limits:
        return replace(limits, max_tokens=min(self.most, limits.slots), max_rows=min(self.most, limits.max_rows))


def sizes_for(c: ModelConfig, seqs: int) -> list[Size]:
    """The kernels for a model and so many sequences; of each kind the smallest first."""
    if family_of(c).build_program.__func__ is not ModelFamily.build_program.__func__:  # type: ignore[attr-defined]
        return [Size(TILE, max(TILE, seqs))]
    straight = direct(c, WIDE[0])
    few = FEW if straight or slabs(c, WIDE[0]) == 1 else TILE
    narrow = Size(TILE if straight else few, min(few, seqs), decode=True)
    decode = [Size(1, 1, decode=True)] + ([narrow] if seqs > 1 else [])
    # fewer tokens are a batch; prompts go through the widest
    wide = [w for w in WIDE if w == WIDE[-1] or seqs > (few if w == WIDE[0] else w // 2)]
    if appends(c):
        batches = [w for w in wide if w == WIDE[0] or seqs > w // 2]
        decode += [Size(w, min(w, seqs), decode=True, splits=slabs(c, w), direct=direct(c, w)) for w in batches]
        wide = wide[-1:]
    most = PROMPT if seqs <= WIDE[-1] else BATCH_PROMPT
    prompts = Size(PROMPT_TILE, most, splits=PROMPT_SLABS, queries=PROMPT_QUERIES)
    return [*decode, Size(TILE, TILE), *(Size(w, w, splits=slabs(c, w), queries=queries_of(c)) for w in wide), prompts]


def slabs(c: ModelConfig, tokens: int) -> int:
    """Into how many slabs a kernel for batches of so many tokens cuts its k at most; 1: its products are slim."""
    return 1 if tokens <= SLIM_TOKENS and c.hidden_size >= SLIM_HIDDEN and _whole_lines(c) else SLABS


def direct(c: ModelConfig, tokens: int) -> bool:
    """Whether products of a kernel for so many sequences of one token each take their input as it stands (device/cuda/direct.cuh).
    Where a warp has several lines of a block that is slower."""
    return tokens == DIRECT_TOKENS and c.hidden_size <= DIRECT_HIDDEN and _whole_lines(c) and appends(c)


def _whole_lines(c: ModelConfig) -> bool:
    """Whether all products have whole lines of columns, as device/cuda/slim.cuh and direct.cuh need it."""
    return all(k % 128 == 0 for k in (c.hidden_size, c.q_rows, c.intermediate_size))


def appends(c: ModelConfig) -> bool:
    """Whether batches of sequences with one token each have kernels of their own, as ops/attention_append needs it."""
    return c.head_dim % 32 == 0 and c.head_dim <= 256 and c.num_heads // c.num_kv_heads <= 7


def queries_of(c: ModelConfig) -> int:
    """Query tokens of one attention task in kernels for batches."""
    return max(1, _ROWS // (c.num_heads // c.num_kv_heads))
