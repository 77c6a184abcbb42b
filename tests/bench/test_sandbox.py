"""The confinement itself: what a process inside it can see, reach and use, for each method that this machine offers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventide.bench import sandbox
from eventide.bench.sandbox import procs, seccomp
from eventide.errors import BenchError

PROBE = """
import json, os, socket, sys
root, secret, scratch = sys.argv[1:4]
found = {}
def attempt(name, action):
    try:
        found[name] = repr(action())
    except OSError as error:
        found[name] = type(error).__name__
attempt("read hidden", lambda: open(secret).read())
attempt("list hidden", lambda: sorted(os.listdir(root)))
attempt("write scratch", lambda: open(scratch + "/x", "w").write("1"))
for folder in ("/etc", "/usr", os.path.dirname(os.__file__)):
    attempt("write " + ("lib" if "python" in folder else folder), lambda: open(folder + "/eventide-test", "w"))
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("ptrace memory", lambda: open(f"/proc/{sys.argv[4]}/mem", "rb").read(1))
attempt("signal outside", lambda: os.kill(int(sys.argv[4]), 0))
attempt("memfd", lambda: os.memfd_create("x"))
found["caps"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]
print(json.dumps(found))
"""


def needs(method: sandbox.Method) -> None:
    why = sandbox.available(method)
    if why is not None:
        pytest.skip(f"{method} does not work here: {why}")


def confined(method: sandbox.Method, code: str, *arguments: str, **policy: Any) -> subprocess.CompletedProcess[str]:
    command = sandbox.command([sys.executable, "-c", code, *arguments], sandbox.Policy(method=method, **policy))
    return subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)


@pytest.mark.parametrize("method", ["namespaces", "landlock"])
def test_what_a_confined_process_can_do(method: sandbox.Method, tmp_path: Path) -> None:
    needs(method)
    root, scratch = tmp_path / "data", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    secret = root / "secret.json"
    secret.write_text("the reference")
    outside = subprocess.Popen(["sleep", "60"])
    try:
        done = confined(
            method,
            PROBE,
            str(root),
            str(secret),
            str(scratch),
            str(outside.pid),
            hide=(str(root),),
            writable=(str(scratch),),
        )
    finally:
        outside.kill()
        outside.wait()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["read hidden"] in ("FileNotFoundError", "PermissionError")
    assert found["list hidden"] in ("[]", "FileNotFoundError", "PermissionError")
    assert found["write scratch"] == "1" and (scratch / "x").read_text() == "1"
    assert found["write /etc"] in ("OSError", "PermissionError")
    assert found["write /usr"] in ("OSError", "PermissionError")
    assert found["write lib"] in ("OSError", "PermissionError")
    assert found["unix socket"] == "PermissionError"
    assert found["ptrace memory"] in ("FileNotFoundError", "PermissionError")
    assert found["memfd"] == "PermissionError"
    assert int(found["caps"][0], 16) == 0
    assert found["signal outside"] == {"namespaces": "ProcessLookupError", "landlock": "PermissionError"}[method]


@pytest.mark.parametrize("method", ["namespaces", "landlock", "none"])
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_VSOCK", "AF_PACKET"])
def test_no_socket_of_any_network(method: sandbox.Method, family: str) -> None:
    needs(method)
    done = confined(method, f"import socket; socket.socket(socket.{family}, socket.SOCK_RAW)")
    assert done.returncode == 128 + 31  # SIGSYS


NATIVE = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
REFUSED = {
    "libc.ptrace(0, 0, 0, 0)": 1,
    "libc.unshare(0x10000000)": 1,
    "libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0)": 1,
    "libc.syscall(425, 8, 0)": 38,
    "libc.setsid()": 1,
}


@pytest.mark.parametrize("call", list(REFUSED))
def test_refused_system_calls(call: str) -> None:
    done = confined(sandbox.choose(), f"{NATIVE}assert ({call}, ctypes.get_errno()) == (-1, {REFUSED[call]})")
    assert done.returncode == 0, done.stderr


THREAD = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n"


@pytest.mark.parametrize("code", [THREAD, "import subprocess\nsubprocess.run(['true'], check=True)"])
def test_threads_and_compilers_may_start_before_the_lock(code: str) -> None:
    done = confined(sandbox.choose(), code)
    assert done.returncode == 0, done.stderr


AFTER_LOCK = {
    "import os\nos.fork()": 128 + 31,
    "import subprocess\nsubprocess.run(['true'])": 128 + 31,
    "import os\nos.execv('/bin/true', ['true'])": 128 + 31,
    THREAD: 0,
}


@pytest.mark.parametrize("code", list(AFTER_LOCK))
def test_no_new_process_after_the_lock(code: str) -> None:
    lock = "from eventide.bench.sandbox import seccomp\nseccomp.install(seccomp.locked_rules())\n"
    done = confined(sandbox.choose(), lock + code)
    assert done.returncode == AFTER_LOCK[code], done.stderr


def test_refuses_to_run_unconfined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "available", lambda method: "switched off for this test")
    with pytest.raises(BenchError, match=r"cannot be confined.*--unsafe"):
        sandbox.choose()
    assert sandbox.choose(unsafe=True) == "none"
    with pytest.raises(BenchError, match="confines nothing"):
        sandbox.choose(wanted="none")


def test_reports_a_setup_that_fails(tmp_path: Path) -> None:
    needs("namespaces")
    done = confined("namespaces", "print(1)", writable=(str(tmp_path / "absent"),))
    assert done.returncode == sandbox.SETUP_FAILED and "sandbox: mounts failed" in done.stderr


def test_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    assert "MY_TOKEN" not in sandbox.child_env("/tmp")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_assemble_for_both_architectures(machine: str) -> None:
    code = seccomp.assemble(seccomp.base_rules(unix_sockets=False, memfd=False), machine)
    assert len(code) % 8 == 0 and 0 < len(code) // 8 < 4096
    with pytest.raises(OSError, match="no system-call table"):
        seccomp.assemble([], "riscv64")


def test_time_of_other_threads_is_told_from_the_main_ones() -> None:
    code = (
        "import hashlib, sys, threading, time\n"
        "def work(seconds):\n"
        "    end = time.thread_time() + seconds\n"
        "    while time.thread_time() < end: hashlib.sha256(bytes(100_000))\n"
        "for _ in range(2):\n"
        "    t = threading.Thread(target=work, args=(0.15,)); t.start(); t.join()\n"  # ended threads count as well
        "if sys.argv[1] == 'both': work(0.3)\n"
        "print('done', flush=True); sys.stdin.read()\n"
    )
    for which in ("threads", "both"):
        child = subprocess.Popen(
            [sys.executable, "-c", code, which], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdout is not None and child.stdin is not None
            assert child.stdout.readline() == "done\n"
            assert 0.29e9 <= procs.other_threads_ns(child.pid) <= 0.4e9
            child.stdin.close()
    assert procs.other_threads_ns(child.pid) == 0  # gone
