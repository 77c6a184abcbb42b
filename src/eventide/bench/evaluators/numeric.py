"""The evaluators that compare values: default, low-bit and sparse attention."""

from __future__ import annotations

from eventide.bench.evaluators.base import BaseEvaluator
from eventide.bench.schema import Definition


class DefaultEvaluator(BaseEvaluator):
    """Every element within the limits."""

    name = "default"

    def accepts(self, definition: Definition) -> bool:
        return True


class LowBitEvaluator(BaseEvaluator):
    """Mixture of experts on FP8 or FP4 weights: 95 % of the elements within the limits, none astray to NaN."""

    name = "low-bit"
    matched_ratio = 0.95

    def accepts(self, definition: Definition) -> bool:
        narrow = any(definition.dtype_of(name).startswith(("float8", "float4")) for name in definition.inputs)
        return definition.op_type.startswith("moe") and narrow


class SparseAttentionEvaluator(BaseEvaluator):
    """Attention over selected tokens. A row that attends to nothing has a log-sum-exp of −inf; giving it is
    optional."""

    name = "sparse-attention"

    def accepts(self, definition: Definition) -> bool:
        return "sparse_attention" in definition.name or any(t.startswith("sparse:") for t in definition.tags)

    def optional_outputs(self, definition: Definition) -> frozenset[str]:
        return frozenset({"lse", "logsumexp"} & set(definition.outputs))
