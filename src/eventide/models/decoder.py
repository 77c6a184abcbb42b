"""The program of a pre-norm decoder with RoPE, grouped-query attention and a gated MLP: Qwen3, Llama 3, Qwen2.5.

One step advances the live batch by `num_tokens` tokens, of any mixture of sequences:

    seq, pos, slot   [num_tokens]     whose token, at which position, and the cache slot its keys and values go to
    tile_indptr, tile_seq             query tiles: runs of consecutive tokens of one sequence
    block_table      [max_seqs, pages]   the cache pages of each sequence
    logit_rows       [num_rows]       the tokens whose logits are wanted
    row_seq ... seed [num_samples]    how to sample from the first num_samples of these rows

States: `tokens` [max_seqs, max_seq_len + 1], each sequence's history, prompt first; and the caches of every layer,
[kv_heads, slots, head_dim]. Outputs: `logits` [num_rows, vocab] float32, next_token, logprob, top_ids, top_logprobs.

For a prompt of 3 tokens and a greedy continuation: step 1 has num_tokens 3, one tile (tile_indptr 0, 3), one row
(logit_rows 2, row_pos 2); step 2 has num_tokens 1 with pos 3, and reads the token that step 1 put in `tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..ir.expr import Sum, Var, wrap
from ..ir.nodes import Invariant
from ..ops.linear_part import most_splits
from ..ops.linear_residual import block_of
from ..ops.program import Program, TensorRef
from ..target import WORKERS
from .config import ModelConfig


@dataclass(frozen=True)
class Limits:
    """The largest step and the size of the state. A page holds `page_size` positions of one sequence."""

    max_tokens: int = 512
    max_rows: int = 64
    max_seqs: int = 64
    max_seq_len: int = 4096
    page_size: int = 64
    num_pages: int = 0  # 0: as many as max_seqs full sequences need
    max_splits: int = 64  # parts into which a decode step may cut the past

    @property
    def pages_per_seq(self) -> int:
        return -(-self.max_seq_len // self.page_size)

    @property
    def pages(self) -> int:
        return self.num_pages or self.max_seqs * self.pages_per_seq

    @property
    def slots(self) -> int:
        return self.pages * self.page_size


def cache_bytes(config: ModelConfig, limits: Limits, itemsize: int) -> int:
    """Bytes of the keys and values of all layers."""
    return 2 * config.num_layers * limits.slots * config.kv_rows * itemsize


def _within(lo: int, hi: int | Var) -> Invariant:
    return Invariant("within", Sum(lo), wrap(hi))


_FEW = 8  # tokens of a step, most of whose logits are wanted: a last layer that computes no others would only be more code


@dataclass(frozen=True)
class _Step:
    """The tables that every layer uses."""

    decode: bool
    seq: TensorRef
    pos: TensorRef
    slot: TensorRef | None
    tile_indptr: TensorRef | None
    tile_seq: TensorRef | None
    split_begin: TensorRef | None
    split_end: TensorRef | None
    block_table: TensorRef
    rope: TensorRef


def build_decoder(
    config: ModelConfig, limits: Limits, dtype: str, decode: bool = False, splits: int = 0, trim: bool | None = None
) -> Program:
    """The unfused program; weights, activations and caches are of `dtype`, logits float32.

    With `decode` alone, the program of steps in which a sequence has one token at most: attention then rotates, appends and
    reads the past in one operator, split over the past as `split_begin` and `split_end` say.

    With `splits` > 0, the program of steps of many tokens on a GPU. With 1 both outputs to the residual end in half of the next
    norm, see the operator `linear_residual`; with more they are cut into at most so many slabs of k, see `linear_part`.

    With both, the program of steps of one token each of many sequences: a task has the whole past, see `attention_append`.

    With neither, `trim` says that behind the last layer's attention only tokens are computed whose logits are wanted; as it isn't
    said, where a step may have more than a few. A GPU's products of more than 8 tokens a task can't.
    """
    trim = (limits.max_tokens > _FEW if trim is None else trim) and not decode
    p = Program(config.architecture)
    tokens_n = p.symbol("num_tokens", 1, min(limits.max_tokens, limits.max_seqs) if decode else limits.max_tokens)
    rows_n = p.symbol("num_rows", 0, min(limits.max_rows, limits.max_tokens))
    samples_n = p.symbol("num_samples", 0, min(limits.max_rows, limits.max_seqs))
    p.require_at_most(rows_n, tokens_n)
    p.require_at_most(samples_n, rows_n)
    step = _tables(p, config, limits, tokens_n, decode, cut=not splits)
    rows = p.input("logit_rows", (rows_n,), "int32", [_within(0, tokens_n)])
    tokens = p.state("tokens", (limits.max_seqs, limits.max_seq_len + 1), "int32")
    embeddings = p.weight("embed_tokens", (config.vocab_size, config.hidden_size), dtype)
    x = p.call("embed", name="embed", seq=step.seq, pos=step.pos, tokens=tokens, w=embeddings)
    names = [f"layers.{i}.input_norm" for i in range(config.num_layers)] + ["norm"]
    norms = {name: p.weight(name, (config.hidden_size,), dtype) for name in (names if splits else names[-1:])}
    h: TensorRef = x
    squares: TensorRef | None = None
    if splits == 1:
        h, squares = p.call("half_norm", name="norm0", x=x, norm_weight=norms[names[0]], block=_block(config))
    elif splits:
        h = p.call("rms_norm", name="norm0", x=x, w=norms[names[0]], eps=config.rms_norm_eps)
    for i in range(config.num_layers):
        layer = f"layers.{i}"
        if splits:
            norm = norms[names[i + 1]] if splits > 1 or i + 1 < config.num_layers else None  # `norm_rows` takes the last one
            x, h, squares = _wide_layer(p, layer, norm, config, limits, dtype, step, (x, h, squares), splits)
        else:
            x = _layer(p, layer, config, limits, dtype, step, x, rows if trim and i + 1 == config.num_layers else None)

    seqs, places, distinct = _within(0, limits.max_seqs), _within(0, limits.max_seq_len), Invariant("distinct")
    chosen = None if x.shape[0] == rows_n else rows
    h = p.call("rms_norm", name="norm_rows", x=x, w=norms["norm"], rows=chosen, eps=config.rms_norm_eps)
    tied = config.tie_word_embeddings
    head = embeddings if tied else p.weight("lm_head", (config.vocab_size, config.hidden_size), dtype)
    logits = p.output(p.call("linear", name="head", x=h, w=head, out_dtype="float32"), "logits")
    row_seq = p.input("row_seq", (samples_n,), "int32", [seqs, distinct])
    best, sums = p.call("sample_stats", name="stats", logits=logits, row_seq=row_seq) if decode or splits else (None, None)
    sampled = p.call(
        "sample",
        name="sample",
        logits=logits,
        best=best,
        sums=sums,
        row_seq=row_seq,
        row_pos=p.input("row_pos", (samples_n,), "int32", [places]),
        temperature=p.input("temperature", (samples_n,), "float32"),
        top_k=p.input("top_k", (samples_n,), "int32"),
        top_p=p.input("top_p", (samples_n,), "float32"),
        seed=p.input("seed", (samples_n,), "int64"),
        num_logprobs=p.input("num_logprobs", (samples_n,), "int32", [_within(0, 21)]),
        tokens=tokens,
    )
    for ref, name in zip(sampled, ("next_token", "logprob", "top_ids", "top_logprobs"), strict=True):
        p.output(ref, name)
    return p


def _tables(p: Program, config: ModelConfig, limits: Limits, tokens_n: Var, decode: bool, cut: bool) -> _Step:
    seqs, distinct = _within(0, limits.max_seqs), Invariant("distinct")
    pages = (limits.max_seqs, limits.pages_per_seq)
    one_each = [distinct] if decode else []
    # the past is read while or before tokens are appended: pages may be shared, but not the one that a token goes to
    own_page = [Invariant("single", hi=Sum(limits.page_size), of="seq", at="pos")]
    step = _Step(
        decode=decode,
        seq=p.input("seq", (tokens_n,), "int32", [seqs, *one_each]),
        pos=p.input("pos", (tokens_n,), "int32", [_within(0, limits.max_seq_len)]),
        slot=None,
        tile_indptr=None,
        tile_seq=None,
        split_begin=None,
        split_end=None,
        block_table=p.input("block_table", pages, "int32", [_within(0, limits.pages), *own_page]),
        rope=p.weight("rope", (limits.max_seq_len, config.head_dim), "float32"),
    )
    if decode and not cut:
        return step
    if decode:
        # more than one part a worker would only cost memory
        splits_n = p.symbol("num_splits", 1, min(limits.max_splits, -(-WORKERS // config.num_kv_heads)))
        places = _within(0, limits.max_seq_len + 1)
        return replace(
            step,
            split_begin=p.input("split_begin", (splits_n,), "int32", [places, Invariant("nondecreasing")]),
            split_end=p.input("split_end", (splits_n,), "int32", [places, Invariant("ends", of="split_begin")]),
        )
    tiles_n = p.symbol("num_tiles", 1, limits.max_tokens)
    p.require_at_most(tiles_n, tokens_n)
    return replace(
        step,
        slot=p.input("slot", (tokens_n,), "int32", [_within(0, limits.slots), distinct]),
        tile_indptr=p.input(
            "tile_indptr", (tiles_n + 1,), "int32", [Invariant("partition", Sum(0), tokens_n), Invariant("increasing")]
        ),
        tile_seq=p.input("tile_seq", (tiles_n,), "int32", [seqs]),
    )


def _layer(
    p: Program, name: str, c: ModelConfig, limits: Limits, dtype: str, step: _Step, x: TensorRef, rows: TensorRef | None
) -> TensorRef:
    """A layer; with `rows`, its output for these tokens alone."""

    def weight(suffix: str, *shape: int) -> TensorRef:
        return p.weight(f"{name}.{suffix}", shape, dtype)

    h = p.call("rms_norm", name=f"{name}.norm1", x=x, w=weight("input_norm", c.hidden_size), eps=c.rms_norm_eps)
    qkv = p.call(
        "linear",
        name=f"{name}.qkv",
        x=h,
        w=weight("qkv_proj", c.q_rows + 2 * c.kv_rows, c.hidden_size),
        bias=weight("qkv_bias", c.q_rows + 2 * c.kv_rows) if c.qkv_bias else None,
    )
    if step.decode:
        part, stats = p.call(
            "attention_decode",
            name=f"{name}.attn",
            split_begin=step.split_begin,
            split_end=step.split_end,
            **_own_token(p, name, c, limits, dtype, step, qkv),
        )
        a = p.call(
            "attention_merge",
            name=f"{name}.merge",
            part=part,
            stats=stats,
            num_heads=c.num_heads,
            head_dim=c.head_dim,
            dtype=dtype,
        )
    else:
        a = _mixed_attention(p, name, c, limits, dtype, step, qkv)
    o = p.call("linear", name=f"{name}.o", x=a, w=weight("o_proj", c.hidden_size, c.q_rows), rows=rows)
    x = p.call("add", name=f"{name}.x1", a=x, b=o, rows=rows)
    h = p.call(
        "rms_norm", name=f"{name}.norm2", x=x, w=weight("post_attention_norm", c.hidden_size), eps=c.rms_norm_eps
    )
    u = p.call("linear", name=f"{name}.gate_up", x=h, w=weight("gate_up_proj", 2 * c.intermediate_size, c.hidden_size))
    m = p.call("silu_mul", name=f"{name}.act", x=u)
    d = p.call("linear", name=f"{name}.down", x=m, w=weight("down_proj", c.hidden_size, c.intermediate_size))
    result: TensorRef = p.call("add", name=f"{name}.x2", a=x, b=d)
    return result


def _block(c: ModelConfig) -> int:
    return block_of(c.hidden_size, WORKERS)


def _wide_layer(
    p: Program,
    name: str,
    next_norm: TensorRef | None,
    c: ModelConfig,
    limits: Limits,
    dtype: str,
    step: _Step,
    given: tuple[TensorRef, TensorRef, TensorRef | None],
    splits: int,
) -> tuple[TensorRef, TensorRef, TensorRef | None]:
    """A layer from (x, x normalised for it, or half normalised with its squares) to the same for what follows; without a next norm
    the second is the first."""
    x, h, squares = given

    def weight(suffix: str, *shape: int) -> TensorRef:
        return p.weight(f"{name}.{suffix}", shape, dtype)

    def linear(call: str, suffix: str, n: int, bias: TensorRef | None = None) -> TensorRef:
        w = weight(f"{suffix}_proj", n, c.hidden_size)
        eps = 0.0 if squares is None else c.rms_norm_eps
        found: TensorRef = p.call("linear", name=f"{name}.{call}", x=h, w=w, bias=bias, squares=squares, eps=eps)
        return found

    def add(call: str, of: TensorRef, norm: TensorRef | None, k: int, to: str) -> tuple[TensorRef, TensorRef, TensorRef | None]:
        """x + of · wᵀ, and its norm."""
        w = weight(f"{call}_proj", c.hidden_size, k)
        if norm is None:
            y = p.call("add", name=f"{name}.{to}", a=x, b=p.call("linear", name=f"{name}.{call}", x=of, w=w))
            return y, y, None
        if squares is not None:
            block = _block(c)
            y, h, s = p.call("linear_residual", name=f"{name}.{call}", x=of, w=w, residual=x, norm_weight=norm, block=block)
            return y, h, s
        part = p.call("linear_part", name=f"{name}.{call}", x=of, w=w, splits=most_splits(k, splits))
        y, h = p.call("merge_norm", name=f"{name}.{to}", part=part, residual=x, norm_weight=norm, eps=c.rms_norm_eps)
        return y, h, None

    rows = c.q_rows + 2 * c.kv_rows
    qkv = linear("qkv", "qkv", rows, weight("qkv_bias", rows) if c.qkv_bias else None)
    a = _mixed_attention(p, name, c, limits, dtype, step, qkv)
    x, h, squares = add("o", a, weight("post_attention_norm", c.hidden_size), c.q_rows, "x1")
    m = p.call("silu_mul", name=f"{name}.act", x=linear("gate_up", "gate_up", 2 * c.intermediate_size))
    return add("down", m, next_norm, c.intermediate_size, "x2")


def _heads(
    p: Program, name: str, c: ModelConfig, limits: Limits, dtype: str
) -> tuple[dict[str, Any], TensorRef, TensorRef]:
    """What rotation and append are told of the heads, and both caches."""

    def weight(suffix: str) -> TensorRef | None:
        return p.weight(f"{name}.{suffix}", (c.head_dim,), dtype) if c.qk_norm else None

    def cache(kind: str) -> TensorRef:
        return p.state(f"{name}.{kind}_cache", (c.num_kv_heads, limits.slots, c.head_dim), dtype)

    norms = {"q_norm": weight("q_norm"), "k_norm": weight("k_norm"), "eps": c.rms_norm_eps}
    return {**norms, **_sizes(c)}, cache("k"), cache("v")


def _own_token(
    p: Program, name: str, c: ModelConfig, limits: Limits, dtype: str, step: _Step, qkv: TensorRef
) -> dict[str, Any]:
    """What operators take that rotate and append a token and attend to its past."""
    heads, k, v = _heads(p, name, c, limits, dtype)
    made = dict.fromkeys(("q_in", "k_in", "v_in"), qkv)
    tables = {"seq": step.seq, "pos": step.pos, "block_table": step.block_table, "rope": step.rope}
    return {**made, **tables, "k_past": k, "v_past": v, "k_new": k, "v_new": v, "page_size": limits.page_size, **heads}


def _sizes(c: ModelConfig) -> dict[str, Any]:
    return {"num_heads": c.num_heads, "num_kv_heads": c.num_kv_heads, "head_dim": c.head_dim}


def _mixed_attention(
    p: Program, name: str, c: ModelConfig, limits: Limits, dtype: str, step: _Step, qkv: TensorRef
) -> TensorRef:
    """Rotation, append and attention of tokens of any sequences, or of one of each."""
    if step.decode:
        own: TensorRef = p.call("attention_append", name=f"{name}.attn", **_own_token(p, name, c, limits, dtype, step, qkv))
        return own
    heads, k_cache, v_cache = _heads(p, name, c, limits, dtype)
    q = p.call(
        "rope_append",
        name=f"{name}.rope",
        q_in=qkv,
        k_in=qkv,
        v_in=qkv,
        pos=step.pos,
        slot=step.slot,
        rope=step.rope,
        k_cache=k_cache,
        v_cache=v_cache,
        **heads,
    )
    a: TensorRef = p.call(
        "attention",
        name=f"{name}.attn",
        q=q,
        k_cache=k_cache,
        v_cache=v_cache,
        pos=step.pos,
        tile_indptr=step.tile_indptr,
        tile_seq=step.tile_seq,
        block_table=step.block_table,
        page_size=limits.page_size,
        **_sizes(c),
    )
    return a
