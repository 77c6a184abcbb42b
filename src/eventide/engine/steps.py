"""One step's symbols and tables, from the pieces of sequences that it advances.

    make_step(limits, [Chunk(seq=0, start=0, count=3, rows="last", sampling=greedy)], tile_queries=16)

gives num_tokens 3, num_tiles 1, num_rows 1, num_samples 1 and every table that `models.decoder` declares. A decode step
is a list of chunks of one token each (`decode_tables` makes many at once); a prompt is one chunk or several; both may
stand in one step. Sequence s owns the
pages s·pages_per_seq onward unless another block table is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..models.decoder import Limits

MAX_LOGPROBS = 20
_TABLES = ("seq", "pos", "slot")  # one entry a token
_SAMPLES = ("row_seq", "row_pos", "top_k", "num_logprobs", "temperature", "top_p", "seed")


@dataclass(frozen=True)
class Sampling:
    """How one sequence draws its tokens; see the operator `sample`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_logprobs: int = 0


@dataclass(frozen=True)
class Chunk:
    """`count` consecutive tokens of one sequence from position `start`. `rows`: which of them get logits; a chunk with
    "last" also samples a token unless `sample` is False."""

    seq: int
    start: int
    count: int
    rows: Literal["none", "last", "all"] = "last"
    sampling: Sampling = field(default_factory=Sampling)
    sample: bool = True


@dataclass(frozen=True)
class Step:
    """Values for the symbols and the input tensors of one step."""

    symbols: dict[str, int]
    inputs: dict[str, np.ndarray]


def decode_tables(
    limits: Limits, chunks: Sequence[Chunk], num_steps: int, block_table: np.ndarray
) -> tuple[dict[str, int], dict[str, np.ndarray], frozenset[str]]:
    """(symbols, inputs, names of the inputs that have a leading dimension of `num_steps`) of steps that continue one
    another, the first as `make_step` of these chunks of one token each.

    Positions are known ahead (tokens are not, and the sampler writes them where the next step reads), so one launch may
    run all of them.
    """
    n = len(chunks)
    seq = np.array([c.seq for c in chunks], np.int32)
    pos = np.array([c.start for c in chunks], np.int32) + np.arange(num_steps, dtype=np.int32)[:, None]
    page = limits.page_size
    order = np.arange(n + 1, dtype=np.int32)
    inputs = {
        "seq": seq,
        "pos": pos,
        "slot": block_table[seq, pos // page] * np.int32(page) + pos % page,
        "tile_indptr": order,
        "tile_seq": seq,
        "block_table": block_table,
        "logit_rows": order[:-1],
        "row_seq": seq,
        "row_pos": pos,
        "temperature": np.array([c.sampling.temperature for c in chunks], np.float32),
        "top_k": np.array([c.sampling.top_k for c in chunks], np.int32),
        "top_p": np.array([c.sampling.top_p for c in chunks], np.float32),
        "seed": np.array([c.sampling.seed for c in chunks], np.int64),
        "num_logprobs": np.array([c.sampling.num_logprobs for c in chunks], np.int32),
    }
    symbols = {"num_tokens": n, "num_tiles": n, "num_rows": n, "num_samples": n}
    return symbols, inputs, frozenset(("pos", "slot", "row_pos"))


def balanced(lengths: Sequence[int], workers: int) -> list[int]:
    """An order of sequences in which each worker, taking an equal run of it, has about as much of the past to read.

    balanced([16, 64, 128, 200, 320, 448, 640, 900], 2) is [7, 4, 3, 0, 6, 5, 2, 1]: 1,436 and 1,280 positions instead of 408
    and 2,308.
    """
    dealt: list[list[int]] = [[] for _ in range(workers)]
    for k, i in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        turn, place = divmod(k, workers)
        dealt[workers - 1 - place if turn % 2 else place].append(i)
    return [i for some in dealt for i in some]


def decode_steps(limits: Limits, chunks: Sequence[Chunk], num_steps: int, block_table: np.ndarray) -> list[Step]:
    """The same steps one by one."""
    symbols, inputs, stacked = decode_tables(limits, chunks, num_steps, block_table)
    return [Step(symbols, {k: v[i] if k in stacked else v for k, v in inputs.items()}) for i in range(num_steps)]


def default_block_table(limits: Limits) -> np.ndarray:
    """Each sequence owns a run of pages: int32 [max_seqs, pages_per_seq]."""
    return np.arange(limits.max_seqs * limits.pages_per_seq, dtype=np.int32).reshape(limits.max_seqs, -1)


SPLIT_ALIGN = 16  # positions; a split holds a multiple of it


def split_tables(limits: Limits, longest: int, splits: int) -> dict[str, np.ndarray]:
    """Cuts `longest` positions into at most `splits` parts: int32 split_begin and split_end [num_splits].

    About workers / (sequences · KV heads) parts keep every worker busy.
    """
    split_len = -(-longest // (min(splits, limits.max_splits) * SPLIT_ALIGN)) * SPLIT_ALIGN
    begins = np.arange(0, longest, split_len, dtype=np.int32)
    return {"split_begin": begins, "split_end": np.minimum(begins + np.int32(split_len), np.int32(limits.max_seq_len))}


def split_tables_by_step(limits: Limits, longest: np.ndarray, splits: int) -> dict[str, np.ndarray]:
    """The tables of many steps, [steps, num_splits]: they follow `longest` [steps] with the same number of parts, of which
    the last ones are empty where the past is short."""
    parts = min(splits, limits.max_splits)
    split_len = -(-np.asarray(longest, np.int32) // (parts * SPLIT_ALIGN)) * np.int32(SPLIT_ALIGN)
    edges = np.minimum(split_len[:, None] * np.arange(parts + 1, dtype=np.int32), np.int32(limits.max_seq_len))
    return {"split_begin": edges[:, :-1], "split_end": edges[:, 1:]}


def make_step(
    limits: Limits, chunks: Sequence[Chunk], tile_queries: int, block_table: np.ndarray | None = None, splits: int = 0
) -> Step:
    """The step that advances all the chunks. Chunks that sample come first in the rows. `splits` > 0 adds the tables of
    a decode program, see `split_tables`."""
    table = default_block_table(limits) if block_table is None else block_table
    chunks = sorted(chunks, key=lambda c: not (c.sample and c.rows == "last"))
    counts = np.array([c.count for c in chunks])
    first = np.concatenate([[0], np.cumsum(counts)])
    seq = np.repeat([c.seq for c in chunks], counts)
    pos = np.concatenate([np.arange(c.start, c.start + c.count) for c in chunks])
    indptr, tile_seq = [0], []
    rows: list[int] = []
    for c, f in zip(chunks, first):
        for t in range(0, c.count, tile_queries):
            indptr.append(int(f) + min(t + tile_queries, c.count))
            tile_seq.append(c.seq)
        last = int(f) + c.count - 1
        rows += {"none": [], "last": [last], "all": list(range(int(f), last + 1))}[c.rows]
    sampled = [c for c in chunks if c.sample and c.rows == "last"]
    page = limits.page_size
    inputs = {
        "seq": seq,
        "pos": pos,
        "slot": table[seq, pos // page] * page + pos % page,
        "tile_indptr": indptr,
        "tile_seq": tile_seq,
        "block_table": table,
        "logit_rows": rows,
        "row_seq": [c.seq for c in sampled],
        "row_pos": [c.start + c.count - 1 for c in sampled],
        "top_k": [c.sampling.top_k for c in sampled],
        "num_logprobs": [c.sampling.num_logprobs for c in sampled],
    }
    arrays = {k: np.asarray(v, np.int32) for k, v in inputs.items()}
    arrays["temperature"] = np.array([c.sampling.temperature for c in sampled], np.float32)
    arrays["top_p"] = np.array([c.sampling.top_p for c in sampled], np.float32)
    arrays["seed"] = np.array([c.sampling.seed for c in sampled], np.int64)
    symbols = {"num_tokens": len(seq), "num_tiles": len(tile_seq), "num_rows": len(rows), "num_samples": len(sampled)}
    if splits:
        arrays |= split_tables(limits, int(pos.max()) + 1, splits)
        symbols["num_splits"] = len(arrays["split_begin"])
    return Step(symbols, arrays)


def split_step(step: Step, width: int, queries: int = 1) -> list[Step]:
    """A step whose tiles are single tokens, cut into steps of at most `width` tokens, in order, with tiles of up to `queries`."""
    total, samples = step.symbols["num_tokens"], step.symbols["num_samples"]
    if total <= width and queries == 1:
        return [step]
    inputs, rows, parts = step.inputs, step.inputs["logit_rows"], []
    for first in range(0, total, width):
        n = min(width, total - first)
        mine = np.flatnonzero((rows >= first) & (rows < first + n))
        drawn = mine[mine < samples]
        part = {name: inputs[name][first : first + n] for name in _TABLES}
        part |= {name: inputs[name][drawn] for name in _SAMPLES}
        indptr = _tiles(part["seq"], part["pos"], queries)
        part |= {
            "tile_indptr": indptr,
            "tile_seq": part["seq"][indptr[:-1]],
            "block_table": inputs["block_table"],
            "logit_rows": rows[mine] - np.int32(first),
        }
        symbols = {"num_tokens": n, "num_tiles": len(indptr) - 1, "num_rows": len(mine), "num_samples": len(drawn)}
        parts.append(Step(symbols, part))
    return parts


def _tiles(seq: np.ndarray, pos: np.ndarray, queries: int) -> np.ndarray:
    """Where tiles of up to `queries` consecutive tokens of one sequence begin, and the end: int32 [num_tiles + 1]."""
    begins = np.flatnonzero(np.append(True, (np.diff(seq) != 0) | (np.diff(pos) != 1)))
    cuts = [np.arange(a, b, queries) for a, b in zip(begins, [*begins[1:], len(seq)])]
    return np.append(np.concatenate(cuts), len(seq)).astype(np.int32)
