"""Hazards that are threads: Python's by name and line, native ones by the system's name, and threads that write.

Guarantees: no thread is stopped; what is reported is a moment old. Threads of forksafe's own executors and background
threads are no hazards.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable

from forksafe.diagnostics.hazard import Finders, Hazard
from forksafe.introspection.exemptions import is_exempt_thread, is_installed
from forksafe.introspection.stacks import frames_of, has_single_stack, other_threads, place_of, writers
from forksafe.introspection.threads import helpers

__all__ = ["FINDERS"]

_ENDING = 0.05  # seconds that a thread may take to be gone


def _python_threads() -> Iterable[Hazard]:
    for thread in other_threads():
        if is_exempt_thread(thread) or thread in helpers():
            continue
        frames = list(frames_of(thread))
        yield Hazard(
            "thread",
            "note" if thread.daemon else "warning",
            f"{'daemon ' if thread.daemon else ''}thread {thread.name!r}",
            "it does not exist in the child, and its unfinished work stays unfinished there",
            "start it after the fork, make it a forksafe.BackgroundThread, or start it again in a "
            "forksafe.after_in_child hook",
            module=str(frames[-1].f_globals.get("__name__", "")) if frames else "",
            thread=thread.name,
            where=place_of(frames),
        )


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


_known_native: set[int] = set()  # seen before, so they are no Python threads that are about to end


def _native() -> list[str]:
    """The names of threads that are not Python's.

    Up to CPython 3.12 a Python thread exists for a moment after join(), so new ones get a short time to end.
    """
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
    if has_single_stack():
        return
    native = _native()
    for name in sorted(set(native)):
        count = native.count(name)
        yield Hazard(
            "thread",
            "warning",
            f"{count} native thread{'s' * (count > 1)} named {name!r}",
            "it does not exist in the child; its library may wait there for it, or for a lock that it held",
            "fork before that library is used, or use forksafe.get_context(), which does not fork then",
            thread=name,
        )


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


FINDERS: Finders = {_python_threads: ("thread",), _native_threads: ("thread",), _writers: ("write",)}
