"""Which threads this process has, as the system sees it.

Guarantees: each look is one system call. Threads that are not Python's count where the system tells of them (Linux).
Helpers, which are ended before each fork, do not count.

Not covered: elsewhere than on Linux no thread exists() once Python is done with it, and only Python's threads count.
"""

from __future__ import annotations

import os
import threading
import time

__all__ = ["add_helper", "count", "exists", "helpers", "is_single_threaded", "wait_until_gone"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable

_PAUSE = 0.0002  # seconds between two looks

_helpers: set[threading.Thread] = set()


def add_helper(thread: threading.Thread) -> None:
    """This thread is ended before each fork, so no fork meets it. To be called before it is started."""
    _helpers.difference_update([each for each in _helpers if each.ident is not None and not each.is_alive()])
    _helpers.add(thread)


def helpers() -> set[threading.Thread]:
    """Those that are alive."""
    return {thread for thread in list(_helpers) if thread.is_alive()}


def exists(native_id: int | None) -> bool:
    """Whether the system has a thread of this process with this number. False where the system does not tell."""
    return os.path.exists(f"/proc/self/task/{native_id}")


def count() -> int:
    """How many threads the system knows in this process; 0 where it does not tell."""
    try:
        return os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        return 0


def is_single_threaded(seconds: float = 0.0) -> bool:
    """Whether the calling thread is the only one.

    seconds: how long to wait for threads that Python is done with and the system is not, see wait_until_gone().
    """
    end = time.monotonic() + seconds
    while (count() or threading.active_count()) > (most := 1 + len(helpers())):
        if threading.active_count() > most or time.monotonic() >= end:
            return False
        time.sleep(_PAUSE)
    return True


def wait_until_gone(native_ids: Iterable[int | None], seconds: float) -> bool:
    """Wait until the system has none of these threads any more; False if it still has one after so many seconds.

    Thread.join() returns a moment earlier, up to CPython 3.12. In that moment OpenSSL, for one, holds locks to clean up
    after the thread, and a child forked then would hang at its first use of TLS. The calling thread is not waited for.
    """
    end = time.monotonic() + seconds
    me = threading.get_native_id()
    for native_id in native_ids:
        while native_id != me and exists(native_id):
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE)
    return True
