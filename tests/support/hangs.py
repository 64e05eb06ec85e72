"""See a hang by its state, without waiting for a time-out.

Guarantees: is_stuck() is true only when every thread of the given processes waits in a system call that has no time-out
and none has run since the last look, so that nothing but a signal or another process can wake one. A sleep, a lock with
a time-out, a computation and a loop that polls are no hang, however slow the machine is. Such programs keep running
until the time-out of their test.

Not covered: an alarm() is invisible in /proc, so a process with a handler for SIGALRM is never stuck. A wait for a
descriptor counts only in processes without sockets of the Internet: what waits for a server may be answered. Where
/proc does not show system calls (it needs Linux) nothing is stuck.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from forksafe.testing import ChildError, ChildTimeout, run_in_child

# For each system call that can wait for ever: which of its arguments is the time-out, and the values that mean "none".
_NEVER = {0}
_MINUS_ONE = {2**64 - 1, 2**32 - 1}
_WAITS: dict[str, dict[int, tuple[int | None, set[int]]]] = {
    "x86_64": {
        202: (3, _NEVER), 449: (3, _NEVER), 61: (None, _NEVER), 247: (None, _NEVER), 34: (None, _NEVER),
        130: (None, _NEVER), 0: (None, _NEVER), 45: (None, _NEVER), 47: (None, _NEVER), 7: (2, _MINUS_ONE),
        271: (2, _NEVER), 23: (4, _NEVER), 270: (4, _NEVER), 232: (3, _MINUS_ONE), 281: (3, _MINUS_ONE),
    },
    "aarch64": {
        98: (3, _NEVER), 449: (3, _NEVER), 260: (None, _NEVER), 95: (None, _NEVER), 133: (None, _NEVER),
        63: (None, _NEVER), 207: (None, _NEVER), 212: (None, _NEVER), 73: (2, _NEVER), 72: (4, _NEVER),
        22: (3, _MINUS_ONE),
    },
}  # fmt: skip
# futex, futex_waitv, wait4, waitid, pause, rt_sigsuspend, read, recvfrom, recvmsg, poll, ppoll, select, pselect6,
# epoll_wait, epoll_pwait; on aarch64 there is no pause, poll, select and epoll_wait.
_WITHOUT_DESCRIPTOR = {"x86_64": {202, 449, 61, 247, 34, 130}, "aarch64": {98, 449, 260, 95, 133}}
_FUTEX = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAITS = {0, 6, 9, 11, 13}  # WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2
_SIGALRM_BIT = 1 << (signal.SIGALRM - 1)
MACHINE = platform.machine()
LOOKS, PAUSE = 4, 0.06  # looks that must be equal, and seconds between them


def tree_of(pid: int) -> list[int]:
    """The process, its descendants, and what else is in the session that it leads."""
    parents, found = {}, {pid}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()
            parents[int(name)] = int(fields[1])
            if int(fields[3]) == pid:
                found.add(int(name))
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _look(pids: Iterable[int]) -> list[tuple[str, ...]] | None:
    """Each thread with its wait and how often it has run; None if one may go on by itself."""
    seen = []
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            return None
        if f"{pid}" in tasks and "State:\tZ" in status and len(tasks) == 1:
            seen.append((str(pid), "zombie"))
            continue
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught & _SIGALRM_BIT or (Path(f"/proc/{pid}/timers").exists() and Path(f"/proc/{pid}/timers").read_text()):
            return None
        for task in tasks:
            look = _look_at_task(pid, task)
            if look is None:
                return None
            seen.append(look)
    return seen


def _look_at_task(pid: int, task: str) -> tuple[str, ...] | None:
    try:
        folder = Path(f"/proc/{pid}/task/{task}")
        status = (folder / "status").read_text()
        call = (folder / "syscall").read_text().split()
    except OSError:
        return None
    state = status.partition("State:\t")[2][0]
    if state == "Z":  # a main thread that ended before the others
        return task, "zombie"
    if state != "S" or not call[0].isdigit():
        return None
    number, arguments = int(call[0]), [int(each, 16) for each in call[1:7]]
    position, never = _WAITS.get(MACHINE, {}).get(number, (None, set()))
    if not never or (position is not None and arguments[position] not in never):
        return None
    if number == _FUTEX[MACHINE] and arguments[1] & 0x7F not in _FUTEX_WAITS:
        return None
    if number not in _WITHOUT_DESCRIPTOR[MACHINE] and _has_internet_socket(pid):
        return None
    return (task, *call, *(line for line in status.splitlines() if "ctxt_switches" in line))


def _has_internet_socket(pid: int) -> bool:
    inodes = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
            inodes |= {f"socket:[{line.split()[9]}]" for line in lines}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                return True
    return False


class Watch:
    """Looks again and again at a process and all that it started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._equal: list[object] = []

    def is_stuck(self) -> bool:
        """Call it about every PAUSE seconds; true after LOOKS equal looks."""
        look = _look(tree_of(self._pid)) if os.path.isdir("/proc/self/task") else None
        if look is None or (self._equal and self._equal[-1] != look):
            self._equal.clear()
        if look is not None:
            self._equal.append(look)
        return len(self._equal) >= LOOKS


def wait_until_stuck(pid: int, seconds: float, ended: Callable[[], object]) -> bool:
    """True as soon as the process hangs; False when it has ended, or after so many seconds."""
    watch, deadline = Watch(pid), time.monotonic() + seconds
    while not ended() and time.monotonic() < deadline:
        if watch.is_stuck():
            return not ended()
        time.sleep(PAUSE)
    return False


def abort_tree(pid: int, seconds: float = 3.0) -> None:
    """End the processes; Python's write their stacks first, if faulthandler is enabled there."""
    pids = tree_of(pid)
    for each in pids:
        with contextlib.suppress(OSError):
            resource.prlimit(each, resource.RLIMIT_CORE, (0, 0))
            os.kill(each, signal.SIGABRT)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(_has_ended, pids)):
        time.sleep(0.01)
    for each in {*pids, *tree_of(pid)}:
        with contextlib.suppress(OSError):
            os.kill(each, signal.SIGKILL)


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def assert_child_hangs(fn: Callable[[], object], at: str = "", *, timeout: float = 10) -> None:
    """The negative control of run_in_child(): a forked child never returns from fn(), and hangs in what `at` names.

    timeout: seconds after which a child that is_stuck() says nothing about counts as hanging.
    """
    seen, children = threading.Event(), []

    def watch() -> None:
        pid = children[0]
        if wait_until_stuck(pid, timeout - 1, lambda: over.is_set() or _has_ended(pid)):
            seen.set()
            abort_tree(pid)

    def fork() -> int:
        pid = os.fork()
        if pid:
            children.append(pid)
            watcher.start()
        return pid

    over, watcher = threading.Event(), threading.Thread(target=watch, daemon=True)
    try:
        value = run_in_child(fn, timeout, fork=fork, c_stacks=False)
    except (ChildTimeout, ChildError) as error:
        if not (isinstance(error, ChildTimeout) or seen.is_set()):
            raise
        if at not in error.stacks:
            pytest.fail(f"the child hangs elsewhere than {at}: {error.stacks}")
    else:
        pytest.fail(f"the child did not hang: {value!r}")
    finally:
        over.set()
        watcher.join()
