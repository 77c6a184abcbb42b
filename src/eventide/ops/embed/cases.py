from ..case import Case, ints, normal


def _make(vocab, width, count):  # type: ignore[no-untyped-def]
    def make(rng, dtype):  # type: ignore[no-untyped-def]
        return {
            "seq": ints(rng.integers(0, 4, count)),
            "pos": ints(rng.integers(0, 9, count)),
            "tokens": ints(rng.integers(0, vocab, (4, 9))),
            "w": normal(rng, dtype, vocab, width),
        }

    return make


EXACT = {"float32": 0.0, "bfloat16": 0.0}
CASES = [
    Case("one token", _make(50, 64, 1), tolerance=EXACT),
    Case("odd sizes", _make(33, 37, 5), tolerance=EXACT),
    Case("several tiles", _make(70, 16, 200), tolerance=EXACT),
]
