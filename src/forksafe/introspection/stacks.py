"""The stacks of Python threads: their frames, the line each is at, the system call each is in.

Guarantees: no thread is stopped. What is returned is a moment old, and the frames of a running thread may have ended.
System calls are known on Linux on x86-64.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from types import FrameType

from forksafe.introspection import threads

__all__ = [
    "frames_of",
    "has_single_stack",
    "is_machinery",
    "line_of",
    "other_threads",
    "outward",
    "place_of",
    "system_call",
    "writers",
]

_STDLIB = tuple({os.path.normpath(sysconfig.get_paths()[name]) + os.sep for name in ("stdlib", "platstdlib")})
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_SITE = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
_SHOWS_CALLS = platform.system() == "Linux" and platform.machine() == "x86_64"
_WRITES = {1: "write", 20: "writev", 44: "sendto", 46: "sendmsg", 74: "fsync", 75: "fdatasync"}
_RUNNING = -1


def has_single_stack() -> bool:
    """Whether no other thread has a stack, now or as a remainder of the fork.

    After a fork by C code the interpreter still has the frames of the threads that vanished.
    """
    return threads.is_single_threaded() and len(sys._current_frames()) <= 1 + len(threads.helpers())


def other_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.current_thread()]


def frames_of(thread: threading.Thread) -> Iterator[FrameType]:
    """Innermost first."""
    return outward(sys._current_frames().get(thread.ident or 0))


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, its caller, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def place_of(frames: Iterable[FrameType]) -> str:
    """The innermost line of the program's own code, else the innermost line; "" if there are no frames."""
    found = list(frames)
    best = next((frame for frame in found if not is_machinery(frame.f_code.co_filename)), found[0] if found else None)
    return "" if best is None else line_of(best)


def line_of(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def is_machinery(filename: str) -> bool:
    """Whether a file belongs to the standard library or to forksafe."""
    if filename.startswith(("<frozen", _OURS)):
        return True
    return filename.startswith(_STDLIB) and not any(site in filename for site in _SITE)


def system_call(task: int | None) -> tuple[int | None, int]:
    """The number and first argument of the system call that a thread, by native id, is in.

    The number is -1 outside of system calls, None where the system does not tell.
    """
    if not _SHOWS_CALLS:
        return None, -1
    try:
        with open(f"/proc/self/task/{task}/syscall") as file:
            fields = file.read().split()
    except OSError:  # it has ended
        return None, -1
    return (_RUNNING, -1) if fields[0] == "running" else (int(fields[0]), int(fields[1], 16))


def writers() -> Iterator[tuple[threading.Thread, int, str]]:
    """Threads inside write() or a similar system call, with the descriptor and its file."""
    for thread in other_threads():
        number, descriptor = system_call(thread.native_id)
        if number in _WRITES:
            try:
                yield thread, descriptor, os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:  # it has been closed
                continue
