"""apply(): the right kernel for the right call, the fallback everywhere else, in every form of call.

One file, though a long one: every form of call is held to the same few definitions and solutions on top.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventide.bench import (
    Applier,
    ApplyConfig,
    Definition,
    Solution,
    Trace,
    TraceSet,
    apply,
    disable_apply,
    enable_apply,
)
from eventide.bench.apply_build import Runnable
from eventide.bench.timing import hardware_name
from eventide.errors import BenchError, UsageError

from .records import DEFINITION, SOLUTION, TRACE, changed

torch = pytest.importorskip("torch")

# adds 1000 so that tests see who computed: the kernel, or the fallback
WRITES = "def run(x, alpha, y):\n    y[...] = x * alpha + 1000\n"
RETURNS = "def run(x, alpha):\n    return x * alpha + 1000\n"
CPP = """
#include "eventide_bench.h"
extern "C" int run(const DLTensor* x, double alpha, DLTensor* y) {
  const float* in = eventide_bench::data<float>(x);
  float* out = eventide_bench::data<float>(y);
  for (int64_t i = 0; i < eventide_bench::numel(x); ++i) out[i] = in[i] * (float)alpha + 1000;
  return 0;
}
"""


def solved(
    source: str, *, root: Path | None = None, hardware: str | None = None, definition: Any = None, **spec: Any
) -> TraceSet:
    """A data set with one solution that passed for 1, 4 and 16 rows on this machine."""
    data = TraceSet(root=root)
    data.add_definition(Definition.model_validate(definition or DEFINITION))
    record = changed(SOLUTION, "spec", {**SOLUTION["spec"], **spec})
    path = record["spec"]["entry_point"].split("::")[0]
    data.add_solution(Solution.model_validate({**record, "sources": [{"path": path, "content": source}]}))
    for rows in (1, 4, 16):
        trace = changed(changed(TRACE, "workload.axes.rows", rows), "workload.uuid", f"u{rows}")
        trace = changed(trace, "evaluation.environment.hardware", hardware or hardware_name("cpu"))
        data.add_traces([Trace.model_validate(trace)])
    return data


def returning(text: str = "writes") -> TraceSet:
    source, writes = (WRITES, True) if text == "writes" else (RETURNS, False)
    return solved(source, destination_passing_style=writes)


def fallback(x: Any, alpha: Any, y: Any = None) -> Any:
    """The function that a program had before."""
    if y is None:
        return x * alpha
    y[...] = x * alpha
    return None


@pytest.fixture(autouse=True)
def _switched_off() -> Iterator[None]:
    disable_apply()
    yield
    disable_apply()


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory) -> ApplyConfig:
    return ApplyConfig(cache_dir=tmp_path_factory.getbasetemp() / "apply-cache")


def array(rows: int = 4, hidden: int = 8) -> Any:
    return np.ones((rows, hidden), np.float32)


def tensor(rows: int = 4, hidden: int = 8) -> Any:
    return torch.ones(rows, hidden)


BOTH = pytest.mark.parametrize("make", [array, tensor])


@BOTH
@pytest.mark.parametrize("style", ["writes", "returns"])
def test_any_caller_meets_any_solution(make: Callable[..., Any], style: str, config: ApplyConfig) -> None:
    wrapped = Applier(returning(style), config).wrap("scale_h8", fallback)
    x = make()
    for _ in range(3):
        y = wrapped(x, 2.0)
        assert type(y) is type(x) and (y == 1002).all()
    out = make()
    assert wrapped(x, 3.0, out) is None and (out == 1003).all()
    assert (wrapped(x, alpha=4.0) == 1004).all() and (wrapped(alpha=5.0, x=x) == 1005).all()
    assert wrapped(x, y=out, alpha=6.0) is None and (out == 1006).all()


@BOTH
def test_a_wrong_kernel_is_never_dispatched(make: Callable[..., Any], config: ApplyConfig) -> None:
    applier = Applier(returning(), config)
    wrapped = applier.wrap("scale_h8", fallback)
    assert (wrapped(make(), 2.0) == 1002).all()
    double = make().astype(np.float64) if make is array else make().double()
    strided = make(8, 4).T
    offset = make(8, 8)[::2]
    for x, why in (
        (make(4, 9), "axis 'hidden' is 8, but 'x' has 9"),
        (double, "x is float64, not float32"),
        (strided, "x is not contiguous"),
        (offset, "x is not contiguous"),
        (make()[0], "should have 2 dimensions, got 1"),
        (make(17), "nothing measured fits these axes"),
    ):
        for _ in range(2):
            assert (wrapped(x, 2.0) == 2).all(), why
        assert why in applier.choices[-1].reason and applier.choices[-1].solution is None
        assert (wrapped(make(), 2.0) == 1002).all()  # and back
    assert (wrapped(make(), np.float32(2)) == 2).all()  # a NumPy number is no Python number
    assert (wrapped(make(), True) == 1).all()
    assert (wrapped(make(), 2) == 1002).all()  # an int is a fine value of a float
    out = make(5)
    assert wrapped(make(), 2.0, make()) is None
    with pytest.raises((ValueError, RuntimeError)):
        wrapped(make(), 2.0, out)  # outputs of another shape: the fallback's own error


@BOTH
def test_ranges(make: Callable[..., Any], config: ApplyConfig) -> None:
    applier = Applier(returning(), config)
    wrapped = applier.wrap("scale_h8", fallback)
    assert (wrapped(make(7), 1.0) == 1001).all() and applier.choices[-1].reason == "in range"
    assert (wrapped(make(100), 1.0) == 1).all()
    best = Applier(returning(), ApplyConfig(cache_dir=config.cache_dir, on_miss="best"))
    assert (best.wrap("scale_h8", fallback)(make(100), 1.0) == 1001).all()


def test_other_hardware_is_not_this_machine(config: ApplyConfig) -> None:
    data = solved(WRITES, hardware="NVIDIA H200")
    assert (Applier(data, config).wrap("scale_h8", fallback)(array(), 2.0) == 2).all()
    told = ApplyConfig(hardware="NVIDIA H200", cache_dir=config.cache_dir)
    assert (Applier(data, told).wrap("scale_h8", fallback)(array(), 2.0) == 1002).all()


@pytest.mark.parametrize("args", [(1,), (1, 2, 3, 4), ()])
def test_any_other_count_is_a_value_error(args: tuple[Any, ...], config: ApplyConfig) -> None:
    wrapped = Applier(returning(), config).wrap("scale_h8", fallback)
    with pytest.raises(ValueError, match=f"takes 2 arguments .* or 3 .*, got {len(args)}") as caught:
        wrapped(*args)
    assert isinstance(caught.value, UsageError)
    with pytest.raises(ValueError, match="no argument 'beta'"):
        wrapped(1, beta=2)


# ---- the forms


def test_decorator_by_name_and_by_resolver(config: ApplyConfig) -> None:
    enable_apply(returning(), config)

    @apply("scale_h8")
    def by_name(x: Any, alpha: float) -> Any:
        """Scales."""
        return x * alpha

    @apply(lambda x, alpha: f"scale_h{x.shape[1]}")
    def by_shape(x: Any, alpha: float) -> Any:
        return x * alpha

    assert by_name.__name__ == "by_name" and by_name.__doc__ == "Scales."
    assert (by_name(array(), 2.0) == 1002).all() and (by_shape(array(), 2.0) == 1002).all()
    assert (by_shape(array(4, 9), 2.0) == 2).all()  # a definition that the data set does not have


def test_function_form(config: ApplyConfig) -> None:
    enable_apply(returning(), config)
    assert (apply("scale_h8", args=(array(), 2.0), fallback=fallback) == 1002).all()
    assert (apply("scale_h8", args=(array(),), kwargs={"alpha": 2.0}) == 1002).all()
    assert (apply(lambda x, alpha: "scale_h8", (array(), 2.0)) == 1002).all()
    assert (apply("scale_h9", (array(), 2.0), fallback=fallback) == 2).all()
    assert (apply("scale_h8", (array(99), 2.0), fallback=fallback) == 2).all()
    out = array()
    assert apply("scale_h8", (array(), 2.0, out), fallback=fallback) is None and (out == 1002).all()
    with pytest.raises(
        BenchError, match=r"no solution fits this call \(nothing measured .*\) and no fallback was given"
    ):
        apply("scale_h8", (array(99), 2.0))
    with pytest.raises(BenchError, match="has no definition 'scale_h9'"):
        apply("scale_h9", (array(), 2.0))


def test_two_fallbacks_of_one_definition_stay_apart(config: ApplyConfig) -> None:
    enable_apply(returning(), config)
    for sign in (1, -1, 1, -1):
        result = apply("scale_h8", (array(99), 2.0), fallback=lambda x, alpha, sign=sign: sign * x)
        assert (result == sign).all()
        gc.collect()  # a freed fallback must not lend its identity to the next


def test_off_is_nothing(config: ApplyConfig) -> None:
    assert apply("scale_h8")(fallback) is fallback
    assert (apply("scale_h8", (array(), 2.0), fallback=fallback) == 2).all()
    with pytest.raises(UsageError, match=r"apply\(\) is off and no fallback was given"):
        apply("scale_h8", (array(), 2.0))
    enable_apply(returning(), config)
    assert apply("not_in_the_data_set")(fallback) is fallback
    kept = apply("scale_h8")(fallback)
    disable_apply()
    assert apply("scale_h8")(fallback) is fallback and (kept(array(), 2.0) == 1002).all()


def test_switched_on_by_the_environment(tmp_path: Path) -> None:
    solved(WRITES, root=tmp_path / "data")
    code = (
        "import numpy as np; from eventide.bench import apply\n"
        "f = apply('scale_h8')(lambda x, alpha: x * alpha)\n"
        "print(f(np.ones((4, 8), np.float32), 2.0)[0, 0]); import sys; assert 'torch' not in sys.modules"
    )
    source = str(Path(__file__).parents[2] / "src")
    base = {"PYTHONPATH": source, "PATH": os.environ["PATH"], "FIB_CACHE_PATH": str(tmp_path / "cache")}
    for switch, expected in (("1", "1002.0"), ("0", "2.0")):
        env = {**base, "FIB_ENABLE_APPLY": switch, "FIB_DATASET_PATH": str(tmp_path / "data")}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == (expected, "")
    done = subprocess.run(
        [sys.executable, "-c", code], env={**base, "FIB_ENABLE_APPLY": "yes"}, capture_output=True, text=True
    )
    assert "environment variable FIB_ENABLE_APPLY: expected 0 or 1, got 'yes'" in done.stderr
    assert (tmp_path / "cache/apply").is_dir()


def test_enabling_without_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIB_DATASET_PATH", raising=False)
    with pytest.raises(UsageError, match=r"needs a data set: give one, or set FIB_DATASET_PATH"):
        enable_apply()


# ---- building


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@BOTH
def test_a_cpp_solution(make: Callable[..., Any], config: ApplyConfig) -> None:
    data = solved(CPP, language="cpp", entry_point="main.cpp::run")
    wrapped = Applier(data, config).wrap("scale_h8", fallback)
    for alpha in (2.0, 3):
        assert (wrapped(make(), alpha) == 1000 + alpha).all()
    out = make()
    assert wrapped(make(), 0.5, out) is None and (out == 1000.5).all()


def test_a_torch_solution_serves_numpy_callers(config: ApplyConfig) -> None:
    source = "import torch\ndef run(x, alpha):\n    return torch.mul(x, alpha) + 1000\n"
    wrapped = Applier(solved(source, destination_passing_style=False), config).wrap("scale_h8", fallback)
    for make in (array, tensor):
        result = wrapped(make(), 2.0)
        assert type(result) is type(make()) and (result == 1002).all()


def test_a_solution_that_does_not_build_is_passed_over(config: ApplyConfig, caplog: pytest.LogCaptureFixture) -> None:
    wrapped = Applier(solved("raise RuntimeError('no good')"), config).wrap("scale_h8", fallback)
    for rows in (4, 16):
        assert (wrapped(array(rows), 2.0) == 2).all()
    assert [r.message for r in caplog.records] == ["apply: solution scale_numpy cannot be used: no good"]


def test_helpers_of_the_same_name_do_not_meet(config: ApplyConfig) -> None:
    results = []
    for value in (1, 2):
        data = solved("from helper_of_solution import plus\ndef run(x, alpha):\n    return x * alpha + plus()\n",
                      destination_passing_style=False)  # fmt: skip
        solution = data.get_solution("scale_numpy")
        helper = {"path": "helper_of_solution.py", "content": f"def plus():\n    return {value}000\n"}
        record = {**solution.model_dump(mode="json")}
        record["sources"].append(helper)
        again = TraceSet(data.definitions.values(), [], [Solution.model_validate(record)], data.all_traces())
        results.append(Applier(again, config).wrap("scale_h8", fallback)(array(), 2.0)[0, 0])
    assert results == [1002, 2002]
    assert "helper_of_solution" not in sys.modules


def test_building_ahead(config: ApplyConfig) -> None:
    ahead = Applier(returning(), ApplyConfig(aot_ratio=1.0, cache_dir=config.cache_dir))
    assert not ahead.library.has("scale_numpy", "cpu")
    assert ahead.prepare() == 1 and ahead.library.has("scale_numpy", "cpu")
    assert Applier(returning(), config).prepare() == 0


def test_several_outputs_and_optional_inputs(config: ApplyConfig) -> None:
    record = changed(DEFINITION, "outputs.z", {"shape": [], "dtype": "int64"})
    record = changed(record, "inputs.bias", {"shape": ["hidden"], "dtype": "float32"})
    record["eventide"] = {"version": 1, "optional": ["bias"]}
    source = "def run(x, alpha, bias, y, z):\n    y[...] = x * alpha + 1000\n    z[...] = 0 if bias is None else 1\n"
    wrapped = Applier(solved(source, definition=record), config).wrap("scale_h8", lambda *a: "fallback")
    for make, bias in ((array, np.ones(8, np.float32)), (tensor, torch.ones(8))):
        for given, expected in ((bias, 1), (None, 0), (bias, 1)):
            y, z = wrapped(make(), 2.0, given)
            assert (y == 1002).all() and z.shape == () and int(z) == expected and str(z.dtype).endswith("int64")


# ---- torch


def test_a_gradient_is_never_lost(config: ApplyConfig) -> None:
    wrapped = Applier(returning(), config).wrap("scale_h8", fallback)
    weight = torch.nn.Parameter(torch.ones(4, 8))
    for _ in range(2):
        out = wrapped(weight, 2.0)
        assert out.requires_grad and (out == 2).all()
        with torch.no_grad():
            assert (wrapped(weight, 2.0) == 1002).all()
        with torch.inference_mode():
            assert (wrapped(torch.ones(4, 8), 2.0) == 1002).all()
    wrapped(weight, 2.0).sum().backward()
    assert (weight.grad == 2).all()


def test_a_parameter_that_changes_its_type_in_place(config: ApplyConfig) -> None:
    wrapped = Applier(returning(), config).wrap("scale_h8", fallback)
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(4, 8), requires_grad=False)
    weight = module.weight
    assert (wrapped(weight, 2.0) == 1002).all()
    module.half()
    assert module.weight is weight  # the very same object
    assert wrapped(weight, 2.0).dtype == torch.float16 and (wrapped(weight, 2.0) == 2).all()


def test_the_same_tensor_twice_and_strides_of_length_one(config: ApplyConfig) -> None:
    record = changed(DEFINITION, "inputs.x2", {"shape": ["rows", "hidden"], "dtype": "float32"})
    source = "def run(x, alpha, x2, y):\n    y[...] = x * alpha + x2 + 1000\n"
    wrapped = Applier(solved(source, definition=record), config).wrap("scale_h8", lambda x, a, x2: x * a + x2)
    x = tensor()
    for _ in range(3):
        assert (wrapped(x, 2.0, x) == 1003).all() and (wrapped(x, 2.0, tensor()) == 1003).all()
    one, odd = tensor(1), torch.ones(1, 8).as_strided((1, 8), (99, 1))
    assert odd.is_contiguous() and odd.stride() != one.stride()
    for _ in range(3):
        assert (wrapped(one, 2.0, one) == 1003).all() and (wrapped(odd, 2.0, tensor(1)) == 1003).all()


def test_without_the_private_guard_of_torch(config: ApplyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._C._dynamo import guards

    monkeypatch.delattr(guards, "TensorGuards")
    test_a_wrong_kernel_is_never_dispatched(tensor, config)
    test_a_gradient_is_never_lost(config)
    test_a_parameter_that_changes_its_type_in_place(config)


@pytest.mark.parametrize("style", ["writes", "returns"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_compile(style: str, config: ApplyConfig) -> None:
    applier = Applier(returning(style), config)
    wrapped = applier.wrap("scale_h8", fallback)

    def program(x: Any) -> Any:
        y = wrapped(x + 1, 2.0)
        out = torch.empty_like(y)
        wrapped(y - 1000, alpha=3.0, y=out)
        return out + 0.5

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (4, 16, 7):
        x = tensor(rows)
        expected = 4.0 * 3 + 1000 + 0.5
        assert (program(x) == expected).all() and (compiled(x) == expected).all()
    # what nothing was measured for meets the fallback, compiled or not
    assert (compiled(tensor(99)) == program(tensor(99))).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_compile_with_a_resolver(config: ApplyConfig) -> None:
    enable_apply(returning(), config)
    wrapped = apply(lambda x, alpha: f"scale_h{x.shape[1]}")(lambda x, alpha: x * alpha)
    compiled = torch.compile(lambda x: wrapped(x, 2.0) + 1, fullgraph=True, backend="aot_eager")
    assert (compiled(tensor()) == 1003).all() and (compiled(tensor(4, 9)) == 3).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_fallback_may_return_its_argument(config: ApplyConfig) -> None:
    wrapped = Applier(returning(), config).wrap("scale_h8", lambda x, alpha: x)
    compiled = torch.compile(lambda x: wrapped(x, 2.0) + 1, fullgraph=True, backend="aot_eager")
    assert (compiled(tensor(99)) == 2).all()


def test_fake_tensors_meet_no_kernel(config: ApplyConfig) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    wrapped = Applier(returning(), config).wrap("scale_h8", fallback)
    with FakeTensorMode():
        fake = torch.ones(4, 8)
        assert type(wrapped(fake, 2.0)) is type(fake)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda_graph_capture(config: ApplyConfig) -> None:
    source = "import torch\ndef run(x, alpha, y):\n    torch.mul(x, alpha, out=y).add_(1000)\n"
    data = solved(source, hardware=torch.cuda.get_device_name(0), target_hardware=["NVIDIA H200"])
    wrapped = Applier(data, config).wrap("scale_h8", fallback)
    x, cold = torch.ones(4, 8, device="cuda"), torch.ones(16, 8, device="cuda")
    assert (wrapped(x, 2.0) == 1002).all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = wrapped(x, 2.0)
        z = wrapped(cold, 2.0)  # another shape of a solution that is built: still captured
    x.fill_(3)
    graph.replay()
    torch.cuda.synchronize()
    assert (y == 1006).all() and (z == 1002).all()
    assert (wrapped(torch.ones(4, 8), 2.0) == 2).all()  # the same call on the CPU was never measured


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])  # the second captures CUDA graphs
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_torch_compile_on_a_gpu(mode: str, config: ApplyConfig) -> None:
    source = "import torch\ndef run(x, alpha, y):\n    torch.mul(x, alpha, out=y).add_(1000)\n"
    data = solved(source, hardware=torch.cuda.get_device_name(0), target_hardware=["NVIDIA H200"])
    wrapped = Applier(data, config).wrap("scale_h8", fallback)
    compiled = torch.compile(lambda x: wrapped(x + 1, 2.0) * 3, fullgraph=True, mode=mode)
    for value in (1.0, 1.0, 1.0, 5.0, 7.0):  # a graph is captured after some calls and replayed with other values
        x = torch.full((4, 8), value, device="cuda")
        assert (compiled(x) == ((value + 1) * 2 + 1000) * 3).all()
    assert (compiled(torch.ones(99, 8, device="cuda")) == 12).all()  # never measured: the fallback


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_compiled_kernel_in_a_cuda_graph(config: ApplyConfig) -> None:
    from eventide.bench.builders.native import nvcc_path

    if nvcc_path() is None:
        pytest.skip("needs nvcc")
    source = """
    #include "eventide_bench.h"
    __global__ void scale(const float* x, float a, float* y, long n) {
      const long i = blockIdx.x * 256L + threadIdx.x;
      if (i < n) y[i] = x[i] * a + 1000;
    }
    extern "C" int run(const DLTensor* x, double alpha, DLTensor* y) {
      using eventide_bench::data;
      const long n = eventide_bench::numel(x);
      scale<<<(n + 255) / 256, 256, 0, eventide_bench::stream()>>>(data<float>(x), (float)alpha, data<float>(y), n);
      return cudaGetLastError();
    }
    """
    spec = {"language": "cuda", "entry_point": "kernel.cu::run", "target_hardware": ["NVIDIA H200"]}
    data = solved(source, hardware=torch.cuda.get_device_name(0), **spec)
    wrapped = Applier(data, config).wrap("scale_h8", fallback)
    x = torch.ones(4, 8, device="cuda")
    assert (wrapped(x, 2) == 1002).all()  # an integer where the definition has a float
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = wrapped(x, 2.0)
    x.fill_(3)
    graph.replay()
    torch.cuda.synchronize()
    assert (y == 1006).all()


# ---- cost


def _ns(function: Callable[..., Any], *args: Any) -> float:
    # short runs, many of them: on a busy machine some fit between two interruptions
    best = float("inf")
    for _ in range(600):
        start = time.perf_counter_ns()
        for _ in range(200):
            function(*args)
        best = min(best, (time.perf_counter_ns() - start) / 200)
    return best


@pytest.mark.parametrize(("make", "num_more"), [(array, 0), (tensor, 0), (tensor, 3)])
def test_a_hit_costs_at_most_two_microseconds(make: Callable[..., Any], num_more: int, config: ApplyConfig) -> None:
    record = DEFINITION
    for i in range(num_more):  # five tensors and a number, as paged attention has
        record = changed(record, f"inputs.w{i}", {"shape": ["hidden"], "dtype": "float32"})
    applier = Applier(solved(WRITES, definition=record), config)

    def nothing(*args: Any) -> None:
        return None

    framework = "numpy" if make is array else "torch"
    applier.library._built["scale_numpy", "cpu"] = Runnable("scale_numpy", nothing, True, "objects", framework)
    wrapped = applier.wrap("scale_h8", fallback)
    args = (make(), 2.0, *(make(1)[0] for _ in range(num_more)), make())
    wrapped(*args)
    assert applier.choices[-1].solution == "scale_numpy"
    with torch.no_grad():
        empty = _ns(nothing, *args)
        cost = _ns(wrapped, *args) - empty
    # an empty call takes 70 to 90 ns on a core of one's own: on one that is shared, both take longer
    slowdown = max(1.0, empty / 90)
    assert cost <= 2000 * slowdown, f"{cost:.0f} ns a hit, {empty:.0f} ns an empty call"
