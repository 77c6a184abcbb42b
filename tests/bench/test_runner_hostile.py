"""Solutions that try to look faster or better than they are, or to harm the run: none may be PASSED, one test each.

One file, though a long one: it is the list of what has been thought of, to be read from top to bottom.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from eventide.bench import Definition, Evaluation, sandbox

from .runner_kit import HONEST, measure, reason, solution, workload

GOOD_HELPER = """
import numpy as np
def right(x, y):
    return (x * np.float32(2) + y).astype(np.float32)
"""


def attack(source: str, tmp_path: Path, **options: object) -> Evaluation:
    returns = bool(options.pop("returns", False))
    code = GOOD_HELPER + textwrap.dedent(source)
    result = measure(solution(code, returns=returns), tmp_path / "cache", **options)  # type: ignore[arg-type]
    assert str(result.status) != "PASSED"
    return result


def test_honest_solution_passes(tmp_path: Path) -> None:
    result = measure(solution(HONEST), tmp_path / "cache")
    assert str(result.status) == "PASSED", result.log


def test_cache_by_pointer(tmp_path: Path) -> None:
    result = attack(
        """
        seen = {}
        def run(x, y, z):
            key = (x.ctypes.data, y.ctypes.data)
            if key not in seen:
                seen[key] = right(x, y)
            z[:] = seen[key]
        """,
        tmp_path,
    )
    assert str(result.status) == "INCORRECT_NUMERICAL"


def test_cache_by_shape(tmp_path: Path) -> None:
    result = attack(
        """
        seen = {}
        def run(x, y):
            if x.shape not in seen:
                seen[x.shape] = right(x, y)
            return seen[x.shape]
        """,
        tmp_path,
        returns=True,
    )
    assert str(result.status) == "INCORRECT_NUMERICAL"


def test_returns_the_last_output(tmp_path: Path) -> None:
    result = attack(
        """
        calls, last = 0, None
        def run(x, y):
            global calls, last
            calls += 1
            if calls <= 4:          # right while correctness is looked at, then lazy
                last = right(x, y)
            return last
        """,
        tmp_path,
        returns=True,
    )
    assert str(result.status) == "INCORRECT_NUMERICAL"


def test_keeps_what_it_finds_in_the_output(tmp_path: Path) -> None:
    result = attack("def run(x, y, z):\n    pass\n", tmp_path)
    assert str(result.status) == "INCORRECT_NUMERICAL" and "not written" in reason(result)


def test_constant_output_within_the_limits(tmp_path: Path) -> None:
    # limits wider than the values: only the missing dependence on the inputs gives it away
    result = attack("def run(x, y, z):\n    z[:] = 0\n", tmp_path, atol=1e3, rtol=1e3)
    assert str(result.status) == "INCORRECT_NUMERICAL" and "constant or cached" in reason(result)


SOFTMAX = Definition.model_validate(
    {
        "name": "softmax",
        "op_type": "softmax",
        "axes": {"rows": {"type": "var"}, "n": {"type": "const", "value": 4096}},
        "inputs": {"x": {"shape": ["rows", "n"], "dtype": "float32"}},
        "outputs": {"y": {"shape": ["rows", "n"], "dtype": "float32"}},
        "reference": "import numpy as np\n\ndef run(x):\n    e = np.exp(x / 4)\n    return e / e.sum(-1, keepdims=True)\n",
    }
)


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ("y[:] = np.abs(x) * 1e-4", False),  # anything below the absolute limit, as long as it varies
        ("e = np.exp(x / 4); y[:] = e / e.sum(-1, keepdims=True) * 1.002", True),
    ],
)
def test_values_that_all_lie_below_the_absolute_limit(tmp_path: Path, body: str, passes: bool) -> None:
    code = f"import numpy as np\n\ndef run(x, y):\n    {body}\n"
    candidate = solution(code, definition=SOFTMAX)
    result = measure(candidate, tmp_path / "cache", definition=SOFTMAX, work=workload(SOFTMAX, rows=4))
    assert str(result.status) == ("PASSED" if passes else "INCORRECT_NUMERICAL"), reason(result)


SAMPLING = Definition.model_validate(
    {
        "name": "sampling_from_probs",
        "op_type": "sampling",
        "axes": {"rows": {"type": "var"}, "vocab_size": {"type": "const", "value": 500}},
        "inputs": {"probs": {"shape": ["rows", "vocab_size"], "dtype": "float32"}},
        "outputs": {"samples": {"shape": ["rows"], "dtype": "int64"}},
        "reference": (
            "import numpy as np\n\ndef run(probs):\n    c = probs.cumsum(-1)\n"
            "    return (c < np.random.rand(len(c), 1) * c[:, -1:]).sum(-1).astype(np.int64)\n"
        ),
    }
)
DRAW = "c = probs.cumsum(-1); samples[:] = (c < np.random.rand(len(c), 1) * c[:, -1:]).sum(-1)"


@pytest.mark.parametrize(
    ("lazy", "passes"),
    [
        (DRAW, True),
        ("samples[:] = probs.argmax(-1)", False),  # always a possible token
        ("samples[:] = np.argsort(probs, -1)[:, -120]", False),
    ],
)
def test_samples_only_where_the_distribution_is_tested(tmp_path: Path, lazy: str, passes: bool) -> None:
    """The rows of the test of distribution have few tokens and are all alike: easily told from a workload's own."""
    code = (
        "import numpy as np\nnp.random.seed(1)\n\ndef run(probs, samples):\n"
        f"    if np.count_nonzero(probs[0]) < 50:\n        {DRAW}\n    else:\n        {lazy}\n"
    )
    candidate = solution(code, definition=SAMPLING)
    result = measure(candidate, tmp_path / "cache", definition=SAMPLING, work=workload(SAMPLING, rows=16))
    assert str(result.status) == ("PASSED" if passes else "INCORRECT_NUMERICAL"), reason(result)


def test_late_write_from_a_thread(tmp_path: Path) -> None:
    attack(
        """
        import threading, time
        def work(x, y, z):
            time.sleep(0.001)
            z[:] = right(x, y)
        def run(x, y, z):
            threading.Thread(target=work, args=(x, y, z)).start()
        """,
        tmp_path,
    )


def test_work_left_unsynchronised(tmp_path: Path) -> None:
    attack(
        """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        def work(x, y, z):
            for _ in range(200):
                value = right(x, y)
            z[:] = value
        def run(x, y, z):
            pool.submit(work, x, y, z)
        """,
        tmp_path,
    )


def test_right_at_first_and_overwritten_later(tmp_path: Path) -> None:
    result = attack(
        """
        import threading, time
        def spoil(z):
            time.sleep(0.001)
            z[:] = 0
        def run(x, y, z):
            z[:] = right(x, y)
            threading.Thread(target=spoil, args=(z,)).start()
        """,
        tmp_path,
    )
    assert "after the call had returned" in reason(result) or str(result.status) == "INCORRECT_NUMERICAL"


METHODS = ["namespaces", "landlock"]


def needs(method: sandbox.Method) -> None:
    why = sandbox.available(method)
    if why is not None:
        pytest.skip(f"{method} does not work here: {why}")


@pytest.mark.parametrize("method", METHODS)
def test_looks_for_the_reference_on_disk(tmp_path: Path, method: sandbox.Method) -> None:
    needs(method)
    root = tmp_path / "data"
    result = attack(
        f"""
        import json, os, sys
        found = None
        for top in ({str(root)!r}, {str(tmp_path)!r}, "/tmp", "/dev/shm", "/var/tmp"):
            for folder, _, files in os.walk(top):
                for name in files:
                    path = os.path.join(folder, name)
                    if os.path.abspath(path) == os.path.abspath(__file__) or path.startswith(sys.prefix):
                        continue
                    try:
                        text = open(path, errors="replace").read()
                    except OSError:
                        continue
                    if '"reference"' in text:
                        found = json.loads(text)["reference"]
                    elif "x * 2 + y" in text:
                        found = text
        space = {{}}
        if found:
            exec(found, space)
        def run(x, y, z):
            z[:] = space["run"](x, y) if found else 0
        """,
        tmp_path,
        root=root,
        sandbox_method=method,
    )
    assert str(result.status) == "INCORRECT_NUMERICAL"


@pytest.mark.parametrize("method", METHODS)
def test_looks_for_the_expected_output_in_memory(tmp_path: Path, method: sandbox.Method) -> None:
    needs(method)
    result = attack(
        """
        import gc, mmap, os, sys
        def hunt(x, y):
            # arrays of this process, open memory files, other processes' memory
            for thing in gc.get_objects():
                if isinstance(thing, np.ndarray) and thing.shape == x.shape and thing.dtype == x.dtype:
                    if thing is not x and thing is not y and np.allclose(thing[:8], right(x[:8], y[:8])):
                        return thing
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for name in os.listdir(f"/proc/{pid}/fd") if os.access(f"/proc/{pid}/fd", os.R_OK) else ():
                    try:
                        data = open(f"/proc/{pid}/fd/{name}", "rb").read(1 << 22) if "memfd" in os.readlink(
                            f"/proc/{pid}/fd/{name}") else b""
                    except OSError:
                        continue
                    place = data.find(right(x[:8], y[:8]).tobytes())
                    if place >= 0:
                        return np.frombuffer(data, np.float32, len(x), place)
                try:
                    with open(f"/proc/{pid}/mem", "rb") as memory:
                        memory.read(1)
                except OSError:
                    continue
            return None
        def run(x, y, z):
            found = hunt(x, y)
            z[:] = 0 if found is None else found
        """,
        tmp_path,
        sandbox_method=method,
    )
    assert str(result.status) == "INCORRECT_NUMERICAL"


SLOW_CLOCK = """
    import gc, sys, time
    real = time.perf_counter_ns
    def patched():
        return real() // 1000
    time.perf_counter_ns = time.perf_counter = time.monotonic_ns = patched
    for thing in gc.get_objects():          # and the harness's own reference to the clock
        if type(thing).__name__ in ("HostSide", "CudaSide"):
            thing._clock = patched
    def run(x, y, z):
        for thing in gc.get_objects():
            if type(thing).__name__ == "HostSide":
                thing._clock = patched
        end = real() + 2_000_000
        while real() < end:
            pass
        z[:] = right(x, y)
"""


def test_patches_the_timer(tmp_path: Path) -> None:
    result = attack(SLOW_CLOCK, tmp_path)
    assert str(result.status) == "RUNTIME_ERROR" and "timing void" in reason(result)


FORGER = """
    import sys, time
    def run(x, y, z):
        z[:] = right(x, y)
        time.sleep(0.003)
        frame = sys._getframe()
        while frame is not None:
            if "channel" in frame.f_locals and "message" in frame.f_locals:
                channel, message = frame.f_locals["channel"], frame.f_locals["message"]
                channel.send({"op": "go", "ns": 1000, "probe": "", "order": message["order"]})
                SILENCE
            frame = frame.f_back
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_hides_behind_threads_of_its_own(tmp_path: Path) -> None:
    """A patched clock, and decoys on the main thread's core: what the clock hides looks like waiting for the core."""
    result = attack(
        """
        import hashlib, os, threading, time
        real, shift = time.perf_counter_ns, 0
        time.perf_counter_ns = lambda: real() - shift
        cores = sorted(os.sched_getaffinity(0))
        block, begin = bytes(200_000), threading.Condition()
        state = {"busy": False}
        def decoy():
            os.sched_setaffinity(0, cores[:1])
            while True:
                with begin:
                    begin.wait_for(lambda: state["busy"])
                while state["busy"]:
                    hashlib.sha256(block)      # without the interpreter's lock
        def run(x, y, z):
            global shift
            if not state.get("threads"):
                state["threads"] = [threading.Thread(target=decoy, daemon=True) for _ in range(5)]
                os.sched_setaffinity(0, cores[1:])
                for t in state["threads"]:
                    t.start()
            os.sched_setaffinity(0, cores[:1])
            start = real()
            with begin:
                state["busy"] = True
                begin.notify_all()
            for _ in range(8):
                hashlib.sha256(block * 10)     # the work, 8 times as long as it is claimed to be
            z[:] = right(x, y)
            state["busy"] = False
            shift += int((real() - start) * 0.8)
        """,
        tmp_path,
        iterations=8,
    )
    assert "timing void" in reason(result), result.log


def test_answers_in_the_harness_name(tmp_path: Path) -> None:
    result = attack(FORGER.replace("SILENCE", ""), tmp_path)
    assert "tampered" in reason(result) or "after the call had returned" in reason(result)


def test_takes_over_the_channel(tmp_path: Path) -> None:
    # it swallows the harness's own answers, so that only the runner's clock can tell
    takeover = """
                if not hasattr(channel, "own"):
                    channel.own = channel.send
                    type(channel).send = lambda self, text, fds=(): None if "order" in text else None
    """
    source = FORGER.replace("SILENCE", takeover).replace("channel.send({", "getattr(channel, 'own', channel.send)({")
    result = attack(source, tmp_path, timeout_s=3.0)
    assert str(result.status) in ("RUNTIME_ERROR", "TIMEOUT", "INCORRECT_NUMERICAL")


LIES = {
    "a status": {"op": "failed", "stage": "go", "status": "PASSED", "log": ""},
    "an unknown status": {"op": "failed", "stage": "go", "status": "SPLENDID", "log": "x"},
    "no time at all": {"op": "go", "ns": 0, "probe": ""},
    "a negative time": {"op": "go", "ns": -5, "probe": ""},
    "an endless time": {"op": "go", "ns": 10**30, "probe": ""},
    "a time that is text": {"op": "go", "ns": "fast", "probe": ""},
    "a probe that is none": {"op": "go", "ns": 1000, "probe": 7},
    "nothing": {},
}


@pytest.mark.parametrize("lie", list(LIES))
def test_lies_to_the_runner(tmp_path: Path, lie: str) -> None:
    source = FORGER.replace("SILENCE", "").replace('{"op": "go", "ns": 1000, "probe": "",', f"{{**{LIES[lie]!r},")
    result = attack(source, tmp_path)
    assert str(result.status) == "RUNTIME_ERROR"


def test_sends_what_cannot_be_parsed(tmp_path: Path) -> None:
    source = FORGER.replace("SILENCE", "").replace("channel.send(", 'channel.sock.send(b"[" * 90000) or (')
    assert str(attack(source, tmp_path).status) == "RUNTIME_ERROR"


def test_error_text_that_no_record_can_hold(tmp_path: Path) -> None:
    result = attack(
        "def run(x, y, z):\n    raise ValueError('\\ud800 \\x1b[2J bad')\n", tmp_path, root=tmp_path / "data"
    )
    assert str(result.status) == "RUNTIME_ERROR" and "bad" in reason(result) and "\x1b" not in result.log


def test_patches_the_comparison(tmp_path: Path) -> None:
    result = attack(
        """
        import builtins, sys
        yes = lambda *a, **k: True
        np.allclose = np.array_equal = np.isclose = np.testing.assert_allclose = yes
        np.abs = lambda a: np.zeros_like(a)
        for name, module in list(sys.modules.items()):
            for attribute in ("compare", "check", "evaluator_for", "allclose"):
                if hasattr(module, attribute):
                    setattr(module, attribute, yes)
        def run(x, y, z):
            z[:] = 1
        """,
        tmp_path,
    )
    assert str(result.status) == "INCORRECT_NUMERICAL"


def test_mutates_an_input(tmp_path: Path) -> None:
    result = attack("def run(x, y, z):\n    z[:] = right(x, y)\n    x[0] = 1\n", tmp_path)
    assert str(result.status) == "RUNTIME_ERROR" and "read-only" in reason(result)


def test_mutates_an_input_through_its_address(tmp_path: Path) -> None:
    result = attack(
        """
        import ctypes
        def run(x, y, z):
            z[:] = right(x, y)
            page = x.ctypes.data & ~4095
            ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), 4096, 3)
            ctypes.memset(x.ctypes.data, 0, 4)
        """,
        tmp_path,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "SIGSEGV" in reason(result)


def test_forks(tmp_path: Path) -> None:
    result = attack(
        """
        import os
        def run(x, y, z):
            try:
                if os.fork() == 0:
                    os._exit(0)
            except OSError:
                pass
            z[:] = right(x, y)
        """,
        tmp_path,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "SIGSYS" in reason(result)


def test_leaves_a_process_behind_while_it_may_compile(tmp_path: Path) -> None:
    # a source that says torch.compile may start processes until it is warm
    result = attack(
        """
        import subprocess
        child = subprocess.Popen(["sleep", "60"])   # beside something like torch.compile
        def run(x, y, z):
            z[:] = right(x, y)
        """,
        tmp_path,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "process" in reason(result)


def test_opens_a_socket(tmp_path: Path) -> None:
    result = attack(
        """
        import socket
        def run(x, y, z):
            try:
                socket.create_connection(("127.0.0.1", 80), timeout=1)
            except OSError:
                pass
            z[:] = right(x, y)
        """,
        tmp_path,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "SIGSYS" in reason(result)


def test_fills_memory(tmp_path: Path) -> None:
    result = attack(
        """
        import time
        hoard = []
        def run(x, y, z):
            while True:
                hoard.append(np.ones(1 << 22))
                time.sleep(0.001)
        """,
        tmp_path,
        memory_bytes=512 << 20,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "MiB of memory" in reason(result)


def test_segfaults(tmp_path: Path) -> None:
    result = attack("import ctypes\ndef run(x, y, z):\n    ctypes.string_at(0)\n", tmp_path)
    assert str(result.status) == "RUNTIME_ERROR" and "SIGSEGV" in reason(result)


@pytest.mark.parametrize("body", ["while True: pass", "import time; time.sleep(1000)"])
def test_hangs(tmp_path: Path, body: str) -> None:
    source = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndef run(x, y, z):\n    {body}\n"
    result = attack(source, tmp_path, timeout_s=1.5)
    assert str(result.status) == "TIMEOUT"


def test_hangs_while_it_is_imported(tmp_path: Path) -> None:
    result = attack("while True: pass\ndef run(x, y, z): pass\n", tmp_path, timeout_s=1.5)
    assert str(result.status) == "TIMEOUT"


def test_prints_gigabytes(tmp_path: Path) -> None:
    result = attack(
        """
        import os
        line = b"x" * 65536
        def run(x, y, z):
            z[:] = right(x, y)
            for _ in range(1 << 15):
                os.write(1, line)
        """,
        tmp_path,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "printed more" in reason(result)
    assert len(result.log) < 100_000


@pytest.mark.parametrize("body", ["import os; os._exit(0)", "import sys; sys.exit(0)", "raise KeyboardInterrupt"])
def test_exits_early(tmp_path: Path, body: str) -> None:
    result = attack(f"def run(x, y, z):\n    z[:] = right(x, y)\n    {body}\n", tmp_path)
    assert str(result.status) == "RUNTIME_ERROR"


def test_writes_nan(tmp_path: Path) -> None:
    result = attack("def run(x, y, z):\n    z[:] = right(x, y)\n    z[-1] = np.nan\n", tmp_path)
    assert str(result.status) == "INCORRECT_NUMERICAL" and "NaN" in reason(result)


def test_returns_a_lazy_array(tmp_path: Path) -> None:
    result = attack(
        """
        class Lazy(np.ndarray):
            pass
        def run(x, y):
            return right(x, y).view(Lazy)
        """,
        tmp_path,
        returns=True,
    )
    assert str(result.status) == "INCORRECT_DTYPE"


@pytest.mark.parametrize("method", METHODS)
def test_kills_everything_it_can_reach(tmp_path: Path, method: sandbox.Method) -> None:
    needs(method)
    result = attack(
        """
        import os, signal
        def run(x, y, z):
            z[:] = right(x, y)
            for pid in (os.getppid(), -1, os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        """,
        tmp_path,
        sandbox_method=method,
    )
    assert str(result.status) == "RUNTIME_ERROR" and "SIGKILL" in reason(result)


def test_one_bad_solution_costs_only_itself(tmp_path: Path) -> None:
    from eventide.bench import TraceSet
    from eventide.bench.runner import run_benchmark

    from .runner_kit import QUICK, SCALE, SIZE, workload

    names = {"crash": "import os\ndef run(x, y, z): os.abort()\n", "hang": "def run(x, y, z):\n    while True: pass\n"}
    bad = [solution(text, name=name) for name, text in names.items()]
    data = TraceSet([SCALE], [workload(SCALE, n=SIZE)], [*bad, solution(HONEST, name="honest")])
    report = run_benchmark(data, devices=["cpu"], command_line={**QUICK, "timeout_s": 4.0}, cache=tmp_path)
    statuses = {t.solution: str(t.evaluation.status) for t in report.traces if t.evaluation}
    assert statuses == {"crash": "RUNTIME_ERROR", "hang": "TIMEOUT", "honest": "PASSED"}
