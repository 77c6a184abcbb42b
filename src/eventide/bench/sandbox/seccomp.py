"""System-call filters: what a solution may never do, and what it may no longer do once its timing has begun.

A filter is a list of (syscall, condition, action) written as classic BPF. Two filters exist:

    base    from the first instruction on: no sockets but Unix pairs, no io_uring (which would go round the filter), no
            tracing or reading of other processes, no mounts, namespaces, kernel modules, clocks or priorities, no
            leaving of the process group (the runner stops and kills by group).
    locked  from the moment the harness says so: no new process and no new program, threads only.

A call that a well-meaning library may try gets an error number; opening an internet socket or starting a process when
locked ends the process with SIGSYS, so that a solution which swallows the error does not pass either.

Worked example: ``assemble([("fork", None, KILL)])`` is
``ld arch; jeq x86_64; ld nr; jge x32 → kill; jeq 57 → kill; ret allow``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

from eventide.bench.sandbox.syscalls import CLONE_THREAD, NAMESPACE_FLAGS, PR_SET_NO_NEW_PRIVS, prctl, syscall

ALLOW = 0x7FFF0000
KILL = 0x80000000


def fail(code: int) -> int:
    """The action that makes a call return `-code`."""
    return 0x00050000 | code


class Condition(NamedTuple):
    """Applies when ``(argument & mask)`` is (or, with `negate`, is not) zero after subtracting `value`."""

    argument: int
    mask: int
    value: int
    negate: bool = False


Rule = tuple[str, "Condition | None", int]

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# x86_64, aarch64 (-1: the call does not exist there)
_NUMBERS: dict[str, tuple[int, int]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "fork": (57, -1), "vfork": (58, -1), "clone": (56, 220), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "kcmp": (312, 272),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432), "fsconfig": (431, 431),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "syslog": (103, 116), "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "quotactl": (179, 60), "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264), "setsid": (112, 157), "setpgid": (109, 154),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "setpriority": (141, 140),
    "shmget": (29, 194), "memfd_create": (319, 279), "mknod": (133, -1), "mknodat": (259, 33),
    "mq_open": (240, 180), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip
_FORBIDDEN = [
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_open",
    "pidfd_getfd",
    "kcmp",
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "fsconfig",
    "mount_setattr",
    "unshare",
    "setns",
    "chroot",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "reboot",
    "swapon",
    "swapoff",
    "syslog",
    "acct",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "quotactl",
    "open_by_handle_at",
    "name_to_handle_at",
    "setsid",
    "setpgid",
    "sched_setscheduler",
    "sched_setattr",
    "setpriority",
    "shmget",
    "mknod",
    "mknodat",
    "mq_open",
]
_AF_UNIX, _AF_NETLINK = 1, 16
_LOW32 = 0xFFFFFFFF


def base_rules(*, unix_sockets: bool, memfd: bool, only_pid: int | None = None) -> list[Rule]:
    """The filter in force from the start. CUDA's driver wants Unix sockets and memory files of its own.

    `only_pid` is for a process without a pid namespace: it may signal itself, and nobody else.
    """
    rules: list[Rule] = [(name, None, fail(errno.EPERM)) for name in _FORBIDDEN]
    rules += [(name, None, fail(errno.ENOSYS)) for name in ("io_uring_setup", "io_uring_enter", "io_uring_register")]
    rules.append(("socket", Condition(0, _LOW32, _AF_UNIX), ALLOW if unix_sockets else fail(errno.EACCES)))
    rules.append(("socket", Condition(0, _LOW32, _AF_NETLINK), fail(errno.EACCES)))
    rules.append(("socket", None, KILL))
    if only_pid is not None:
        itself = Condition(0, _LOW32, only_pid)
        rules += [("kill", itself, ALLOW), ("tgkill", itself, ALLOW)]
        others = ("kill", "tgkill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
        rules += [(name, None, fail(errno.EPERM)) for name in others]
    if not memfd:
        rules.append(("memfd_create", None, fail(errno.EPERM)))
    # glibc then falls back to clone, whose flags a filter can read
    rules.append(("clone3", None, fail(errno.ENOSYS)))
    rules.append(("clone", Condition(0, NAMESPACE_FLAGS, 0, negate=True), fail(errno.EPERM)))
    return rules


def locked_rules() -> list[Rule]:
    """The second filter: threads may start, processes and programs may not."""
    return [
        ("fork", None, KILL),
        ("vfork", None, KILL),
        ("execve", None, KILL),
        ("execveat", None, KILL),
        ("clone", Condition(0, CLONE_THREAD, 0), KILL),
    ]


def _op(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, jump_true, jump_false, value)


def assemble(rules: list[Rule], machine: str | None = None) -> bytes:
    """Classic BPF for `rules`, first match wins, allow otherwise. A foreign architecture is killed."""
    machine = machine or platform.machine()
    if machine not in _ARCH:
        raise OSError(errno.ENOSYS, f"seccomp: no system-call table for {machine}")
    column = list(_ARCH).index(machine)
    load, jeq, jge, ret, and_, jump = 0x20, 0x15, 0x35, 0x06, 0x54, 0x05
    code = [_op(load, 0, 0, 4), _op(jeq, 1, 0, _ARCH[machine]), _op(ret, 0, 0, KILL), _op(load, 0, 0, 0)]
    if machine == "x86_64":
        code += [_op(jge, 0, 1, 0x40000000), _op(ret, 0, 0, KILL)]
    for name, condition, action in rules:
        number = _NUMBERS[name][column]
        if number < 0:
            continue
        if condition is None:
            code += [_op(jeq, 0, 1, number), _op(ret, 0, 0, action)]
            continue
        body = [_op(load, 0, 0, 16 + 8 * condition.argument), _op(and_, 0, 0, condition.mask)]
        body.append(_op(jeq, *((1, 0) if condition.negate else (0, 1)), condition.value))
        body.append(_op(ret, 0, 0, action))
        body.append(_op(load, 0, 0, 0))
        code += [_op(jeq, 1, 0, number), _op(jump, 0, 0, len(body)), *body]
    code.append(_op(ret, 0, 0, ALLOW))
    return b"".join(code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(rules: list[Rule]) -> None:
    """Put `rules` in force for every thread of this process and all its children; there is no way back."""
    text = assemble(rules)
    buffer = ctypes.create_string_buffer(text, len(text))
    program = _Program(len(text) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    result = syscall(number, ctypes.c_uint(1), ctypes.c_uint(1), ctypes.byref(program))  # set filter, all threads
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")
