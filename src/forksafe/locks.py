"""threading's synchronisation objects, for programs that fork.

Guarantees, in a child:
  Lock, RLock        held by the thread that forked: still held by it. Held by another: free.
  Condition          waiters that vanished are forgotten, so notify(1) wakes a living one.
  Event              keeps its flag.
  Barrier            forgets the parties that vanished.
  Semaphore          keeps its count; with at_fork="restore" as BoundedSemaphore.
  BoundedSemaphore   gets back the permits of threads that vanished.
  local              is empty, also for the thread that forked.

Why that survives fork: each asks, when it is next used, whether the threads it remembers still exist. Nothing is
walked, replaced or reset at the fork itself, so references that others keep (a bound method, a waiter) stay good.
"""

from __future__ import annotations

import threading

from forksafe_core import BoundedSemaphore, Lock, RLock, Semaphore, atfork, local

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "RLock", "Semaphore", "local"]


class Condition(threading.Condition):
    """threading.Condition that forgets, in a child, the waiters that vanished.

    lock: a forksafe Lock or RLock; a new RLock by default. Standard locks work, but stay locked in a child if
    another thread held them.
    """

    __module__ = "forksafe"
    _waiters: Any  # locks, each held by the thread that waits for its release

    def __init__(self, lock: Any = None) -> None:
        super().__init__(RLock() if lock is None else lock)

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, take the lock again. False when timeout seconds passed first."""
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        saved = self._release_save()  # type: ignore[attr-defined]
        notified = False
        try:
            if timeout is None:
                notified = waiter.acquire()
            else:
                notified = waiter.acquire(True, timeout) if timeout > 0 else waiter.acquire(False)
            return notified
        finally:
            self._acquire_restore(saved)  # type: ignore[attr-defined]
            if not notified:
                self._forget(waiter)

    def notify(self, n: int = 1) -> None:
        """Wake up to n threads that wait. RuntimeError if this thread does not hold the lock."""
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot notify on un-acquired lock")
        waiters = self._waiters
        while waiters and n > 0:
            waiter = waiters[0]
            if waiter.locked():  # else its thread vanished, or was notified already
                waiter.release()
                n -= 1
            self._forget(waiter)  # last: an exception between the two must not lose a wake-up

    def notify_all(self) -> None:
        """Wake every thread that waits. RuntimeError if this thread does not hold the lock."""
        self.notify(len(self._waiters))

    def _forget(self, waiter: Lock) -> None:
        try:
            self._waiters.remove(waiter)
        except ValueError:
            pass


class Event(threading.Event):
    """threading.Event with a lock that no vanished thread can hold. In a child the flag is what it was at the fork."""

    __module__ = "forksafe"

    def __init__(self) -> None:
        self._cond = Condition(Lock())
        self._flag = False


class Barrier(threading.Barrier):
    """threading.Barrier that forgets, in a child, the parties that vanished while they waited."""

    __module__ = "forksafe"
    _state: int
    # None stays where a subclass shares its state between processes, as multiprocessing's, and has its own __init__.
    _inside: list[int] | None = None
    _seen = 0

    def __init__(self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None) -> None:
        super().__init__(parties, action, timeout)  # type: ignore[arg-type]  # what it returns is not looked at
        self._cond = Condition()  # an RLock: wait() below holds it around threading's own
        self._inside = []  # tokens of the threads in wait()
        self._seen = atfork.generation()

    def _forget_vanished(self) -> None:
        generation = atfork.generation()
        if self._inside is None or generation == self._seen:
            return
        self._seen = generation
        self._inside = [token for token in self._inside if not atfork.gone(token)]
        self._count = len(self._inside)
        if not self._count and self._state in (-1, 1):  # resetting or draining: no thread is left to end it
            self._state = 0

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties wait, at most timeout seconds; returns this thread's number among them."""
        if self._inside is None:
            return super().wait(timeout)
        with self._cond:
            self._forget_vanished()
            token = atfork.token()
            self._inside.append(token)
            try:
                return super().wait(timeout)
            finally:
                self._inside.remove(token)

    def reset(self) -> None:
        """Make the barrier empty again; threads that wait get BrokenBarrierError."""
        with self._cond:
            self._forget_vanished()
            super().reset()

    def abort(self) -> None:
        """Break the barrier; threads that wait, now or later, get BrokenBarrierError."""
        with self._cond:
            self._forget_vanished()
            super().abort()

    @property
    def n_waiting(self) -> int:
        # No lock but in a child, as in threading: an action may ask.
        if self._inside is not None and self._seen != atfork.generation():
            with self._cond:
                self._forget_vanished()
        return super().n_waiting
