"""The doctor's agent inside a program: it records forks, their hazards, and what the program's children hang on.

Guarantees: the program is not changed; its locks and connections are what they would be. Records go to files of a
folder that the doctor reads. Each is one write(), so that neither a fork nor a kill leaves half a line. An error of the
agent is one line on stderr, and the program goes on.

Why that survives fork: the process that writes a record opens its own file for it. Of many forks from one place only
some are looked at, so that a storm of forks is not slowed down.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from types import FrameType
from typing import Any

from forksafe.atfork.hooks import register_at_fork
from forksafe.diagnostics.hangs.hang import BlockedThread, Hang, explain, vanished_work
from forksafe.diagnostics.hangs.snapshot import lines_of, take_snapshot
from forksafe.diagnostics.hangs.watchdog import Watchdog
from forksafe.diagnostics.hazard import Hazard, report_internal_error
from forksafe.diagnostics.lock_tracking import track_locks
from forksafe.diagnostics.scan import hazards
from forksafe.doctor.native_children import SIGNAL
from forksafe.introspection.stacks import frames_of, is_machinery, line_of, other_threads, outward
from forksafe.introspection.threads import exists
from forksafe_core import atfork

__all__ = ["start"]

_FULL_SCANS = 3  # at forks from one place; after that one a second


class _Agent:
    def __init__(self, folder: str, seconds: float) -> None:
        atfork.keep_alive(self)  # hooks hold methods weakly
        self._folder = folder
        self._seconds = seconds
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._under_way: dict[int, str] = {}  # by ident of the thread that forks: process and number
        self._fork = ""  # the one that made this process
        self._scans: dict[str, tuple[int, float, list[Hazard]]] = {}  # by place: how many, when last, what was found
        register_at_fork(before=self._before, after_in_child=self._after_in_child)
        self._watchdog = Watchdog(seconds, self._record_hang)
        if SIGNAL > 0 and threading.current_thread() is threading.main_thread():
            signal.signal(SIGNAL, self._examine_native_child)
        self._record("start", argv=sys.argv[:1], python=sys.version.split()[0])
        atexit.register(self._record, "end")

    def _record(self, event: str, **more: Any) -> None:
        try:
            line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time(), **more}) + "\n"
            path = os.path.join(self._folder, f"events-{os.getpid()}.jsonl")
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except Exception as error:
            report_internal_error("the doctor", error)

    def _record_fork(self, number: str, where: str, found: list[Hazard], **more: int) -> None:
        self._record(
            "fork",
            fork=number,
            thread=threading.current_thread().name,
            where=where,
            hazards=[hazard.as_dict() for hazard in found],
            stacks={thread.name: lines_of(frames_of(thread)) for thread in other_threads()},
            **more,
        )

    def _record_hang(self, found: Hang) -> None:
        self._record("hang", fork=self._fork, **asdict(found))

    def _before(self) -> None:
        try:
            number = self._under_way[threading.get_ident()] = f"{os.getpid()}-{next(self._numbers)}"
            where = _place_of_fork()
            self._record_fork(number, where, self._scan(where))
        except Exception as error:
            report_internal_error("the doctor", error)

    def _scan(self, where: str) -> list[Hazard]:
        scans, last, found = self._scans.get(where, (0, 0.0, []))
        if scans < _FULL_SCANS or time.monotonic() - last > 1:
            found = hazards()
            self._scans[where] = scans + 1, time.monotonic(), found
        return found

    def _after_in_child(self) -> None:
        self._pid = os.getpid()
        self._fork = self._under_way.get(threading.get_ident(), "")
        self._under_way.clear()
        self._record("child", parent=os.getppid(), fork=self._fork)

    def _examine_native_child(self, number: int, frame: FrameType | None) -> None:
        """Handles the doctor's signal in the child of a fork by C code, which has the parent's memory but not its
        threads."""
        if os.getpid() == self._pid or frame is None:
            return
        try:
            there = {thread.ident or 0 for thread in threading.enumerate() if _has_native_thread(thread)}
            snapshot = take_snapshot()
            self._fork = f"{os.getppid()}-{os.getpid()}"
            where = "C code, which ran no Python hooks; seen in the child"
            self._record_fork(self._fork, where, hazards(), pid=os.getppid())
            self._record("child", parent=os.getppid(), fork=self._fork)
            blocked = BlockedThread(threading.main_thread(), list(outward(frame)), self._seconds, (None, -1))
            found = explain(snapshot, blocked, there)
            if found is None and snapshot.threads and not there:
                found = vanished_work(snapshot, blocked)
            if found is not None:
                self._record_hang(found)
        except Exception as error:
            report_internal_error("the doctor", error)


def start(folder: str) -> None:
    """Called by bootstrap/sitecustomize.py when the program starts up."""
    try:
        track_locks()
        _Agent(folder, float(os.environ.get("FORKSAFE_DOCTOR_HANG", "5")))
    except Exception as error:
        report_internal_error("the doctor", error)


def _place_of_fork() -> str:
    """The program's innermost line; the outermost line if none is the program's."""
    for frame in outward(sys._getframe(1)):
        if not is_machinery(frame.f_code.co_filename):
            break
    return line_of(frame)


def _has_native_thread(thread: threading.Thread) -> bool:
    """In the child of a fork by C code threading believes that all of the parent's threads are alive."""
    return thread is not threading.main_thread() and exists(thread.native_id)
