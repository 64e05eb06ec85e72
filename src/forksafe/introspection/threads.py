"""Which threads there are, as the system sees it: is_alone(), exists().

Guarantees: cheap: one system call. Threads that are not Python's count, where the system tells of them; helpers that
are ended before each fork do not.
"""

from __future__ import annotations

import os
import threading

__all__ = ["add_helper", "count", "exists", "helpers", "is_alone"]

_helpers: set[threading.Thread] = set()


def add_helper(thread: threading.Thread) -> None:
    """This thread is ended before each fork, so no fork meets it. To be called before it is started."""
    _helpers.difference_update([each for each in _helpers if each.ident is not None and not each.is_alive()])
    _helpers.add(thread)


def helpers() -> set[threading.Thread]:
    """Those that are alive."""
    return {thread for thread in list(_helpers) if thread.is_alive()}


def exists(native_id: int | None) -> bool:
    """Whether the system has a thread of this process with this number: for a moment longer than join() waits. False
    where that cannot be told."""
    return os.path.exists(f"/proc/self/task/{native_id}")


def count() -> int:
    """How many threads the system knows in this process; 0 where it does not tell."""
    try:
        return os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        return 0


def is_alone() -> bool:
    """Whether the calling thread is the only one."""
    return (count() or threading.active_count()) <= 1 + len(helpers())
