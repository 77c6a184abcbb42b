"""The confinement of one process, entered from inside it: ``launch.main()`` never returns, it becomes the program.

    launcher ── own user, mount, net, ipc, uts and pid namespaces
       └── init (pid 1 of the namespace): mounts read-only, masks, new /proc, no capabilities, limits, filter
             └── the program (exec)

Two methods, one stated in the runner's records:

``namespaces``  the whole tree is remounted read-only; temporary folders and every folder in `hide` are covered by empty
                memory file systems; `writable` folders are bound back; there is no network device but a dead loopback.
``landlock``    where user namespaces are refused: reading is allowed for the system, Python and `keep` alone, writing
                for `writable` alone; the network is closed by the system-call filter and, where the kernel has it, by
                Landlock.
``none``        nothing but limits and the filter; the runner uses it only when it was told to (``--unsafe``).

Standard library only. The configuration is one JSON argument::

    {"method": "namespaces", "hide": ["/data/set"], "keep": ["/opt/venv"], "writable": ["/tmp/ev-x"], "tmp_bytes": 1e9,
     "file_bytes": 1e9, "unix_sockets": false, "memfd": false, "argv": ["python", ...], "env": {...}}
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any

from eventide.bench.sandbox import seccomp
from eventide.bench.sandbox import syscalls as sc

SETUP_FAILED = 113  # exit status of a launcher that could not confine; the reason is on standard error
_MASKED = ("/tmp", "/var/tmp", "/dev/shm", "/run/user")


def system_paths() -> list[str]:
    """What any program needs to read: used by Landlock, which has no 'everything but'."""
    return [
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/etc",
        "/opt",
        "/proc",
        "/sys",
        "/dev",
        "/nix",
        "/snap",
    ]


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _enter_namespaces() -> None:
    flags = sc.NAMESPACE_FLAGS & ~sc.CLONE_NEWCGROUP
    uid, gid = os.getuid(), os.getgid()
    sc.unshare(flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _cover(path: str, size_bytes: int) -> None:
    sc.mount("tmpfs", path, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, f"size={size_bytes},mode=1777")


def _bind(fd: int, path: str, *, directory: bool) -> None:
    if directory:
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    sc.mount(f"/proc/self/fd/{fd}", path, None, sc.MS_BIND | sc.MS_REC)


def _arrange_mounts(config: dict[str, Any]) -> None:
    """Read-only tree, covered folders, and what must stay visible bound back on top. Order matters throughout."""
    sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
    covers = [p for p in (*_MASKED, *config["hide"]) if os.path.isdir(p) and os.path.realpath(p) != "/"]
    covers = sorted({os.path.realpath(p) for p in covers}, key=len)
    covers = [p for i, p in enumerate(covers) if not any(_inside(p, q) for q in covers[:i])]
    kept = {os.path.realpath(p): False for p in config["keep"] if os.path.exists(p)}
    kept |= {os.path.realpath(p): True for p in config["writable"]}
    # the folders were opened before anything covers them
    handles = {p: os.open(p, os.O_PATH) for p in sorted(kept, key=len) if any(_inside(p, c) for c in covers)}
    for path in config["writable"]:
        real = os.path.realpath(path)
        handles.setdefault(real, os.open(real, os.O_PATH))
    is_dir = {p: os.path.isdir(p) for p in handles}
    inside = {c: [p for p in handles if _inside(p, c)] for c in covers}
    sc.set_tree_read_only("/")
    for cover in covers:
        if cover in handles:
            continue  # the whole folder is needed
        _cover(cover, int(config["tmp_bytes"]) if cover in _MASKED[:2] else 1 << 20)
    for path, fd in handles.items():
        _bind(fd, path, directory=is_dir[path])
        if kept[path]:
            sc.mount("none", path, None, sc.MS_REMOUNT | sc.MS_BIND | sc.MS_NOSUID | sc.MS_NODEV)
        else:
            sc.set_tree_read_only(path)
        os.close(fd)
    for cover in covers:
        if cover not in _MASKED and cover not in handles and not any(kept[p] for p in inside[cover]):
            sc.mount("none", cover, None, sc.MS_REMOUNT | sc.MS_BIND | sc.MS_RDONLY | sc.MS_NOSUID | sc.MS_NODEV)
    # a container masks parts of /proc and refuses a new one; other users' processes stay unreadable then
    with contextlib.suppress(OSError):
        sc.mount("proc", "/proc", "proc", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)


def _limits(config: dict[str, Any]) -> None:
    """Per-process limits. The address space is left alone: CUDA reserves terabytes of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(config["file_bytes"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when the machine runs out, the solution goes first


def _become(config: dict[str, Any]) -> None:
    sc.drop_capabilities()
    only_pid = None if config["method"] == "namespaces" else os.getpid()  # exec keeps it
    rules = seccomp.base_rules(unix_sockets=config["unix_sockets"], memfd=config["memfd"], only_pid=only_pid)
    seccomp.install(rules)
    os.chdir(config["writable"][0] if config["writable"] else "/tmp")
    argv = config["argv"]
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)  # a new set of capabilities would have cleared it
    os.execve(argv[0], argv, config["env"])


def _wait_like(pid: int) -> None:
    """Reap children until `pid` ends, then end the same way, as far as an exit status can say it."""
    while True:
        try:
            ended, status = os.wait()
        except ChildProcessError:
            os._exit(SETUP_FAILED)
        if ended == pid:
            os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _give_up(step: str, error: Exception) -> None:
    sys.stderr.write(f"sandbox: {step} failed: {error}\n")
    sys.stderr.flush()
    os._exit(SETUP_FAILED)


def _init(config: dict[str, Any]) -> None:
    """Pid 1 of the namespace: arranges what the program sees, starts it and outlives it."""
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        _arrange_mounts(config)
    except Exception as error:
        _give_up("mounts", error)
    _start(config)


def _start(config: dict[str, Any]) -> None:
    """Fork once more: the program is never pid 1, whose signals the kernel treats differently."""
    child = os.fork()
    if child == 0:
        try:
            _limits(config)
            if config["method"] == "landlock":
                readable = [*system_paths(), *config["keep"]]
                sc.landlock_restrict(readable, [*config["writable"], *_devices()])
            _become(config)
        except Exception as error:
            _give_up("confinement", error)
    # the program inherited them; held here as well, its end could not be seen
    os.closerange(3, 1 << 20)
    _wait_like(child)


def _devices() -> list[str]:
    nodes = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
    return nodes + [f"/dev/{n}" for n in os.listdir("/dev") if n.startswith("nvidia")]


def main() -> None:
    config = json.loads(sys.argv[1])
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
    if config["method"] == "namespaces":
        try:
            _enter_namespaces()
        except OSError as error:
            _give_up("namespaces", error)
        child = os.fork()
        if child == 0:
            _init(config)
        os.closerange(3, 1 << 20)
        _wait_like(child)
    _start(config)


if __name__ == "__main__":
    main()
