"""Sampling from probabilities: each sample must be possible, and many samples must follow the distribution.

Validity, for every call: 0 <= token < vocabulary, and the token survives the filters: fewer than top_k tokens are
strictly more probable, and the strictly more probable ones (renormalised after top-k) hold at most top_p of the mass.

Distribution, once: all rows get one peaked distribution and the total variation distance between what was drawn and
what should have been is held against what n honest draws would show:

    E[TVD] = 1/2 sum_i E|p̂_i - p_i| ≈ sum_i sqrt(p_i (1 - p_i) / (2 pi n)),    limit = 2 E[TVD] + 0.02

Place, over all checked calls: rows of the workload's own are judged too, as the rows above are easily told from them.
With the tokens of a row in descending order of probability, a sample's place is the mass before it and a random share of
its own; of honest samples it is uniform in [0, 1], whatever the rows (the probability integral transform). Mean and
spread of all places are held against that, at five standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eventide.bench.evaluators.base import BaseEvaluator, Case, Trial, Verdict
from eventide.bench.schema import Definition
from eventide.bench.worker.arrays import Array

_MASS_SLACK = 1e-4  # float32 sums over a vocabulary, in whatever order
_SUPPORT = 8
_SAMPLES = 2000
_MOST_CALLS = 400
_MOST_ROWS = 16  # of one call whose places are looked at; a row is sorted for it
_MOST_SIGMAS = 5.0
_KNOWN = {"probs", "top_k", "top_p"}


def _value(inputs: Mapping[str, Any], name: str, row: int) -> float | None:
    if name not in inputs or inputs[name] is None:
        return None
    value = inputs[name]
    return float(value[row]) if np.ndim(value) else float(value)


def filtered(row: Array, top_k: float | None, top_p: float | None) -> Array:
    """The distribution that top-k, then top-p leave of `row`, float64, summing to 1."""
    kept: Array = row.astype(np.float64)
    order = np.argsort(-kept, kind="stable")
    if top_k is not None and 0 < top_k < len(kept):
        kept[order[int(top_k) :]] = 0.0
        kept = kept / kept.sum()
    if top_p is not None and top_p < 1.0:
        before = np.cumsum(kept[order]) - kept[order]
        kept[order[before > max(top_p, 0.0)]] = 0.0
        kept[order[1:]] *= top_p > 0.0
    result: Array = kept / kept.sum()
    return result


class SamplingEvaluator(BaseEvaluator):
    """Operators with an input `probs` and one integer output a row."""

    name = "sampling"
    needs_inputs = True

    def accepts(self, definition: Definition) -> bool:
        return definition.op_type.startswith("sampling") and "probs" in definition.inputs

    def check(self, case: Case) -> Verdict:
        if case.untouched:
            nan = float("nan")
            return Verdict(False, nan, nan, f"{sorted(case.untouched)[0]} was not written")
        probs = np.asarray(case.inputs["probs"])
        name = next(iter(case.definition.outputs))
        for row, token in enumerate(case.actual[name].reshape(-1).tolist()):
            why = self._impossible(probs[row], int(token), case.inputs, row)
            if why:
                return Verdict(False, 1.0, 1.0, f"{name}[{row}] = {token}: {why}")
        return Verdict(True)

    def _impossible(self, row: Array, token: int, inputs: Mapping[str, Any], index: int) -> str:
        if not 0 <= token < len(row):
            return f"not in [0, {len(row)})"
        chosen = row[token]
        if not chosen > 0:
            return "its probability is 0"
        above = row[row > chosen].astype(np.float64)
        top_k, top_p = _value(inputs, "top_k", index), _value(inputs, "top_p", index)
        if top_k is not None and 0 < top_k < len(row) and len(above) >= top_k:
            return f"{len(above)} tokens are more probable and top_k is {top_k:g}"
        if top_p is not None and top_p < 1.0:
            total = 1.0
            if top_k is not None and 0 < top_k < len(row):
                total = float(np.partition(row, len(row) - int(top_k))[-int(top_k) :].sum(dtype=np.float64))
            mass = float(above.sum()) / total
            if mass > max(top_p, 0.0) + _MASS_SLACK:
                return f"more probable tokens hold {mass:.4f} of the mass and top_p is {top_p:.4f}"
        return ""

    def figures(self, case: Case) -> list[float]:
        if not set(case.inputs) <= _KNOWN:  # another filter, whose distribution isn't known here
            return []
        probs = np.asarray(case.inputs["probs"])
        tokens = case.actual[next(iter(case.definition.outputs))].reshape(-1)
        rng = np.random.default_rng()
        places = []
        for row in rng.permutation(len(tokens))[:_MOST_ROWS].tolist():
            kept = filtered(probs[row], _value(case.inputs, "top_k", row), _value(case.inputs, "top_p", row))
            token = int(tokens[row])
            order = np.argsort(-probs[row].astype(np.float64), kind="stable")
            before = float(kept[order[: int(np.flatnonzero(order == token)[0])]].sum())
            places.append(before + float(kept[token]) * float(rng.random()))
        return places

    def conclude(self, figures: Sequence[float]) -> Verdict:
        if not figures:
            return Verdict(True)
        apart = np.asarray(figures) - 0.5
        # of a uniform number in [-1/2, 1/2]: variance 1/12; of its square: mean 1/12, variance 1/180
        mean = float(apart.mean()) * math.sqrt(12 * len(apart))
        spread = (float(np.square(apart).mean()) - 1 / 12) * math.sqrt(180 * len(apart))
        extra = {"place_sigmas": mean, "spread_sigmas": spread, "places": len(apart)}
        if max(abs(mean), abs(spread)) <= _MOST_SIGMAS:
            return Verdict(True, extra=extra)
        reason = (
            f"{len(apart)} samples of the workload's own rows don't follow their probabilities: in descending order their mean "
            f"place is {mean:+.1f} and their spread {spread:+.1f} standard errors off"
        )
        return Verdict(False, 1.0, 1.0, reason, extra)

    def trials(self, definition: Definition, inputs: Mapping[str, Any], rng: np.random.Generator) -> list[Trial]:
        probs = np.asarray(inputs["probs"])
        rows, vocab = probs.shape
        support = rng.choice(vocab, size=min(_SUPPORT, vocab), replace=False)
        weights = rng.dirichlet(np.full(len(support), 3.0))
        row = np.zeros(vocab, dtype=np.float32)
        row[support] = weights
        given: dict[str, Array] = {"probs": np.broadcast_to(row, probs.shape).astype(probs.dtype)}
        top_k, top_p = None, None
        if "top_k" in inputs and np.ndim(inputs["top_k"]):
            top_k = float(max(2, len(support) - 2))
            given["top_k"] = np.full_like(inputs["top_k"], int(top_k))
        if "top_p" in inputs and np.ndim(inputs["top_p"]):
            top_p = 0.9
            given["top_p"] = np.full_like(inputs["top_p"], top_p)
        target = filtered(given["probs"][0], top_k, top_p)
        name = next(iter(definition.outputs))

        def judge(outputs: list[dict[str, Array]]) -> Verdict:
            drawn = np.concatenate([o[name].reshape(-1) for o in outputs]).astype(np.int64)
            if len(drawn) == 0 or drawn.min() < 0 or drawn.max() >= vocab:
                return Verdict(False, 1.0, 1.0, f"{name}: a sample lies outside [0, {vocab})")
            found = np.bincount(drawn, minlength=vocab) / len(drawn)
            distance = 0.5 * float(np.abs(found - target).sum())
            noise = float(np.sqrt(target * (1 - target) / (2 * math.pi * len(drawn))).sum())
            limit = 2 * noise + 0.02
            extra = {"tvd": distance, "tvd_limit": limit, "samples": len(drawn)}
            reason = f"{name}: total variation distance {distance:.3f} of {len(drawn)} samples, limit {limit:.3f}"
            ok = distance <= limit
            return Verdict(ok, distance, distance, "" if ok else reason, extra)

        calls = min(_MOST_CALLS, max(1, -(-_SAMPLES // max(rows, 1)))) if rows else 0
        return [Trial(given, calls, judge)] if calls else []
