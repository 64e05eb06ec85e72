"""Adapters for the locks of threading, queue and functools, and for threading.Timer.

Guarantees, in a child: a protected lock is reinitialised unless the thread that forked provably held it. The waiters
that conditions and queues remember are forgotten, for their threads do not exist. An event's flag, a semaphore's count
and a queue's items stay. A timer that ran at the fork runs again, from the start of its interval, in a daemon thread of
the child's own, so that a child does not wait for it at its exit. A timer that was cancelled stays so; its cancel() and
join() return. A timer goes on in the thread that the child has, if its own function forks.

Why that survives fork: whether a lock is held, and a timer runs, is noted before the fork. An RLock names its owner; a
Lock does not, so it is kept only where the forking process has no other thread. The types are given by their dotted
names, for install() replaces threading's.

Not covered: data that was being changed when the lock's holder vanished; forksafe.Lock(hold=True) is for that.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from forksafe.adapters.helpers import keep_attributes, note_alive, part, was_alive
from forksafe.adapters.registry import Adapter
from forksafe.introspection.threads import is_single_threaded

__all__ = ["ADAPTERS"]


def _reinit(lock: Any) -> None:
    lock._at_fork_reinit()


def _empty_barrier(barrier: Any) -> None:
    if barrier._state in (-1, 0, 1):  # a broken one stays broken
        barrier._state = barrier._count = 0


def _is_own_timer(timer: Any) -> bool:
    note_alive(timer, timer)
    return timer is threading.current_thread()


def _restart_timer(timer: Any) -> None:
    if not was_alive(timer, False) or timer.finished.is_set():
        return
    before = keep_attributes(timer)
    again = {name: before.get(f"_{name}") for name in ("target", "name", "args", "kwargs")}
    threading.Thread.__init__(timer, daemon=True, **{**again, "args": again["args"] or ()})  # type: ignore[arg-type]
    timer.start()


_OWNED = Adapter(held=lambda lock: lock._is_owned(), reset=_reinit)

ADAPTERS = {
    # A Lock that was forked without hooks is not reset once other threads of the child may hold it.
    "_thread.lock": Adapter(held=lambda lock: lock.locked() and is_single_threaded(), reset=_reinit),
    "_thread.RLock": _OWNED,
    "threading._RLock": _OWNED,
    "threading.Condition": Adapter(part("_lock"), reset=lambda condition: condition._waiters.clear()),
    "threading.Event": Adapter(part("_cond")),
    "threading.Semaphore": Adapter(part("_cond")),
    "threading.Barrier": Adapter(part("_cond"), reset=_empty_barrier),
    "threading.Timer": Adapter(lambda timer: [timer.finished], held=_is_own_timer, reset=_restart_timer),
    "queue.Queue": Adapter(part("mutex", "not_empty", "not_full", "all_tasks_done")),
}
if sys.version_info < (3, 12):
    ADAPTERS["functools.cached_property"] = Adapter(part("lock"))
