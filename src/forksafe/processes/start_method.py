"""How a process can be started safely at this moment: get_start_method().

Guarantees: "fork" only while this process has a single thread of the operating system, native threads included; else
"forkserver", or "spawn" where that does not exist. Where threads cannot be counted (anywhere but on Linux): never fork.

Why that survives fork: nothing is remembered; the system is asked each time.

Not covered: a thread that native code starts between the answer and the fork.
"""

from __future__ import annotations

import multiprocessing
import os

from forksafe.introspection.threads import is_single_threaded

__all__ = ["get_start_method", "method_without_fork"]

SETTLE_TIMEOUT = 0.005  # seconds for a thread that has been joined to be gone from the system, too


def get_start_method() -> str:
    """How a process can be started safely now: "fork" while this one has a single thread, else "forkserver" or "spawn".

    Threads that are not Python's count as well. "spawn" is for platforms without forkserver. In a forked child, which
    has one thread to begin with, it is "fork" again.
    """
    counts_threads = os.path.exists("/proc/self/task")
    if "fork" in _start_methods() and counts_threads and is_single_threaded(SETTLE_TIMEOUT):
        return "fork"
    return method_without_fork()


def method_without_fork() -> str:
    """ "forkserver", or "spawn" where there is none."""
    return "forkserver" if "forkserver" in _start_methods() else "spawn"


def _start_methods() -> list[str]:
    return multiprocessing.get_all_start_methods() if hasattr(os, "fork") else ["spawn"]
