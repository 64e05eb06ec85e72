"""Maintenance: how a ConnectionPool makes and closes connections, and what it does around a fork.

Guarantees: no lock is held while a connection is made or closed. A slot is taken before connect() is called and is free
only after close() has returned, so there are never more than max_size connections. A connection that its caller no
longer waits for goes to the first waiter.

Around a fork: the watcher stops, SQLite's connections to files are closed or warned of, and the descriptors of all
others are flagged as they are now. In a child, the thread that forked is woken if it was waiting itself.

Not covered: see pool.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from forksafe.atfork.gate import warn_of_hazard
from forksafe.atfork.participants import Participants
from forksafe.pool.connect_workers import STOP_TIMEOUT, ConnectWorkers
from forksafe.pool.entry import PoolEntry, admit, close_quietly, is_sqlite_file, logger
from forksafe.resources.ownership import OwnershipPolicy, abandon
from forksafe_core import Entry, PoolCore, Slots

__all__ = ["Maintenance"]

C = TypeVar("C")


class Maintenance(PoolCore[C]):
    """The part of ConnectionPool that makes and closes connections."""

    name: str
    max_idle: float
    max_lifetime: float
    _sizes: tuple[int, int]
    _closed: bool
    _connect: Callable[[], C]
    _reset: Callable[[C], object] | None
    _close: Callable[[C], object]
    _policy: OwnershipPolicy

    def _new_slots(self) -> Slots:
        """Called by the core, for each generation that uses the pool."""
        return Slots(*self._sizes, idle_limit=self.max_idle, closed=self._closed, extra=ConnectWorkers())

    def _make(self, slots: Slots) -> None:
        """Connect, into a slot that is reserved. Called by a thread of ConnectWorkers."""
        made: Any = None
        try:
            made = self._call_connect(slots)
            if slots.inherited:  # connect() forked, and this is the child
                abandon(PoolEntry(made, self._policy))
                return
            entry = admit(made, self._reset, self.max_lifetime, self._policy)
            me = threading.current_thread()
            entry.extra.maker = me if me in slots.extra.makers else None
            kept = slots.add(entry)
        except BaseException as error:
            if made is not None:
                close_quietly(made, self._close)
            self._make_failed(slots, error)
        else:
            slots.extra.made()
            if not kept:
                close_quietly(made, self._close, entry.extra)

    def _call_connect(self, slots: Slots) -> C:
        began = time.monotonic()
        try:
            return self._connect()
        finally:
            slots.count("connections_num")
            slots.count("connections_ms", round((time.monotonic() - began) * 1000))

    def _make_failed(self, slots: Slots, error: BaseException) -> None:
        slots.count("connections_errors")
        if not slots.reject(error):
            slots.extra.failed(slots, error)
            logger.warning("%s: connecting failed, and no thread waits for it", self._policy.name, exc_info=error)
        self._keep_up(slots)

    def _retire(self, slots: Slots, entry: Entry[C]) -> None:
        """Close a connection that no thread holds; then its slot is free."""
        if slots.inherited:
            return
        try:
            close_quietly(entry.value, self._close, entry.extra)
        finally:
            slots.remove(entry)

    def _keep_up(self, slots: Slots) -> None:
        """Have connections made for the waiters, and a watcher if there is something to watch."""
        slots.extra.grow(self, slots)
        slots.extra.watch(self, slots)

    def _tend(self, slots: Slots) -> float | None:
        """Called by the watcher: close what was idle too long; seconds until it should look again."""
        while (entry := slots.take_idle(only_stale=True)) is not None:
            self._retire(slots, entry)
        slots.extra.grow(self, slots)
        return slots.next_due()

    def _before_fork(self) -> None:
        slots = self._known()
        if slots is None or slots.inherited:
            return
        slots.extra.stop_watching(slots, STOP_TIMEOUT)
        slots.extra.wait_ended(STOP_TIMEOUT)
        hazards = 0
        for entry, _ in slots.snapshot():
            if not is_sqlite_file(entry.extra):
                entry.extra.flag()
            elif slots.take_out(entry):
                self._retire(slots, entry)
            else:
                entry.extra.flag()
                hazards += 1
        if hazards:
            warn_of_hazard(
                f"{self._policy.name}: a fork while {hazards} of its SQLite connections to files are handed out. "
                "SQLite does not allow that: give them back first. In the child they are dead",
                self,
            )

    def _after_in_parent(self) -> None:
        slots = self._known()
        if slots is not None and not slots.inherited:
            slots.extra.watch(self, slots)

    def _after_in_child(self) -> None:
        slots = self._known()
        if slots is not None and slots.inherited:
            slots.wake_all()


pools = Participants(
    before=Maintenance._before_fork,
    after_in_parent=Maintenance._after_in_parent,
    after_in_child=Maintenance._after_in_child,
)
