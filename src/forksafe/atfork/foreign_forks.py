"""Forks that C code made: the child ends, although threading does not know which threads vanished.

After os.fork threading finds out by itself. After a fork by C it takes all of the parent's threads for alive, and when
the interpreter ends it waits for ever for those that are no daemons.

Guarantees: the child ends as one of os.fork does. Threads that existed at the fork are never freed in it.

Why that survives fork: the system is asked which threads exist, when the child ends. Until then nothing is done that
could release the GIL, for after such a fork the interpreter may hang where it does. From CPython 3.15 on the
interpreter has its own list of threads, and vanished ones are taken from that, too.

Not covered: is_alive() and join() of a thread that vanished are what they were in the parent.
"""

from __future__ import annotations

import os
import threading

from forksafe.introspection.threads import exists
from forksafe_core import atfork

__all__ = ["NullWorker", "on_foreign_fork"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any


_inherited: list[Any] = []  # the threads that existed when the fork was noticed; kept for good


def on_foreign_fork() -> None:
    """Called in the child, by the thread that notices the fork."""
    module: Any = threading
    # From CPython 3.13 on, freeing one makes the system give up a thread that does not exist, which may crash.
    # The references are copied in one step, for other threads may be starting some.
    _inherited[:] = [reference() for reference in list(module._dangling.data)]
    atfork.keep_alive(list(_inherited))
    try:
        module._register_atexit(_forget_vanished)
    except RuntimeError:  # the interpreter is ending already
        _forget_vanished()


def _forget_vanished() -> None:
    """At the child's end, before threading waits. Does nothing if it cannot be told which thread forked."""
    module: Any = threading
    if threading.get_native_id() == os.getpid():
        survivor = threading.get_ident()
    else:
        survivor = atfork.ident_of(atfork.state()["survivor"] or 0)
    if not survivor:
        return
    for thread in _inherited:
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
        module._thread_shutdown = _join_the_others


def _join_the_others() -> None:
    """Those that are there, and no daemons. In place of the interpreter's own list, from which none can be taken."""
    while others := [each for each in threading.enumerate() if not each.daemon and each.ident != threading.get_ident()]:
        for thread in others:
            thread.join()


class NullWorker:
    """In place of a thread, queue or finaliser of the parent's: nothing is to be waited for, told or done."""

    def join(self, timeout: float | None = None) -> None:
        """Nothing."""

    def is_alive(self) -> bool:
        return False

    def put(self, obj: object) -> None:
        """Nothing."""

    def __call__(self) -> None:
        """Nothing."""
