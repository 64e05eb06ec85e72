"""Children of forks that Python did not make: found from outside, and asked what they are blocked on.

Guarantees: only processes that descend from the program, that have told nothing yet, have been inside one and the same
wait for a lock for long, and have the handler that examining.py installed, are sent its signal, once. A process that
has replaced itself by another program has no such handler, and none is sent.

Not covered: systems without /proc; processes that nothing connects to the program any more (daemons).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

__all__ = ["SIGNAL", "SilentChildren"]

SIGNAL = getattr(signal, "SIGRTMAX", 0) - 3  # hardly used by anybody; below 0 where there are no such signals
_LOOK_EVERY = 1.0  # seconds
_FUTEX = ("202", "98")  # x86-64, aarch64


class SilentChildren:
    """look() again and again. program: the pid that the doctor has started. seconds: how long is long."""

    def __init__(self, program: int, folder: Path, seconds: float) -> None:
        self._program = program
        self._folder = folder
        self._seconds = seconds
        self._looked = 0.0
        self._since: dict[int, tuple[str, float]] = {}  # what each was seen in, and since when
        self._asked: set[int] = set()

    def look(self) -> None:
        now = time.monotonic()
        if SIGNAL < 0 or now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        for pid in _descendants(self._program):
            if pid in self._asked or (self._folder / f"events-{pid}.jsonl").exists():
                continue
            state = _state(pid)
            before, since = self._since.get(pid, ("", now))
            if state != before:
                self._since[pid] = state, now
            elif state and now - since >= self._seconds and _handles(pid):
                self._asked.add(pid)
                _send(pid)


def _descendants(pid: int) -> list[int]:
    """Of a process, all generations."""
    parents: dict[int, list[int]] = {}
    try:
        processes = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for each in processes:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(each)
        except (OSError, IndexError, ValueError):  # it has ended
            continue
    found: list[int] = []
    new = [pid]
    while new:
        children = parents.get(new.pop(), [])
        found += children
        new += children
    return found


def _state(pid: int) -> str:
    """The wait for a lock that its main thread is in, with the processor time it has had; "" if it is in none."""
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


def _send(pid: int) -> None:
    try:
        os.kill(pid, SIGNAL)
    except OSError:
        pass
