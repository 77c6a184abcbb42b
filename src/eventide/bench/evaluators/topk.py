"""Top-k indexers: which tokens a sparse attention should look at. Equal scores may be picked in any order.

Checks, row by row: as many indices as there should be, then the padding −1; all of them tokens of the row's own pages;
none twice; and the chosen scores, sorted, equal to the reference's choice within the limits. Scores are computed here
from the inputs of the DeepSeek indexer (FP8 queries, a paged FP8 key cache with one float32 scale a token behind each
page's values):

    score[t] = sum_h weight[h] * relu(q[h] · k[t])

For other indexers the chosen sets are compared, with the share that may differ as the matched ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eventide.bench.evaluators.base import BaseEvaluator, Case, Tolerance, Verdict, compare
from eventide.bench.schema import Definition
from eventide.bench.worker.arrays import Array

_DEEPSEEK = {"q_index_fp8", "k_index_cache_fp8", "weights", "seq_lens", "block_table"}


def deepseek_scores(inputs: Mapping[str, Any], row: int) -> tuple[Array, Array]:
    """(global token indices of the row, their scores as float32)."""
    import ml_dtypes

    cache = np.asarray(inputs["k_index_cache_fp8"])
    page_size, width = cache.shape[1], cache.shape[-1]
    length = int(inputs["seq_lens"][row])
    pages = np.asarray(inputs["block_table"])[row, : -(-length // page_size)].astype(np.int64)
    flat = cache.view(np.uint8).reshape(cache.shape[0], page_size * width)[pages]
    dim = width - 4
    values = flat[:, : page_size * dim].copy().view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    scales = flat[:, page_size * dim :].copy().view(np.float32)
    keys = (values.reshape(len(pages), page_size, dim) * scales[:, :, None]).reshape(-1, dim)[:length]
    query = np.asarray(inputs["q_index_fp8"])[row].astype(np.float32)
    scores = np.maximum(query @ keys.T, 0.0) * np.asarray(inputs["weights"])[row][:, None]
    tokens = (pages[:, None] * page_size + np.arange(page_size)).reshape(-1)[:length]
    return tokens, scores.sum(axis=0)


class TopKIndexerEvaluator(BaseEvaluator):
    """Definitions whose name holds `topk_indexer`."""

    name = "topk-indexer"
    needs_inputs = True
    matched_ratio = 0.95

    def accepts(self, definition: Definition) -> bool:
        return "topk_indexer" in definition.name or "top_k_indexer" in definition.name

    def check(self, case: Case) -> Verdict:
        name = next(iter(case.definition.outputs))
        nan = float("nan")
        if name in case.untouched:
            return Verdict(False, nan, nan, f"{name} was not written")
        result = Verdict(True)
        deepseek = set(case.inputs) >= _DEEPSEEK
        for row, (chosen, wanted) in enumerate(zip(case.actual[name], case.expected[name])):
            where = f"{name}[{row}]"
            count = int(np.count_nonzero(wanted >= 0))
            picked = chosen[chosen >= 0]
            if len(picked) != count or np.any(chosen[count:] != -1):
                return Verdict(
                    False, nan, nan, f"{where}: expected {count} indices, then -1; got {len(picked)} indices"
                )
            if len(np.unique(picked)) != len(picked):
                return Verdict(False, nan, nan, f"{where}: an index appears twice")
            if deepseek:
                verdict = self._by_score(where, picked, wanted[wanted >= 0], case, row)
            else:
                verdict = self._by_set(where, picked, wanted[wanted >= 0], case.tolerance)
            result = result.merged(verdict)
            if not result.ok:
                break
        return result

    def _by_score(self, where: str, picked: Array, wanted: Array, case: Case, row: int) -> Verdict:
        tokens, scores = deepseek_scores(case.inputs, row)
        if not np.isin(picked, tokens).all():
            return Verdict(False, float("nan"), float("nan"), f"{where}: an index is no token of the row's pages")
        order = np.argsort(tokens, kind="stable")

        def of(indices: Array) -> Array:
            places = order[np.searchsorted(tokens, indices, sorter=order)]
            return np.sort(scores[places]).astype(np.float32)

        ratio = case.tolerance.matched_ratio or self.matched_ratio
        return compare(f"{where} scores", "float32", of(picked), of(wanted), case.tolerance, ratio)

    def _by_set(self, where: str, picked: Array, wanted: Array, tolerance: Tolerance) -> Verdict:
        share = len(np.intersect1d(picked, wanted)) / max(len(wanted), 1)
        ratio = tolerance.matched_ratio or self.matched_ratio
        ok = share >= ratio
        reason = "" if ok else f"{where}: {share:.3f} of the reference's indices were found, {ratio:g} are needed"
        return Verdict(ok, 1 - share, 1 - share, reason, {"matched_ratio": share})
