import numpy as np

from ..case import Case, ints, normal


def _make(tokens, heads, kv_heads, d, *, norm=False, slots=400):  # type: ignore[no-untyped-def]
    def make(rng, dtype):  # type: ignore[no-untyped-def]
        angle = rng.uniform(0, 6, (64, d // 2))
        arrays = {
            "q_in": normal(rng, dtype, tokens, (heads + 2 * kv_heads) * d),
            "k_in": "q_in",
            "v_in": "q_in",
            "pos": ints(rng.integers(0, 64, tokens)),
            "slot": ints(rng.permutation(slots)[:tokens]),
            "rope": np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32),
            "k_cache": normal(rng, dtype, kv_heads, slots, d),
            "v_cache": normal(rng, dtype, kv_heads, slots, d),
        }
        if norm:
            arrays |= {"q_norm": normal(rng, dtype, d), "k_norm": normal(rng, dtype, d)}
        return arrays

    return make


def _heads(heads, kv_heads, d):  # type: ignore[no-untyped-def]
    return {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": d, "eps": 1e-6}


CASES = [
    Case("one token", _make(1, 4, 2, 64), _heads(4, 2, 64)),
    Case("norms", _make(5, 4, 2, 128, norm=True), _heads(4, 2, 128)),
    Case("small odd heads", _make(7, 3, 3, 10, norm=True), _heads(3, 3, 10)),
    Case("two tiles", _make(150, 2, 1, 32, norm=True), _heads(2, 1, 32)),
]
