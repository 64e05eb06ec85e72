"""ConnectWorkers: the threads of a ConnectionPool in one process. Makers connect; the watcher closes idle connections.

Guarantees: a maker calls connect() once and ends. A watcher sleeps until something is due. It ends when nothing will
be, when the pool is gone (it refers to it weakly), and for each fork. All are daemons and delay no exit. If a thread
cannot be started, as at the end of the interpreter, the caller connects itself. No slot is lost then, nor if a signal
handler raises.

Why that survives fork: each generation has its own ConnectWorkers, and nothing waits for a thread that vanished.
"""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from forksafe.introspection.threads import exists, wait_until_gone
from forksafe_core import Slots, Waiter

__all__ = ["ConnectCallbacks", "ConnectWorkers"]

STOP_TIMEOUT = 0.2  # seconds that a fork waits for the watcher, which may be closing a connection
MOST_ENDING = 16  # ended threads to remember, before those are forgotten that the system no longer has
FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds between attempts to have min_size connections


class ConnectCallbacks(Protocol):
    """What ConnectWorkers call of their pool."""

    name: str

    def _make(self, slots: Slots) -> None: ...
    def _tend(self, slots: Slots) -> float | None: ...
    def _known(self) -> Slots | None: ...


class ConnectWorkers:
    """One generation's threads, and what they leave for each other."""

    def __init__(self) -> None:
        self.makers: set[threading.Thread] = set()
        self.ending: set[int] = set()  # the system's numbers of threads that have done their work
        self.watcher: threading.Thread | None = None
        self.wake = Waiter()
        self.error: BaseException | None = None  # of a connect() that no thread waited for
        self.retry = FIRST_RETRY

    def grow(self, pool: ConnectCallbacks, slots: Slots) -> None:
        """Start a maker for each connection that there is a use for and room."""
        while self._make_one(pool, slots):
            pass

    def _make_one(self, pool: ConnectCallbacks, slots: Slots) -> bool:
        claim: list[None] = []
        maker: Any = None
        try:
            if not slots.reserve(claim):
                return False
            context = contextvars.copy_context()
            name = f"{pool.name}-connect"
            maker = threading.Thread(target=context.run, args=(self._make, pool, slots, claim), name=name, daemon=True)
            try:
                self.makers.add(maker)
                maker.start()
            except RuntimeError:  # no thread can be started, or no longer
                self.makers.discard(maker)
                self._make(pool, slots, claim)
        except BaseException:
            if _taken(claim):  # else the thread runs and uses the slot
                slots.reject(None)
                self.makers.discard(maker)
            raise
        return True

    def _make(self, pool: ConnectCallbacks, slots: Slots, claim: list[None]) -> None:
        try:
            if _taken(claim):
                pool._make(slots)
        finally:
            if len(self.ending) > MOST_ENDING:
                self.ending.difference_update([number for number in list(self.ending) if not exists(number)])
            self.ending.add(threading.get_native_id())
            self.makers.discard(threading.current_thread())

    def wait_ended(self, timeout: float) -> None:
        """Before a fork: wait until the system is done with the threads that have done their work."""
        ended = list(self.ending)
        wait_until_gone(ended, timeout)
        self.ending.difference_update(ended)

    def made(self) -> None:
        """A connect() succeeded."""
        self.error = None
        self.retry = FIRST_RETRY

    def failed(self, slots: Slots, error: BaseException) -> None:
        """A connect() failed that no thread waited for."""
        self.error = error
        slots.retry_in(self.retry)
        self.retry = min(self.retry * 2, LAST_RETRY)

    def join_makers(self, deadline: float) -> None:
        """Wait until the makers of this moment have ended, or until that time (of time.monotonic())."""
        for maker in list(self.makers - {threading.current_thread()}):
            while (left := deadline - time.monotonic()) > 0:
                try:
                    maker.join(left)
                    break
                except RuntimeError:  # another thread is just starting it
                    time.sleep(0.001)

    def watch(self, pool: ConnectCallbacks, slots: Slots) -> None:
        """Have a watcher if there is anything to watch."""
        try:
            if not slots.watch():
                return
            wake = Waiter()
            self._change_watcher(wake)
            reference = weakref.ref(pool, lambda _: wake.wake())
            watcher = threading.Thread(target=_watch, args=(reference, wake), name=f"{pool.name}-watch", daemon=True)
            watcher.start()
            self.watcher = watcher
        except RuntimeError:  # no thread can be started: what is due is done when connections are used
            slots.stop_watching()
        except BaseException:
            self.stop_watching(slots)
            raise

    def stop_watching(self, slots: Slots, timeout: float = 0.0) -> None:
        """Have no watcher; wait for it to end. The next watch() starts a new one."""
        watcher, self.watcher = self.watcher, None
        self._change_watcher(Waiter())
        slots.stop_watching()
        if timeout and watcher is not None and watcher is not threading.current_thread():
            watcher.join(timeout)
            if not watcher.is_alive() and watcher.native_id is not None:
                self.ending.add(watcher.native_id)

    def _change_watcher(self, wake: Waiter) -> None:
        """Only the watcher with that one goes on. The others look at once when they wake, so it is set before."""
        previous, self.wake = self.wake, wake
        previous.wake()


def _taken(claim: list[None]) -> bool:
    """True for the one thread that takes it."""
    try:
        claim.pop()
    except IndexError:
        return False
    return True


def _watch(reference: Callable[[], Any], wake: Waiter) -> None:
    pause: float | None = 0.0
    while pause is not None:
        wake.wait(pause)
        pause = _tend(reference(), wake)


def _tend(pool: ConnectCallbacks | None, wake: Waiter) -> float | None:
    """Let the pool do what is due; seconds until the next time, None when this watcher is no longer needed."""
    slots = pool and pool._known()
    if pool is None or not slots or slots.inherited or slots.extra.wake is not wake:
        return None
    return pool._tend(slots)
