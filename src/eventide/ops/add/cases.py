from ..case import Case, ints, normal


def _make(rows, cols, gather=None):  # type: ignore[no-untyped-def]
    def make(rng, dtype):  # type: ignore[no-untyped-def]
        arrays = {"a": normal(rng, dtype, rows, cols), "b": normal(rng, dtype, len(gather or range(rows)), cols)}
        return arrays if gather is None else {**arrays, "rows": ints(gather)}

    return make


CASES = [
    Case("one element", _make(1, 1)),
    Case("odd sizes", _make(3, 37)),
    Case("several tiles", _make(300, 64)),
    Case("gathered rows", _make(20, 33, gather=[19, 0, 7])),
]
