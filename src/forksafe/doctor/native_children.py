"""Children of forks that Python did not make: found from outside, and signalled to report what they are blocked on.

Guarantees: a process gets the signal, once, if it descends from the program, has recorded nothing yet, has been inside
the same wait for a lock for long, and has a handler for the signal, as agent.py installs it. A process that has
replaced itself by another program has no handler and gets no signal.

Not covered: systems without /proc; processes that are no descendants any more (daemons).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

__all__ = ["SIGNAL", "SilentChildren"]

SIGNAL = getattr(signal, "SIGRTMAX", 0) - 3  # hardly ever used; below 0 where there are no such signals
_LOOK_EVERY = 1.0  # seconds
_FUTEX = ("202", "98")  # x86-64, aarch64


class SilentChildren:
    """look() again and again. program: the pid of the process that the doctor started. seconds: how long is long."""

    def __init__(self, program: int, folder: Path, seconds: float) -> None:
        self._program = program
        self._folder = folder
        self._seconds = seconds
        self._looked = 0.0
        self._since: dict[int, tuple[str, float]] = {}  # by pid: its state, and since when
        self._signalled: set[int] = set()

    def look(self) -> None:
        now = time.monotonic()
        if SIGNAL < 0 or now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        for pid in _descendants(self._program):
            if pid in self._signalled or (self._folder / f"events-{pid}.jsonl").exists():
                continue
            state = _state(pid)
            before, since = self._since.get(pid, ("", now))
            if state != before:
                self._since[pid] = state, now
            elif state and now - since >= self._seconds and _handles(pid):
                self._signalled.add(pid)
                with contextlib.suppress(OSError):  # it has ended
                    os.kill(pid, SIGNAL)


def _descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    children: dict[int, list[int]] = {}
    try:
        processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for each in processes:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(each)
        except (OSError, IndexError, ValueError):  # it has ended
            continue
    found = [pid]
    for each in found:  # which grows
        found += children.get(each, [])
    return found[1:]


def _state(pid: int) -> str:
    """Its main thread's wait for a lock, with the processor time it has used; "" if it does not wait for a lock."""
    try:
        call = Path(f"/proc/{pid}/task/{pid}/syscall").read_text()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return ""
    return f"{call} {times}" if call.split()[0] in _FUTEX else ""


def _handles(pid: int) -> bool:
    """Whether it has a handler for the signal."""
    try:
        caught = next(
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")
        )
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (SIGNAL - 1) & 1)
