"""`eventide.compile`: one call from a program to a function on arrays, on every backend that needs no GPU."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import eventide
from eventide import Program
from eventide.backends.null import NullKernel
from eventide.errors import ProgramError, UsageError
from eventide.ir.expr import Sum
from eventide.ir.nodes import Invariant

RNG = np.random.default_rng(0)


def mlp(dtype: str = "float32") -> Program:
    p = Program("mlp")
    t = p.symbol("num_tokens", 1, 300)
    x = p.input("x", (t, 24), dtype)
    h = p.call("linear", x=x, w=p.weight("w1", (64, 24), dtype))
    p.output(p.call("linear", x=p.call("silu_mul", x=h), w=p.weight("w2", (24, 32), dtype)), "y")
    return p


def arrays(dtype: object = np.float32) -> dict[str, np.ndarray]:
    shapes = {"x": (7, 24), "w1": (64, 24), "w2": (24, 32)}
    return {k: (RNG.standard_normal(s) / 4).astype(dtype) for k, s in shapes.items()}  # type: ignore[call-overload]


def expected(a: dict[str, np.ndarray]) -> np.ndarray:
    f = {k: v.astype(np.float32) for k, v in a.items()}
    h = f["x"] @ f["w1"].T
    gate, up = h[:, 0::2], h[:, 1::2]
    result: np.ndarray = gate / (1 + np.exp(-gate)) * up @ f["w2"].T
    return result


@pytest.mark.parametrize("target", ["cpu", "interp"])
@pytest.mark.parametrize("schedule", ["static", "per_op"])
def test_a_program_is_a_function(target: str, schedule: str) -> None:
    kernel = eventide.compile(mlp(), target, schedule)
    a = arrays()
    np.testing.assert_allclose(kernel(**a), expected(a), rtol=1e-4, atol=1e-5)
    # weights stay; another batch size needs no compilation
    a["x"] = RNG.standard_normal((211, 24)).astype(np.float32)
    np.testing.assert_allclose(kernel(x=a["x"]), expected(a), rtol=1e-4, atol=1e-4)
    # a new weight replaces the old one
    a["w2"] = a["w2"] * 2
    np.testing.assert_allclose(kernel(x=a["x"], w2=a["w2"]), expected(a), rtol=1e-4, atol=1e-4)
    assert "num_tokens" in str(kernel.plan)


def test_bfloat16_and_dlpack() -> None:
    torch = pytest.importorskip("torch")
    kernel = eventide.compile(mlp("bfloat16"), num_threads=1)
    a = arrays(ml_dtypes.bfloat16)
    y = kernel(**a)
    assert y.dtype == ml_dtypes.bfloat16
    tensors = {k: torch.from_numpy(v.astype(np.float32)).bfloat16() for k, v in a.items()}
    np.testing.assert_array_equal(kernel(**tensors), y)
    np.testing.assert_allclose(y.astype(np.float32), expected(a), rtol=0.05, atol=0.05)
    np.testing.assert_array_equal(kernel(x=tensors["x"].T.contiguous().T), y)
    with pytest.raises(ProgramError, match=r"'x' \(Tensor\) cannot be read through DLPack: it must be in CPU memory"):
        kernel(x=tensors["x"].to("meta"))
    single = eventide.compile(mlp(), num_threads=1)
    floats = {k: v.float() for k, v in tensors.items()}
    np.testing.assert_allclose(single(**floats), expected(a), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_program_is_a_function_on_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    kernel = eventide.compile(mlp("bfloat16"), "cuda")
    a = arrays(ml_dtypes.bfloat16)
    np.testing.assert_allclose(kernel(**a).astype(np.float32), expected(a), rtol=0.05, atol=0.05)


def test_states_stay_from_call_to_call() -> None:
    p = Program("append")
    t = p.symbol("num_tokens", 1, 8)
    names = {"pos": ("int32", (t,)), "slot": ("int32", (t,)), "qkv": ("float32", (t, 3 * 16))}
    within = [Invariant("within", Sum(0), Sum(8))]
    promises = {"pos": within, "slot": [*within, Invariant("distinct")]}
    refs = {k: p.input(k, shape, dtype, promises.get(k, [])) for k, (dtype, shape) in names.items()}
    caches = {k: p.state(k, (1, 8, 16), "float32") for k in ("k_cache", "v_cache")}
    rope = p.weight("rope", (8, 16), "float32")
    q = p.call(
        "rope_append", q_in=refs["qkv"], k_in=refs["qkv"], v_in=refs["qkv"], pos=refs["pos"], slot=refs["slot"], rope=rope,
        num_heads=1, num_kv_heads=1, head_dim=16, **caches,
    )  # fmt: skip
    p.output(q, "q")
    mine = np.zeros((1, 8, 16), np.float32)
    kernel = eventide.compile(p)
    qkv = RNG.standard_normal((2, 48)).astype(np.float32)
    table = np.concatenate([np.ones((8, 8)), np.zeros((8, 8))], axis=1).astype(np.float32)
    kernel(qkv=qkv, pos=[0, 1], slot=[5, 2], rope=table, v_cache=mine)
    kernel(qkv=qkv[:1] * 2, pos=[3], slot=[0])
    np.testing.assert_array_equal(mine[0, [5, 2, 0]], np.concatenate([qkv[:, 32:], qkv[:1, 32:] * 2]))
    np.testing.assert_array_equal(kernel.states["k_cache"][0, [5, 2]], qkv[:, 16:32])
    assert not mine[0, [1, 3, 4, 6, 7]].any()


def test_null_checks_everything_and_says_what_would_run() -> None:
    kernel = eventide.compile(mlp(), "null", num_threads=2)
    a = arrays()
    y = kernel(**a)
    assert y.shape == (7, 24) and not y.any()
    assert isinstance(kernel.kernel, NullKernel)
    launch = kernel.kernel.launches[-1]
    # silu_mul is fused: 2 panels of w1 and 1 of w2, 7 tokens in one tile
    assert sum(map(sum, launch.tasks.values())) == 3
    assert str(launch).startswith("3 tasks of 2 grids on 2 workers (")
    with pytest.raises(ProgramError, match="input 'x': expected dtype float32, got float64"):
        kernel(x=a["x"].astype(np.float64))


def test_bad_calls() -> None:
    a = arrays()
    kernel = eventide.compile(mlp(), num_threads=1)
    with pytest.raises(ProgramError, match="weight 'w1' of plan 'mlp' was not given"):
        kernel(x=a["x"])
    with pytest.raises(ProgramError, match="program 'mlp' has no argument 'v'; it has: x, w1, w2"):
        kernel(v=a["x"])
    with pytest.raises(ProgramError, match="the symbol 'num_tokens' of program 'mlp' does not follow from the shapes"):
        kernel(w1=a["w1"], w2=a["w2"])
    with pytest.raises(ProgramError, match=r"symbol 'num_tokens' must be in \[1, 300\], got 301"):
        kernel(x=np.zeros((301, 24), np.float32))
    with pytest.raises(ProgramError, match=r"input 'x': expected shape \(7, 24\), got \(7, 23\)"):
        kernel(x=a["x"][:, :23])
    with pytest.raises(UsageError, match="unknown target 'tpu'; known are: cpu, cuda, interp, null"):
        eventide.compile(mlp(), "tpu")
