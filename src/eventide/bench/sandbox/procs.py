"""What the kernel tells about other processes: their tree, memory, state and waits. Reads /proc, never raises.

A process that is gone reads as empty, stopped for good and of no memory.
"""

from __future__ import annotations

import os
import time


def read(path: str) -> str:
    """The text of a file of /proc, empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


_SCHEDULER_CLOCK = 2  # clock_getcpuclockid(3) of a process, in nanoseconds
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")  # a kernel option


def _stat(pid: int) -> list[str]:
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def state(pid: int) -> str:
    """One letter: R running, S sleeping, T stopped, Z ended but not reaped, X gone."""
    return (_stat(pid) or ["X"])[0]


def parent(pid: int) -> int:
    """Pid of the parent, 0 when the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else 0


def children(pid: int) -> list[int]:
    """Direct children."""
    if not _HAS_CHILDREN:
        everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [other for other in everyone if parent(other) == pid]
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # a child belongs to the thread that made it
    except OSError:
        return []
    return [int(p) for thread in threads for p in read(f"/proc/{pid}/task/{thread}/children").split()]


def descendants(pid: int) -> list[int]:
    """Everything below `pid`."""
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def command_line(pid: int) -> str:
    """Arguments of the process, joined by zero bytes."""
    return read(f"/proc/{pid}/cmdline")


def own_memory(pid: int) -> int:
    """Resident bytes that are the process's own or shared memory; mapped files such as libraries do not count."""
    total = 0
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            total += int(line.split()[1]) << 10
    return total


def waited_ns(pid: int) -> int:
    """How long the main thread has waited for a core so far; 0 where the kernel keeps no account."""
    fields = read(f"/proc/{pid}/schedstat").split()
    return int(fields[1]) if len(fields) > 1 else 0


def other_threads_ns(pid: int) -> int:
    """Time on a core of all threads, ended ones too, but the main one; 0 where it cannot be told."""
    fields = read(f"/proc/{pid}/schedstat").split()
    try:
        whole = time.clock_gettime_ns((~pid << 3) | _SCHEDULER_CLOCK)
    except OSError:
        return 0
    return max(0, whole - int(fields[0])) if fields else 0
