"""Draws the next token of each row of logits and writes it into the sequence's history.

logits [at least rows, vocab] float32. Row r belongs to sequence row_seq[r] and holds the distribution after position row_pos[r];
the token goes to tokens[row_seq[r], row_pos[r] + 1] and to next_token[r].

temperature[r] == 0 takes the largest logit (the lowest index among equals). Otherwise, with tokens sorted by descending
logit / temperature (lower index first among equals): keep the first top_k[r] (0: all), of their renormalised
probabilities keep the smallest prefix whose sum reaches top_p[r], and draw from what is left by the Gumbel-max rule
(Gumbel, 1954): the largest logit / temperature - log(-log(u)), where u is a counter-based uniform number keyed by
(seed[r], position, token) with Philox4x32-10 (Salmon et al., 2011). So a draw depends on nothing else: not on the
batch, the schedule, or the backend.

A row whose log-softmax is no number (a NaN or an infinite logit) has no distribution: next_token[r] is -1 and the history
gets token 0, so that steps which are under way look up rows that exist.

logprob[r] is the chosen token's log-softmax of the unscaled logits; with num_logprobs[r] > 0 the best of them follow in
top_ids and top_logprobs [rows, max_logprobs].
"""

from pathlib import Path

from ...ir.expr import load
from ...ir.nodes import Span
from ..declaration import Attr, Op, Operand, Tiling, full, tiled

NO_TOKEN = -1
PER_ROW = ("row_seq", "row_pos", "temperature", "top_k", "top_p", "seed", "num_logprobs", "next_token", "logprob")


def tile(call, target):  # type: ignore[no-untyped-def]
    r = tiled("r", 1, call["row_seq"].shape[0])
    seq, pos = (load(call[k].name, r.var) for k in ("row_seq", "row_pos"))
    top = (r.span, full(call.attrs["max_logprobs"]))
    pieces = {}
    if "best" in call:
        pieces = {k: (r.span, *(full(e) for e in call[k].shape[1:])) for k in ("best", "sums")}
    return Tiling(
        axes=[r.axis],
        regions={
            "logits": (r.span, full(call["logits"].shape[1])),
            **dict.fromkeys(PER_ROW, (r.span,)),
            "top_ids": top,
            "top_logprobs": top,
            "tokens": (Span.at(seq), Span.at(pos + 1)),
            **pieces,
        },
    )


def outputs(call):  # type: ignore[no-untyped-def]
    rows = call["row_seq"].shape[0]
    top = (rows, call.attrs["max_logprobs"])
    return [((rows,), "int32"), ((rows,), "float32"), (top, "int32"), (top, "float32")]


OP = Op(
    "sample",
    operands=[
        Operand("logits"),
        *(Operand(k) for k in PER_ROW[:-2]),
        Operand("best", optional=True, doc="of sample_stats: spares a greedy row the reading of all its logits"),
        Operand("sums", optional=True),
        Operand("tokens", "update"),
        Operand("next_token", "write"),
        Operand("logprob", "write"),
        Operand("top_ids", "write"),
        Operand("top_logprobs", "write"),
    ],
    attrs=[Attr("max_logprobs", int, 20)],
    outputs_of=outputs,
    tile=tile,
    axes=["r"],
    folder=Path(__file__).parent,
    doc=__doc__,
)
