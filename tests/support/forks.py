"""The ways to fork, and what they need."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
FORK_HERE = hasattr(os, "fork")

_libc: Any = ctypes.PyDLL(None, use_errno=True) if FORK_HERE else None
SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())


def _raw_clone() -> int:
    return int(_libc.syscall(SYS_CLONE, signal.SIGCHLD, 0, 0, 0, 0))


FORKS: dict[str, Callable[[], int]] = {"os.fork": os.fork, "C fork": _libc.fork} if FORK_HERE else {}
# Parking without futexes looks up 20 times a second and so competes for the GIL, after which the child of a C fork may
# hang in the interpreter's own condition variable: there only os.fork is tested.
if os.environ.get("FORKSAFE_TEST_ONLY_OS_FORK") or sys.platform != "linux":
    FORKS.pop("C fork", None)
else:
    if hasattr(_libc, "_Fork"):
        FORKS["_Fork"] = _libc._Fork
    if SYS_CLONE:
        FORKS["raw clone"] = _raw_clone
HANDLERS_RUN = {"os.fork", "C fork"}


def settle() -> None:
    """Who has just been woken and waits for the GIL comes to its next wait, also where the machine is busy: that thread
    has something to run then."""
    quiet, end = 0, time.monotonic() + 10
    while quiet < 2 and time.monotonic() < end:
        time.sleep(0.01)
        quiet = 0 if any(map(_runs, os.listdir("/proc/self/task"))) else quiet + 1


def _runs(task: str) -> bool:
    try:
        state = Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return True
    return state != "S" and int(task) != threading.get_native_id()


def skip_without_the_gil(fork_name: str) -> None:
    """For forks among running threads."""
    if FREE_THREADED and fork_name != "os.fork":
        pytest.skip("without the GIL another thread may have a lock of the interpreter's own at any moment")
