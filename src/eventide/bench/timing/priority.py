"""A prompt runner: the thread that reads the clock must not queue behind the solution's own spinning threads.

OpenMP's threads spin for milliseconds after a parallel region. On a machine without spare cores the runner then waits
for a core while its clock runs, and honest solutions look as if they had lied. Real-time priority avoids that where it
is permitted; elsewhere the check of the clocks allows for more. Children and threads made later do not inherit
it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prompt_thread() -> Iterator[str]:
    """Raise the calling thread's priority for a while; yields how ("realtime" or "normal")."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError):
        yield "normal"
        return
    try:
        yield "realtime"
    finally:
        os.sched_setscheduler(0, *before)
