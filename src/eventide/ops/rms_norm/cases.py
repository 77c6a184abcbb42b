from ..case import Case, ints, normal


def _make(rows, cols, gather=None):  # type: ignore[no-untyped-def]
    def make(rng, dtype):  # type: ignore[no-untyped-def]
        arrays = {"x": normal(rng, dtype, rows, cols), "w": normal(rng, dtype, cols)}
        return arrays if gather is None else {**arrays, "rows": ints(gather)}

    return make


EPS = {"eps": 1e-6}
CASES = [
    Case("one token", _make(1, 1024), EPS),
    Case("odd sizes", _make(3, 37), EPS),
    Case("several tiles", _make(300, 64), EPS),
    Case("gathered", _make(9, 96, [8, 0, 3, 3]), {"eps": 1e-2}),
]
