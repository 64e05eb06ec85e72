"""Hazards that are threads: Python's, by name and line, others' by the name the system has for them, and what they do.

Guarantees: no thread is stopped or asked for anything; what is told of them is a moment old. Threads of forksafe's own
executors and background threads are looked after and are none.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

import forksafe
from forksafe.diagnostics.exemptions import is_installed
from forksafe.diagnostics.hazard import Hazard
from forksafe.introspection import threads as alone

__all__ = [
    "FINDERS",
    "frames_of",
    "is_alone",
    "is_machinery",
    "line_of",
    "other_threads",
    "place_of",
    "system_call",
    "up_from",
    "writers",
]

_STDLIB = tuple({os.path.normpath(sysconfig.get_paths()[name]) + os.sep for name in ("stdlib", "platstdlib")})
_OURS = os.path.dirname(os.path.abspath(forksafe.__file__)) + os.sep
_SITE = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)

# System calls, by number, where their numbers are known here.
_SHOWS_CALLS = platform.system() == "Linux" and platform.machine() == "x86_64"
_WRITES = {1: "write", 20: "writev", 44: "sendto", 46: "sendmsg", 74: "fsync", 75: "fdatasync"}
_RUNNING = -1
_ENDING = 0.05  # seconds that a thread may take to be gone


def is_alone() -> bool:
    """Whether there is nothing of other threads to be seen. In the child of a fork by C there is: the interpreter still
    has the frames of those that vanished, as they were at the fork."""
    return alone.is_alone() and len(sys._current_frames()) <= 1 + len(alone.helpers())


def other_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.current_thread()]


def frames_of(thread: threading.Thread) -> Iterator[FrameType]:
    """Innermost first; of a thread that runs, so they may be over already."""
    return up_from(sys._current_frames().get(thread.ident or 0))


def up_from(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, its caller and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def place_of(frames: Iterable[FrameType]) -> str:
    """The line a thread is at: the innermost that is neither the standard library's nor forksafe's, if there is one."""
    found = list(frames)
    best = next((frame for frame in found if not is_machinery(frame.f_code.co_filename)), found[0] if found else None)
    if best is None:
        return ""
    return line_of(best)


def line_of(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def is_machinery(filename: str) -> bool:
    if filename.startswith(("<frozen", _OURS)):
        return True
    return filename.startswith(_STDLIB) and not any(site in filename for site in _SITE)


def _python_threads() -> Iterable[Hazard]:
    looked_after = _looked_after()
    for thread in other_threads():
        if thread in looked_after:
            continue
        frames = list(frames_of(thread))
        yield Hazard(
            "thread",
            "note" if thread.daemon else "warning",
            f"{'daemon ' if thread.daemon else ''}thread {thread.name!r}",
            "it is not there in the child, and what it was busy with stays half done there",
            "start it after the fork, make it a forksafe.BackgroundThread, or start it again in a "
            "forksafe.after_in_child hook",
            module=str(frames[-1].f_globals.get("__name__", "")) if frames else "",
            thread=thread.name,
            where=place_of(frames),
        )


def _looked_after() -> set[threading.Thread]:
    """The threads of forksafe's own types, and helpers that no fork meets."""
    quiescing = sys.modules.get("forksafe.atfork.quiesce")
    found = alone.helpers()
    for member in list(getattr(quiescing, "_all", ())):
        found |= set(getattr(member, "_threads", ()))
        run = getattr(member, "_run", None)
        if isinstance(run, threading.Thread):
            found.add(run)
    return found


def _tasks() -> dict[int, str]:
    """The system's threads by id, with the names it has for them."""
    names = {}
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/comm") as file:
                names[int(task)] = file.read().strip()
    except OSError:
        pass
    return names


_known_native: set[int] = set()  # seen before: these are no Python threads that are about to be gone


def _native() -> list[str]:
    """The names of threads that are not Python's. Up to CPython 3.12 one of Python's is there a moment after join():
    those that are new are waited for, for a little while."""
    end = time.monotonic() + _ENDING
    while True:
        python = {thread.native_id for thread in threading.enumerate()}
        found = {task: name for task, name in _tasks().items() if task not in python and task != os.getpid()}
        if found.keys() <= _known_native or time.monotonic() >= end:
            break
        time.sleep(0.0005)
    _known_native.clear()
    _known_native.update(found)
    return list(found.values())


def _native_threads() -> Iterable[Hazard]:
    if is_alone():
        return
    native = _native()
    for name in sorted(set(native)):
        count = native.count(name)
        yield Hazard(
            "thread",
            "warning",
            f"{count} native thread{'s' * (count > 1)} named {name!r}",
            "not there in the child; the library that started it may wait for it there, or for a lock that it held",
            "fork before that library is used, or use forksafe.get_context(), which does not fork then",
            thread=name,
        )


def system_call(task: int | None) -> tuple[int | None, int]:
    """The number of the system call that a thread is in, by the system's id, and its first argument; -1 if it is in
    none; None where the system does not tell."""
    if not _SHOWS_CALLS:
        return None, -1
    try:
        with open(f"/proc/self/task/{task}/syscall") as file:
            fields = file.read().split()
    except OSError:  # it has ended
        return None, -1
    return (_RUNNING, -1) if fields[0] == "running" else (int(fields[0]), int(fields[1], 16))


def writers() -> Iterator[tuple[threading.Thread, int, str]]:
    """Threads that are inside write() and the like, by what the system says of them: with descriptor and target."""
    for thread in other_threads():
        number, descriptor = system_call(thread.native_id)
        if number in _WRITES:
            try:
                yield thread, descriptor, os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:  # closed meanwhile
                continue


def _writers() -> Iterable[Hazard]:
    for thread, descriptor, target in writers():
        if is_installed() and descriptor in (1, 2):
            continue
        yield Hazard(
            "write",
            "danger",
            f"descriptor {descriptor} ({target}), which a thread is writing to",
            "the file object's own lock is held in the child: writing to it, and closing it, hang there",
            "forksafe run cures that for the standard streams and log handlers; for others quiesce the thread "
            "with a forksafe.before hook",
            thread=thread.name,
            where=place_of(frames_of(thread)),
        )


FINDERS: dict[Callable[[], Iterable[Hazard]], tuple[str, ...]] = {
    _python_threads: ("thread",),
    _native_threads: ("thread",),
    _writers: ("write",),
}
