"""Stopping launches: Ctrl-C, `stop` from another thread, errors in callbacks; two launches at once; threads at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from eventide.backends.cpu import CpuKernel, choose_isa
from eventide.engine.steps import Chunk, make_step
from eventide.errors import PlanError, ProgramError, UsageError

from . import decoders as d


def kernel_and_loop(layers: int = 1) -> tuple[CpuKernel, Callable[..., object]]:
    c = d.config(num_layers=layers)
    plan = d.plan_of(c)
    kernel = d.cpu_kernel(plan, d.random_weights(plan, c), d.prompts(c))
    step = make_step(d.LIMITS, [Chunk(0, 5, 1)], d.TILE_QUERIES)
    kernel.run([make_step(d.LIMITS, [Chunk(0, 0, 5)], d.TILE_QUERIES)])
    return kernel, lambda n, **kw: kernel.run_loop(step.symbols, step.inputs, n, keep=["next_token"], **kw)


def test_ctrl_c_ends_a_launch_promptly_and_the_kernel_goes_on() -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from tests.backends.test_cpu_control import kernel_and_loop
        kernel, loop = kernel_and_loop()
        expected = loop(3).outputs["next_token"].tolist()
        print("ready", flush=True)
        try:
            loop(300_000)
        except KeyboardInterrupt:
            print("interrupted", kernel.steps_done > 0, loop(3).outputs["next_token"].tolist() == expected, flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted True True\n"
        assert time.monotonic() - start < 5.0  # 50 ms on an idle machine


def test_stop_from_another_thread() -> None:
    kernel, loop = kernel_and_loop()
    done: list[object] = []
    # steps are laid out before the first one runs, 60 µs each
    thread = threading.Thread(target=lambda: done.append(loop(30_000)))
    thread.start()
    while kernel.steps_done < 5:
        time.sleep(0.001)
    kernel.stop()
    thread.join(20)
    assert not thread.is_alive() and len(done) == 1 and kernel.steps_done < 30_000


def test_an_error_in_a_callback_ends_the_launch_and_is_raised() -> None:
    kernel, loop = kernel_and_loop()

    def fail(done: int, outputs: object) -> None:
        if done == 4:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        loop(100, on_progress=fail)
    assert kernel.steps_done == 4


def test_two_launches_at_once_are_refused() -> None:
    _, loop = kernel_and_loop()

    def again(done: int, outputs: object) -> bool:
        with pytest.raises(PlanError, match="running already"):
            loop(1)
        return True

    loop(10, on_progress=again)


def test_threads_end_with_their_kernel() -> None:
    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    c = d.config(num_layers=1)
    kernels = [CpuKernel(d.plan_of(c, workers=4)) for _ in range(3)]
    assert threads() == before + 9
    kernels.clear()
    assert threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_runs_nor_hangs() -> None:
    kernel, loop = kernel_and_loop()
    child = os.fork()
    if not child:
        code = 1
        try:
            loop(1)
        except PlanError as e:
            code = 0 if "make kernels after forking" in str(e) else 2
        del loop, kernel
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loop(1)


def test_more_workers_than_cores_and_pinned_ones() -> None:
    c = d.config(num_layers=1)
    steps = d.mixed_steps(4, 4)
    results = []
    for workers, pin in ((1, False), (2, True), (16, False)):
        plan = d.plan_of(c, workers=workers)
        results.append(d.cpu_kernel(plan, d.random_weights(plan, c), d.prompts(c), pin=pin).run(steps))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            d.same_bits(a, b)


def test_bad_arguments() -> None:
    c = d.config(num_layers=1)
    plan = d.plan_of(c)
    kernel = CpuKernel(plan)
    step = make_step(d.LIMITS, [Chunk(0, 0, 5)], d.TILE_QUERIES)
    with pytest.raises(ProgramError, match="weight 'embed_tokens' of plan 'Qwen3ForCausalLM' was not given"):
        kernel.run([step])
    for name, array in d.random_weights(plan, c).items():
        with pytest.raises(ProgramError, match=f"weight '{name}': expected shape"):
            kernel.bind_weights(name, array[:-1])
        kernel.bind_weights(name, array)
    with pytest.raises(ProgramError, match="weight 'norm': expected dtype float32, got float64"):
        kernel.bind_weights("norm", np.ones(48))
    with pytest.raises(ProgramError, match="has no weight 'nrom'; it has: "):
        kernel.bind_weights("nrom", np.ones(48, np.float32))
    with pytest.raises(ProgramError, match="state 'tokens' must be C-contiguous and writable"):
        kernel.bind_state("tokens", np.zeros((65, 4), np.int32).T)
    with pytest.raises(ProgramError, match=r"input 'pos': expected shape \(5,\), got \(4,\)"):
        kernel.run([type(step)(step.symbols, {**step.inputs, "pos": step.inputs["pos"][:4]})])
    with pytest.raises(ProgramError, match="input 'seed' of plan 'Qwen3ForCausalLM' was not given"):
        kernel.run([type(step)(step.symbols, {k: v for k, v in step.inputs.items() if k != "seed"})])
    with pytest.raises(ProgramError, match=r"symbol 'num_tokens' must be in \[1, 40\], got 41"):
        kernel.run([type(step)({**step.symbols, "num_tokens": 41}, step.inputs)])
    with pytest.raises(ProgramError, match="has no input 'poss' to be stacked"):
        kernel.run_loop(step.symbols, step.inputs, 2, stacked=["poss"])
    with pytest.raises(ProgramError, match="scheduled for 2 workers, got num_threads=3"):
        CpuKernel(plan, num_threads=3)


def test_instruction_sets_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVENTIDE_CPU_ISA", raising=False)
    assert choose_isa("portable") == "portable"
    monkeypatch.setenv("EVENTIDE_CPU_ISA", "portable")
    assert choose_isa() == "portable"
    monkeypatch.setenv("EVENTIDE_CPU_ISA", "neon")
    with pytest.raises(UsageError, match="expected one of portable, avx2, avx512, avx512bf16, got 'neon'"):
        choose_isa()
    with pytest.raises(UsageError, match="this processor cannot run CPU code for 'sse9'"):
        choose_isa("sse9")
