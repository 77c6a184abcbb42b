from ..case import Case, ints, normal


def _make(tokens, n, k, *, norm=False, gather=None, bias=False, residual=False, gated=False):  # type: ignore[no-untyped-def]
    def make(rng, dtype):  # type: ignore[no-untyped-def]
        arrays = {"x": normal(rng, dtype, tokens, k), "w": normal(rng, dtype, n, k, scale=k**-0.5)}
        if norm:
            arrays["norm_weight"] = normal(rng, dtype, k)
        if gather is not None:
            arrays["rows"] = ints(gather)
        if bias:
            arrays["bias"] = normal(rng, dtype, n)
        if residual:
            arrays["residual"] = normal(rng, dtype, tokens, n // 2 if gated else n)
        return arrays

    return make


# sums of k products in another order: a few units in the last place of float32; bfloat16 outputs are rounded once, and an
# input rounded the other way in the norm moves a sum by part of a bfloat16 unit
TOLERANCE = {"float32": 5e-6, "bfloat16": 1e-2}


def _case(name, make, **attrs):  # type: ignore[no-untyped-def]
    return Case(name, make, attrs, tolerance=TOLERANCE)


CASES = [
    _case("one token", _make(1, 96, 256)),
    _case("odd everything", _make(3, 37, 131)),
    _case("less than a block", _make(2, 5, 9)),
    _case("one column", _make(5, 32, 1)),
    _case("many blocks", _make(2, 64, 1100)),
    _case("two tokens, odd blocks", _make(2, 40, 384)),
    _case("full register tile", _make(12, 64, 300)),
    _case("one token over it", _make(13, 64, 300)),
    _case("two token tiles", _make(131, 40, 200)),
    _case("norm", _make(4, 64, 192, norm=True), eps=1e-6),
    _case("norm, two tiles", _make(140, 64, 192, norm=True), eps=1e-6),
    _case("gathered rows", _make(20, 64, 96, norm=True, gather=[19, 0, 7]), eps=1e-6, out_dtype="float32"),
    _case("gathered rows and residual", _make(20, 48, 96, gather=[19, 0, 7], residual=True)),
    _case("bias", _make(3, 48, 64, bias=True)),
    _case("residual", _make(3, 48, 64, residual=True)),
    _case("gated", _make(3, 96, 64, norm=True, gated=True), eps=1e-6, activation="silu_mul"),
    _case(
        "everything", _make(7, 40, 70, norm=True, bias=True, residual=True, gated=True), eps=1e-5, activation="silu_mul"
    ),
]
