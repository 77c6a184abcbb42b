"""The runner on honest and on merely wrong solutions: languages of the CPU, statuses, resume, settings, selection."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventide.bench import Definition, Solution, Trace, TraceSet
from eventide.bench.builders import builder_for, register, registered, unregister
from eventide.bench.builders.native import CppBuilder
from eventide.bench.runner import Selection, Settings, SettingsLayers, run_benchmark
from eventide.bench.runner.run import find_devices
from eventide.errors import BenchError, DeviceError, UsageError

from .runner_kit import HONEST, QUICK, SCALE, SIZE, measure, reason, solution, workload

CPP = """
#include "eventide_bench.h"
extern "C" int run(const DLTensor* x, const DLTensor* y, DLTensor* z) {
  using eventide_bench::data;
  for (int64_t i = 0; i < eventide_bench::numel(z); ++i)
    data<float>(z)[i] = 2 * data<float>(x)[i] + data<float>(y)[i];
  return 0;
}
"""

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def test_what_a_passed_evaluation_holds(tmp_path: Path) -> None:
    result = measure(solution(HONEST), tmp_path, trials=2, cold_cache=True)
    assert str(result.status) == "PASSED", result.log
    assert result.performance is not None and result.correctness is not None and result.eventide is not None
    timing = result.eventide.timing
    assert timing is not None and timing.samples_ms is not None and timing.latency_ms is not None
    assert [len(trial) for trial in timing.samples_ms] == [6, 6]
    assert timing.latency_ms[0] <= result.performance.latency_ms <= timing.latency_ms[1]
    speedup = result.performance.reference_latency_ms / result.performance.latency_ms
    assert result.performance.speedup_factor == pytest.approx(speedup)
    assert timing.method["cache"].startswith("cold") and timing.method["sandbox"] in ("namespaces", "landlock")
    assert result.eventide.settings is not None and result.eventide.settings["checked_calls"] >= 12
    assert result.eventide.device is not None and result.environment.libs["numpy"] == np.__version__


def test_returned_values(tmp_path: Path) -> None:
    result = measure(solution("def run(x, y):\n    return 2 * x + y\n", returns=True), tmp_path)
    assert str(result.status) == "PASSED", result.log


@pytest.mark.parametrize(
    ("source", "status", "why"),
    [
        ("def run(x, y):\n    return (2 * x + y)[:-1]\n", "INCORRECT_SHAPE", "expected shape (4096,), got (4095,)"),
        ("def run(x, y):\n    return x, y\n", "INCORRECT_SHAPE", "expected 1 results, got 2"),
        ("def run(x, y):\n    return (2 * x + y).astype('f8')\n", "INCORRECT_DTYPE", "expected float32, got float64"),
        ("def run(x, y):\n    return None\n", "INCORRECT_DTYPE", "got builtins.NoneType"),
        ("def run(x, y):\n    return 2 * x - y\n", "INCORRECT_NUMERICAL", "off by more than"),
        ("def run(x, y):\n    raise ValueError('no luck')\n", "RUNTIME_ERROR", "ValueError: no luck"),
        ("def run(x, y:\n", "COMPILE_ERROR", "not valid Python"),
        ("import absent_package\ndef run(x, y):\n    pass\n", "COMPILE_ERROR", "absent_package"),
        ("def other(x, y):\n    pass\n", "COMPILE_ERROR", "defines no run"),
    ],
)
def test_statuses(tmp_path: Path, source: str, status: str, why: str) -> None:
    result = measure(solution(source, returns=True), tmp_path)
    assert str(result.status) == status and why in reason(result)


def test_log_holds_traceback_and_output(tmp_path: Path) -> None:
    result = measure(solution("def run(x, y, z):\n    print('hello')\n    1 / 0\n"), tmp_path)
    assert "ZeroDivisionError" in result.log and "hello" in result.log and "main.py" in result.log
    assert "eventide/bench" not in result.log


@needs_compiler
def test_cpp_with_plain_pointers(tmp_path: Path) -> None:
    candidate = solution(CPP, language="cpp", file="kernel.cpp")
    assert str(measure(candidate, tmp_path).status) == "PASSED"
    built = list(tmp_path.glob("*/*.so"))
    assert len(built) == 1
    before = built[0].stat().st_mtime_ns
    measure(candidate, tmp_path)
    assert built[0].stat().st_mtime_ns == before  # found, not built again


@needs_compiler
@pytest.mark.parametrize(
    ("source", "status", "why"),
    [
        (CPP.replace("return 0", "return 3"), "RUNTIME_ERROR", "returned the status 3"),
        (CPP.replace('extern "C" int run', 'extern "C" int walk'), "COMPILE_ERROR", "exports neither"),
        (CPP.replace("return 0;", "return 0"), "COMPILE_ERROR", "ended with status 1"),
        (CPP.replace("return 0;", "*(volatile int*)0 = 1; return 0;"), "RUNTIME_ERROR", "SIGSEGV"),
    ],
)
def test_cpp_failures(tmp_path: Path, source: str, status: str, why: str) -> None:
    result = measure(solution(source, language="cpp", file="kernel.cpp"), tmp_path)
    assert str(result.status) == status and why in reason(result)


@needs_compiler
def test_compile_errors_are_logged(tmp_path: Path) -> None:
    result = measure(solution("int run( {", language="cpp", file="kernel.cpp"), tmp_path)
    assert str(result.status) == "COMPILE_ERROR" and "error:" in result.log and "kernel.cpp" in result.log


@needs_compiler
@pytest.mark.parametrize("flag", ["-fplugin=x.so", "-o/tmp/x", "-B/tmp", "payload.o"])
def test_compile_flags_that_replace_tools_are_refused(tmp_path: Path, flag: str) -> None:
    record = solution(CPP, language="cpp", file="kernel.cpp").model_dump()
    record["eventide"] = {"version": 1, "compile_flags": [flag]}
    result = measure(Solution.model_validate(record), tmp_path)
    assert str(result.status) == "COMPILE_ERROR" and "not allowed" in reason(result)


@needs_compiler
def test_cpp_with_tvm_ffi(tmp_path: Path) -> None:
    pytest.importorskip("tvm_ffi")
    pytest.importorskip("torch")
    source = """
    #include <tvm/ffi/container/tensor.h>
    #include <tvm/ffi/function.h>
    void run(tvm::ffi::TensorView x, tvm::ffi::TensorView y, tvm::ffi::TensorView z) {
      const float *a = static_cast<const float*>(x.data_ptr()), *b = static_cast<const float*>(y.data_ptr());
      float* c = static_cast<float*>(z.data_ptr());
      for (int64_t i = 0; i < x.size(0); ++i) c[i] = 2 * a[i] + b[i];
    }
    TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);
    """
    result = measure(solution(source, language="cpp", file="k.cpp", binding="tvm-ffi"), tmp_path, timeout_s=60.0)
    assert str(result.status) == "PASSED", result.log


@needs_compiler
@pytest.mark.slow
def test_cpp_with_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    # one header from either folder of headers; <torch/extension.h> has everything and takes 20 seconds more
    source = """
    #include <torch/version.h>
    #include <torch/csrc/utils/pybind.h>
    #include <ATen/ops/add.h>
    at::Tensor run(at::Tensor x, at::Tensor y) { return at::add(y, x, 2); }
    PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run); }
    """
    record = solution(source, language="cpp", file="k.cpp", binding="torch", returns=True).model_dump()
    record["eventide"] = {"version": 1, "compile_flags": ["-O0"]}  # a third of the time goes to optimising one call
    result = measure(Solution.model_validate(record), tmp_path, timeout_s=60.0)
    assert str(result.status) == "PASSED", result.log


def test_python_with_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source = "import torch\n\ndef run(x, y, z):\n    torch.add(y, x, alpha=2, out=z)\n"
    result = measure(solution(source), tmp_path, timeout_s=60.0)
    assert str(result.status) == "PASSED", result.log


def test_several_files(tmp_path: Path) -> None:
    extra = {"pkg/__init__.py": "# package", "pkg/scale.py": "FACTOR = 2\n"}
    source = "from .scale import FACTOR\n\ndef run(x, y, z):\n    z[:] = FACTOR * x + y\n"
    assert str(measure(solution(source, file="pkg/main.py", extra=extra), tmp_path).status) == "PASSED"


def typed(dtype: str, reference: str) -> Definition:
    record = SCALE.model_dump(exclude_none=True)
    for tensor in (*record["inputs"].values(), *record["outputs"].values()):
        tensor["dtype"] = dtype
    return Definition.model_validate({**record, "reference": reference})


def test_element_types_reach_torch_and_back(tmp_path: Path) -> None:
    """All in one definition: each further one would import torch once more in every process of the runner."""
    pytest.importorskip("torch")
    types = ["bfloat16", "float8_e4m3fn", "int8", "bool"]
    given, made = ([f"{letter}{i}" for i in range(len(types))] for letter in "xz")
    record = SCALE.model_dump(exclude_none=True)
    for key, names in (("inputs", given), ("outputs", made)):
        record[key] = {name: {"shape": ["n"], "dtype": dtype} for name, dtype in zip(names, types)}
    checked = "".join(f"    assert {x}.dtype == torch.{dtype}\n" for x, dtype in zip(given, types))
    head = f"import torch\ndef run({', '.join(given)}"
    record["reference"] = f"{head}):\n{checked}    return {', '.join(f'{x}.clone()' for x in given)}\n"
    copied = "".join(f"    {z}.copy_({x})\n" for x, z in zip(given, made))
    candidate = solution(f"{head}, {', '.join(made)}):\n{checked}{copied}")
    result = measure(candidate, tmp_path, definition=Definition.model_validate(record), timeout_s=60.0)
    assert str(result.status) == "PASSED", result.log


def test_honest_infinities_pass(tmp_path: Path) -> None:
    of = typed("float32", "import numpy as np\ndef run(x, y):\n    return np.where(x > 0, y, -np.inf).astype('f4')\n")
    source = "import numpy as np\ndef run(x, y, z):\n    z[:] = y\n    z[x <= 0] = -np.inf\n"
    assert str(measure(solution(source), tmp_path, definition=of).status) == "PASSED"


def test_scalars_and_scalar_outputs(tmp_path: Path) -> None:
    record = SCALE.model_dump(exclude_none=True)
    record["inputs"]["alpha"] = {"shape": None, "dtype": "float32"}
    record["outputs"] = {"total": {"shape": [], "dtype": "float32"}}
    record["reference"] = (
        "import numpy as np\ndef run(x, y, alpha):\n    return np.float32((x * alpha + y).sum()).reshape(())\n"
    )
    of = Definition.model_validate(record)
    work = workload(of, n=64).model_dump(mode="json")
    work["workload"]["inputs"]["alpha"] = {"type": "scalar", "value": 0.25}
    source = "def run(x, y, alpha, total):\n    assert type(alpha) is float\n    total[...] = (x * alpha + y).sum()\n"
    result = measure(solution(source), tmp_path, definition=of, work=Trace.model_validate(work))
    assert str(result.status) == "PASSED", result.log


def test_a_reference_that_fails_skips_the_workload(tmp_path: Path) -> None:
    of = typed("float32", "def run(x, y):\n    raise RuntimeError('broken reference')\n")
    data = TraceSet([of], [workload(of, n=8)], [solution(HONEST)])
    report = run_benchmark(data, devices=["cpu"], command_line=QUICK, cache=tmp_path)
    assert not report.traces and "broken reference" in report.skipped[0][1]


def test_constraints_are_checked_on_the_values(tmp_path: Path) -> None:
    record = {**SCALE.model_dump(exclude_none=True), "eventide": {"version": 1, "constraints": ["x.max() < n / 4096"]}}
    of = Definition.model_validate(record)
    data = TraceSet([of], [workload(of, n=SIZE)], [solution(HONEST)])
    report = run_benchmark(data, devices=["cpu"], command_line=QUICK, cache=tmp_path)
    assert not report.traces and "violates" in report.skipped[0][1]


def test_gpu_languages_are_skipped_on_the_cpu(tmp_path: Path) -> None:
    candidates = [solution("import triton\ndef run(): pass\n", name="t", language="triton")]
    candidates.append(solution("x", name="c", language="cuda", file="k.cu"))
    data = TraceSet([SCALE], [workload(SCALE, n=8)], candidates)
    report = run_benchmark(data, devices=["cpu"], command_line=QUICK, cache=tmp_path)
    assert not report.traces and sorted(what for what, _ in report.skipped) == ["c", "t"]
    assert all("CUDA device" in why for _, why in report.skipped)


def test_resume_measures_only_what_is_missing(tmp_path: Path) -> None:
    works = [workload(SCALE, uuid=f"w-{n}", n=n) for n in (16, 32)]
    data = TraceSet([SCALE], works, [solution(HONEST)]).save(tmp_path / "data")

    def go(**options: Any) -> tuple[int, int]:
        loaded = TraceSet.load(tmp_path / "data")
        report = run_benchmark(loaded, devices=["cpu"], command_line=QUICK, cache=tmp_path / "cache", **options)
        return len(report.traces), report.resumed

    assert go(selection=Selection(max_workloads=1)) == (1, 0)
    assert go() == (1, 1)
    assert go() == (0, 2)
    assert go(resume=False) == (2, 0)
    again = TraceSet.load(tmp_path / "data")
    assert len(again.traces[SCALE.name]) == 4 and all(t.passed for t in again.traces[SCALE.name])
    # a changed source is another solution under the same name
    file = tmp_path / "data" / data.solution_path(solution(HONEST))
    record = json.loads(file.read_text())
    record["sources"][0]["content"] += "\n# changed\n"
    file.write_text(json.dumps(record))
    assert go() == (2, 0)


def test_selection(tmp_path: Path) -> None:
    names = ["fast_a", "fast_b", "slow"]
    data = TraceSet([SCALE], [workload(SCALE, n=8)], [solution(HONEST, name=n) for n in names])

    def chosen(**patterns: Any) -> list[str | None]:
        selected = Selection(**patterns)
        report = run_benchmark(
            data, devices=["cpu"], selection=selected, command_line=QUICK, cache=tmp_path, resume=False
        )
        return [t.solution for t in report.traces]

    assert chosen(solutions=["fast_*"]) == ["fast_a", "fast_b"]
    assert chosen(authors=["nobody"]) == chosen(op_types=["gemm"]) == chosen(workloads=["x*"]) == []


def test_settings_layers(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    layers = {
        "defaults": {"iterations": 7, "rtol": 0.5},
        "op_types": {"moe": {"rtol": 0.25}},
        "definitions": {"d": {"atol": 1}},
    }
    file.write_text(json.dumps(layers))
    loaded = SettingsLayers.load(file, {"trials": 9})
    found = loaded.for_definition("d", "moe", {"atol": 0.125})
    assert (found.iterations, found.rtol, found.atol, found.trials) == (7, 0.25, 1, 9)
    assert loaded.for_definition("e", "moe", {"atol": 0.125}).atol == 0.125
    assert loaded.for_definition("e", "norm").rtol == 0.5


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"speed": 1}, "no setting is called 'speed'"),
        ({"iterations": 1.5}, "iterations must be int"),
        ({"iterations": True}, "iterations must be int"),
        ({"iterations": 0}, "at least 1"),
        ({"timeout_s": -1}, "more than 0"),
        ({"rtol": -1}, "0 or more"),
        ({"rtol": float("nan")}, "0 or more"),
        ({"required_matched_ratio": 2.0}, r"\(0, 1\]"),
    ],
)
def test_bad_settings(values: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Settings().with_values(values, "command line")


def test_bad_settings_files(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    for text in ("{", "[]", '{"defaults": 1}'):
        file.write_text(text)
        with pytest.raises(BenchError):
            SettingsLayers.load(file)
    file.write_text('{"default": {}}')
    with pytest.raises(UsageError, match="unknown part 'default'"):
        SettingsLayers.load(file)


def test_devices() -> None:
    assert find_devices(["cpu", "cpu"]) == ["cpu"]
    for name in ("gpu", "cuda:x", "cpu:1"):
        with pytest.raises(UsageError, match="unknown device"):
            find_devices([name])
    with pytest.raises(DeviceError, match="is not here"):
        find_devices(["cuda:99"])


def test_builders_can_be_registered(tmp_path: Path) -> None:
    class Backwards(CppBuilder):
        name = "backwards"

        def missing(self, solution: Solution, context: Any) -> str | None:
            return "nothing can build this"

    register(Backwards())
    try:
        candidate = solution(CPP, language="cpp", file="k.cpp")
        assert builder_for(candidate).name == "backwards"
        data = TraceSet([SCALE], [workload(SCALE, n=8)], [candidate])
        report = run_benchmark(data, devices=["cpu"], command_line=QUICK, cache=tmp_path)
        assert report.skipped == [("candidate", "nothing can build this")]
        with pytest.raises(UsageError, match="registered already"):
            register(Backwards())
    finally:
        unregister("backwards")
    assert [b.name for b in registered()] == ["python", "triton", "cpp", "cuda"]


def test_landlock_is_enough_where_namespaces_are_refused(tmp_path: Path) -> None:
    from eventide.bench import sandbox

    if sandbox.available("landlock") is not None:
        pytest.skip("this kernel has no Landlock")
    data = TraceSet([SCALE], [workload(SCALE, n=SIZE)], [solution(HONEST)])
    report = run_benchmark(data, devices=["cpu"], command_line=QUICK, cache=tmp_path, sandbox_method="landlock")
    [trace] = report.traces
    assert trace.passed and trace.evaluation is not None and trace.evaluation.eventide is not None
    timing = trace.evaluation.eventide.timing
    assert timing is not None and timing.method["sandbox"] == "landlock"


@pytest.mark.slow
def test_repeated_runs_agree_within_their_intervals(tmp_path: Path) -> None:
    # longer runs of a kernel that takes longer, with all samples: benchmarks/bench_gpu/agreement.py
    from itertools import pairwise

    from eventide.bench.timing import estimate

    copies = [solution(HONEST, name=f"run-{number}") for number in range(101)]
    settings = {**QUICK, "trials": 2, "iterations": 8, "correctness_rounds": 1}
    data = TraceSet([SCALE], [workload(SCALE, n=SIZE)], copies)
    report = run_benchmark(data, devices=["cpu"], command_line=settings, cache=tmp_path)
    found = []
    for trace in report.traces:
        assert trace.evaluation is not None and trace.evaluation.eventide is not None
        timing = trace.evaluation.eventide.timing
        if trace.passed and timing is not None and timing.samples_ms is not None:
            found.append(estimate(timing.samples_ms))
    # a machine that is busy voids a run now and then; that is no disagreement
    pairs = [a.overlaps(b) for a, b in pairwise(found)]
    assert len(found) >= 95 and sum(pairs) >= 0.95 * len(pairs), f"{sum(pairs)} of {len(pairs)} pairs agree"


def test_several_devices_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two threads with processes, pipes and arenas of their own, as with two GPUs
    monkeypatch.setattr("eventide.bench.runner.run.find_devices", lambda names: ["cpu", "cpu"])
    definitions, works, candidates = [], [], []
    for number in range(4):
        record = {**SCALE.model_dump(exclude_none=True), "name": f"scale_{number}"}
        record["reference"] = f"def run(x, y):\n    return x * {number} + y\n"
        of = Definition.model_validate(record)
        definitions.append(of)
        works.append(workload(of, uuid=f"w-{number}", n=256))
        for wrong in (False, True):
            body = f"def run(x, y, z):\n    z[:] = x * {number + wrong} + y\n"
            candidates.append(solution(body, name=f"s_{number}_{wrong}", definition=of))
    data = TraceSet(definitions, works, candidates).save(tmp_path / "data")
    report = run_benchmark(data, command_line=QUICK, cache=tmp_path / "cache")
    found = {t.solution: str(t.evaluation.status) for t in report.traces if t.evaluation}
    expected = {True: "INCORRECT_NUMERICAL", False: "PASSED"}
    assert found == {f"s_{n}_{wrong}": expected[wrong] for n in range(4) for wrong in (False, True)}
    again = TraceSet.load(tmp_path / "data")
    assert sum(len(again.traces[of.name]) for of in definitions) == 8


@needs_compiler
def test_a_compiler_that_does_not_end_is_ended(tmp_path: Path) -> None:
    source = """
    template <int N, int M> struct F { static const long v = F<N - 1, M>::v + F<N - 1, M + 1>::v; };
    template <int M> struct F<0, M> { static const long v = M; };
    extern "C" int run() { return F<800, 0>::v > 0; }
    """
    result = measure(solution(source, language="cpp", file="k.cpp"), tmp_path, build_timeout_s=2.0)
    assert str(result.status) == "COMPILE_ERROR" and "did not end within 2 s" in reason(result)


EXAMPLE = Path(__file__).parents[2] / "examples" / "bench_dataset"


@needs_compiler
def test_the_example_data_set_runs(tmp_path: Path) -> None:
    # every solution once, on one workload of its definition; the cheat among them is found
    stored = TraceSet.load(EXAMPLE)
    solutions = [stored.get_solution(name) for name in stored.solution_names]
    data = TraceSet(stored.definitions.values(), stored.all_workloads(), solutions)
    one = Selection(max_workloads=1)
    report = run_benchmark(data, devices=["cpu"], selection=one, command_line=QUICK, cache=tmp_path)
    assert not report.skipped
    failed = {t.solution for t in report.traces if not t.passed}
    assert len(report.traces) == 9 and failed == {"top_p_sampling_argmax"}


def test_orders_that_call_nothing_leave_returned_values_alone(tmp_path: Path) -> None:
    # a batch of empty orders once left None where two results were expected
    from eventide.bench.worker.arrays import Arena, TensorInfo, lay_out
    from eventide.bench.worker.host import HostSide
    from eventide.bench.worker.load import Loaded

    inputs, size = lay_out([TensorInfo("x", "float32", (4,))], 2)
    outputs, out_size = lay_out([TensorInfo("y", "float32", (4,)), TensorInfo("z", "float32", (4,))], 2)
    arenas = (Arena.create("in", size), Arena.create("out", out_size))
    side = HostSide(
        Loaded(lambda x: (x + 1, x + 2), "objects"),
        "numpy",
        inputs,
        outputs,
        arenas,
        slots=2,
        destination_passing=False,
    )
    empty = {"slots": [0, 1], "repeat": 3, "null": True}
    side.go(empty)  # before anything was called
    side.go({"slots": [0, 1], "repeat": 2})
    for order in (empty, {**empty, "slots": [0], "repeat": 1}, empty):
        side.go(order)
        side.inspect({"slot": 0})
        assert (arenas[1].view(outputs[0], 1) == 1).all() and (arenas[1].view(outputs[1], 0) == 2).all()
