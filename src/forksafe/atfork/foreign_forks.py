"""note_fork_by_c(): the child of a fork made by C ends, although threading does not know which threads are not there.

After os.fork threading finds out by itself. After a fork by C it takes all of the parent's threads for alive, and waits
for those that are no daemons when the interpreter ends: for ever. Here the child ends as one of os.fork does. Threads
that existed at the fork are never freed in it.

Why that survives fork: who is there is asked of the system, and when the child ends. Until then nothing is done that
could let the GIL go, for after such a fork the interpreter may hang where it does.

From CPython 3.15 on the interpreter asks its own list of threads as well, which is told, too.

Not covered: is_alive() and join() of a thread that vanished are what they were in the parent.
"""

from __future__ import annotations

import os
import threading

from forksafe.introspection.threads import exists
from forksafe_core import atfork

__all__ = ["Nobody", "note_fork_by_c"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any


_there: list[Any] = []  # the threads that existed when the fork was noticed; kept for good


def note_fork_by_c() -> None:
    """Called in the child, by whichever thread finds out."""
    module: Any = threading
    # From CPython 3.13 on who frees one would ask the system to give up a thread that is not there, and may crash.
    # The references are copied in one step, for others may be starting threads.
    _there[:] = [reference() for reference in list(module._dangling.data)]
    atfork.keep_alive(list(_there))
    try:
        module._register_atexit(_forget_vanished)
    except RuntimeError:  # the interpreter is ending already
        _forget_vanished()


def _forget_vanished() -> None:
    """At the child's end, before threading waits. Nothing is done if it cannot be told who has forked."""
    module: Any = threading
    if threading.get_native_id() == os.getpid():
        survivor = threading.get_ident()
    else:
        survivor = atfork.ident_of(atfork.state()["survivor"] or 0)
    if not survivor:
        return
    for thread in _there:
        # A thread of the child's own may have the ident of one that vanished.
        if thread is None or thread.native_id is None or thread.ident == survivor or exists(thread.native_id):
            continue
        atfork.forget_thread(thread.native_id)
        if module._active.get(thread.ident) is thread:
            del module._active[thread.ident]
        lock = getattr(thread, "_tstate_lock", None)  # up to CPython 3.12
        if lock is not None:
            module._shutdown_locks.discard(lock)
            atfork.keep_alive(lock)
            thread._tstate_lock, thread._is_stopped = None, True
    if hasattr(module, "_thread_shutdown"):  # from CPython 3.13 on
        module._thread_shutdown = _wait_for_the_others


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
