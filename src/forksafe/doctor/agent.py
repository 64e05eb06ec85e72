"""What `forksafe doctor` has a program note about itself: its forks, their hazards, and what its children hang on.

Guarantees: the program is not changed; its locks and connections are what they would be. What is noted goes to files of
a folder that the doctor reads, each line with one write(), so that neither a fork nor a kill leaves half of one.
Whatever fails in here is one line on stderr, and the program goes on.

Why that survives fork: a file is opened for each line, by the process that writes it. Forks from the same place in
rapid succession are looked at only now and then, so that a storm of forks is not slowed down for each.
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
from forksafe.diagnostics.hangs.hang import Blocked, Stuck, explain, in_vain
from forksafe.diagnostics.hangs.snapshot import lines_of, remember
from forksafe.diagnostics.hangs.watchdog import Watchdog
from forksafe.diagnostics.hazard import Hazard, report_internal_error
from forksafe.diagnostics.lock_tracking import track_locks
from forksafe.diagnostics.scan import hazards
from forksafe.doctor.native_children import SIGNAL
from forksafe.introspection.stacks import frames_of, is_machinery, line_of, other_threads, outward
from forksafe.introspection.threads import exists
from forksafe_core import atfork

__all__ = ["begin"]

_FULL_LOOKS = 3  # at forks from one place; after that one a second


class _Examination:
    def __init__(self, folder: str, seconds: float) -> None:
        atfork.keep_alive(self)  # hooks hold methods weakly
        self._folder = folder
        self._seconds = seconds
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._under_way: dict[int, str] = {}  # by ident of the thread that forks: process and number
        self._fork = ""  # the one that made this process
        self._looks: dict[str, tuple[int, float, list[Hazard]]] = {}  # by place: how many, when last, what was found
        register_at_fork(before=self._before, after_in_child=self._after_in_child)
        self._watchdog = Watchdog(seconds, self._hangs)
        if SIGNAL > 0 and threading.current_thread() is threading.main_thread():
            signal.signal(SIGNAL, self._asked)
        self.note("start", argv=sys.argv[:1], python=sys.version.split()[0])
        atexit.register(self._ends)

    def note(self, what: str, **more: Any) -> None:
        try:
            line = json.dumps({"event": what, "pid": os.getpid(), "time": time.time(), **more}) + "\n"
            path = os.path.join(self._folder, f"events-{os.getpid()}.jsonl")
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except Exception as error:
            report_internal_error("the doctor", error)

    def _before(self) -> None:
        try:
            number = self._under_way[threading.get_ident()] = f"{os.getpid()}-{next(self._numbers)}"
            where = _place_of_fork()
            self._note_fork(number, where, self._look(where))
        except Exception as error:
            report_internal_error("the doctor", error)

    def _note_fork(self, number: str, where: str, found: list[Hazard], **more: int) -> None:
        self.note(
            "fork",
            fork=number,
            thread=threading.current_thread().name,
            where=where,
            hazards=[hazard.as_dict() for hazard in found],
            stacks={thread.name: lines_of(frames_of(thread)) for thread in other_threads()},
            **more,
        )

    def _look(self, where: str) -> list[Hazard]:
        looks, last, found = self._looks.get(where, (0, 0.0, []))
        now = time.monotonic()
        if looks < _FULL_LOOKS or now - last > 1:
            found = hazards()
            self._looks[where] = looks + 1, time.monotonic(), found
        return found

    def _after_in_child(self) -> None:
        self._pid = os.getpid()
        self._fork = self._under_way.get(threading.get_ident(), "")
        self._under_way.clear()
        self.note("child", parent=os.getppid(), fork=self._fork)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        """By the doctor's signal, in the child of a fork that Python did not make: there all is as it was at the fork,
        but for the threads that are not there."""
        if os.getpid() == self._pid or frame is None:
            return
        try:
            there = {thread.ident or 0 for thread in threading.enumerate() if _is_there(thread)}
            at_fork = remember()
            self._fork = f"{os.getppid()}-{os.getpid()}"
            self._note_fork(
                self._fork, "C code, which ran no Python hooks; seen in the child", hazards(), pid=os.getppid()
            )
            self.note("child", parent=os.getppid(), fork=self._fork)
            blocked = Blocked(threading.main_thread(), list(outward(frame)), self._seconds, (None, -1))
            stuck = explain(at_fork, blocked, there) or (
                in_vain(at_fork, blocked) if at_fork.threads and not there else None
            )
            if stuck is not None:
                self._hangs(stuck)
        except Exception as error:
            report_internal_error("the doctor", error)

    def _hangs(self, stuck: Stuck) -> None:
        self.note("hang", fork=self._fork, **asdict(stuck))

    def _ends(self) -> None:
        self.note("end")


_examination: _Examination | None = None


def begin(folder: str) -> None:
    """Called when the program starts up."""
    global _examination
    try:
        track_locks()
        _examination = _Examination(folder, float(os.environ.get("FORKSAFE_DOCTOR_HANG", "5")))
    except Exception as error:
        report_internal_error("the doctor", error)


def _place_of_fork() -> str:
    """The innermost line that is the program's; if there is none, the outermost."""
    for frame in outward(sys._getframe(1)):
        if not is_machinery(frame.f_code.co_filename):
            break
    return line_of(frame)


def _is_there(thread: threading.Thread) -> bool:
    """In the child of a fork by C threading takes all of the parent's threads for alive."""
    return thread is not threading.main_thread() and exists(thread.native_id)
