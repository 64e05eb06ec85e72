"""forget_vanished(): threading told, in the child of a fork made by C, which threads are not there.

After os.fork threading finds out by itself. After a fork by C it takes all of the parent's threads for alive, and waits
for those that are no daemons when the interpreter ends: for ever. Here the child ends as one of os.fork does.

Why that survives fork: who is there is asked of the system; the thread that forked is the first of its process.

Threads that existed at the fork are never freed there.

Not covered: join() of such a thread from CPython 3.13 on, whose handle cannot be told that it has ended.
"""

from __future__ import annotations

import os
import threading

from forksafe_core import atfork

__all__ = ["Nobody", "forget_vanished", "was_alive"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any


_gone: list[Any] = []  # in the child of a fork by C


def was_alive(thread: threading.Thread | None) -> bool:
    """Asked before the fork, or in the child of one by C: did it run when the process forked?"""
    return thread is not None and (thread.is_alive() or any(each is thread for each in _gone))


def forget_vanished() -> None:
    """Called by whichever thread finds out about the fork; nothing is done if it cannot tell who has forked."""
    module: Any = threading
    if threading.get_native_id() == os.getpid():
        survivor = threading.get_ident()
    else:
        survivor = atfork.ident_of(atfork.state()["survivor"] or 0)
    if not survivor:
        return
    # From CPython 3.13 on who frees one would ask the system to give up a thread that is not there, and may crash.
    atfork.keep_alive(list(module._dangling))
    for ident, thread in list(module._active.items()):
        if ident != survivor and not os.path.exists(f"/proc/self/task/{thread.native_id}"):
            del module._active[ident]
            _gone.append(thread)
            _mark_ended(module, thread)
    if hasattr(module, "_thread_shutdown"):  # from CPython 3.13 on
        module._thread_shutdown = _wait_for_the_others


def _mark_ended(module: Any, thread: Any) -> None:
    lock = getattr(thread, "_tstate_lock", None)  # up to CPython 3.12
    if lock is not None:
        atfork.keep_alive(lock)
        module._shutdown_locks.discard(lock)
        thread._tstate_lock, thread._is_stopped = None, True


def _wait_for_the_others() -> None:
    """Those that are there, and no daemons. In place of the interpreter's own list, from which nobody can be taken."""
    while others := [each for each in threading.enumerate() if not each.daemon and each.ident != threading.get_ident()]:
        for thread in others:
            thread.join()


class Nobody:
    """In place of a thread, queue or finaliser of the parent's: there is nothing to wait for, and nobody to tell."""

    def join(self, timeout: float | None = None) -> None:
        """Nothing."""

    def is_alive(self) -> bool:
        return False

    def put(self, obj: object) -> None:
        """Nothing."""

    def __call__(self) -> None:
        """Nothing."""
