from ..case import Case, normal


def _make(rows, cols):  # type: ignore[no-untyped-def]
    return lambda rng, dtype: {"a": normal(rng, dtype, rows, cols), "b": normal(rng, dtype, rows, cols)}


CASES = [Case("one element", _make(1, 1)), Case("odd sizes", _make(3, 37)), Case("several tiles", _make(300, 64))]
