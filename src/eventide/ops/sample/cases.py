import numpy as np

from ..case import Case, ints, normal


def _make(vocab, rows, *, temperature=1.0, top_k=0, top_p=1.0, logprobs=0, scale=3.0, equal=False):  # type: ignore[no-untyped-def]
    def make(rng, dtype):  # type: ignore[no-untyped-def]
        logits = normal(rng, "float32", rows + 2, vocab, scale=scale)
        if equal:
            logits = np.round(logits)
        return {
            "logits": logits,
            "row_seq": ints(rng.permutation(rows)),
            "row_pos": ints(rng.integers(0, 30, rows)),
            "temperature": np.full(rows, temperature, np.float32),
            "top_k": ints(np.full(rows, top_k)),
            "top_p": np.full(rows, top_p, np.float32),
            "seed": rng.integers(-(2**62), 2**62, rows),
            "num_logprobs": ints(np.full(rows, logprobs)),
            "tokens": ints(np.zeros((rows, 32))),
        }

    return make


def _case(name, *sizes, **options):  # type: ignore[no-untyped-def]
    make = _make(*sizes, **options)
    # tokens are integers and must be equal; log probabilities are float32 sums over the vocabulary
    return Case(name, make, dtypes=("float32",), tolerance={"float32": 2e-6})


CASES = [
    _case("greedy", 1000, 5, temperature=0.0),
    _case("greedy among equals", 333, 8, temperature=0.0, equal=True),
    _case("one token", 1, 2),
    _case("plain", 3001, 40, scale=1.0),
    _case("cold", 3001, 20, temperature=0.3),
    _case("top_k", 3001, 40, top_k=17),
    _case("top_k among equals", 500, 40, top_k=17, equal=True),
    _case("top_k beyond the vocabulary", 100, 20, top_k=1000),
    _case("top_p", 3001, 40, top_p=0.8),
    _case("top_p among equals", 500, 40, top_p=0.5, equal=True),
    _case("top_p of almost nothing", 500, 10, top_p=1e-6),
    _case("both", 3001, 40, temperature=0.7, top_k=50, top_p=0.9),
    _case("both among equals", 500, 40, top_k=40, top_p=0.9, equal=True),
    _case("flat", 4096, 40, temperature=100.0, top_p=0.999),
    _case("log probabilities", 4096, 5, logprobs=20),
    _case("more than the vocabulary", 7, 3, temperature=0.0, logprobs=20),
]
