"""How a ConnectionPool comes by connections and gets rid of them, and what it does around a fork.

Guarantees: connections are made and closed holding nothing. A slot is taken before connect() is called and is free
only after close() has returned, so there are never more than max_size connections. What is made for nobody goes to
whoever waits first.

Around a fork: the watcher stops, SQLite's connections to files are closed or warned of, and the descriptors of all
others are flagged as they are now. In a child the thread that forked is woken, should it have been waiting itself.

Not covered: see pool.py.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from forksafe.atfork.hooks import register_at_fork, warn_of_hazard
from forksafe.pool.connect_workers import STOP_TIMEOUT, Crew
from forksafe.pool.entry import abandon, admit, close_quietly, is_sqlite_file, logger
from forksafe.resources.ownership import Terms
from forksafe_core import Checkout, Item, Slots, atfork

__all__ = ["Upkeep"]

C = TypeVar("C")

_pools: dict[int, weakref.ref[Upkeep[Any]]] = {}  # by id


class Upkeep(Checkout[C]):
    """The part of ConnectionPool that makes and closes connections."""

    name: str
    max_idle: float
    max_lifetime: float
    _sizes: tuple[int, int]
    _closed: bool
    _connect: Callable[[], C]
    _reset: Callable[[C], object] | None
    _close: Callable[[C], object]
    _terms: Terms

    def _look_after_forks(self) -> None:
        """Have the pool's part in forks done, as long as it lives."""
        key = id(self)
        _pools[key] = weakref.ref(self, lambda _, forget=_pools.pop: forget(key, None))  # type: ignore[misc]

    def _new_slots(self) -> Slots:
        """Called by the core, for each generation that uses the pool."""
        return Slots(*self._sizes, idle_limit=self.max_idle, closed=self._closed, extra=Crew())

    def _make(self, slots: Slots) -> None:
        """Connect, into a slot that is reserved. Called by a thread of the Crew."""
        made: Any = None
        try:
            made = self._call_connect(slots)
            if slots.inherited:  # connect() forked, and this is the child
                abandon(made, self._terms)
                return
            item = admit(made, self._reset, self.max_lifetime, self._terms)
            me = threading.current_thread()
            item.extra.maker = me if me in slots.extra.makers else None
            kept = slots.add(item)
        except BaseException as error:
            if made is not None:
                close_quietly(made, self._close)
            self._make_failed(slots, error)
        else:
            slots.extra.made()
            if not kept:
                close_quietly(made, self._close, item.extra)

    def _call_connect(self, slots: Slots) -> C:
        began = time.monotonic()
        try:
            return self._connect()
        finally:
            slots.count("connections_num")
            slots.count("connections_ms", round((time.monotonic() - began) * 1000))

    def _make_failed(self, slots: Slots, error: BaseException) -> None:
        slots.count("connections_errors")
        if not slots.fail(error):
            slots.extra.failed(slots, error)
            logger.warning("%s: connecting failed, and nobody waits for it", self._terms.name, exc_info=error)
        self._keep_up(slots)

    def _retire(self, slots: Slots, item: Item[C]) -> None:
        """Close a connection that is in nobody's hands; then its slot is free."""
        if slots.inherited:
            return
        try:
            close_quietly(item.value, self._close, item.extra)
        finally:
            slots.remove(item)

    def _keep_up(self, slots: Slots) -> None:
        """Have connections made for those who wait, and a watcher if there is something to watch."""
        slots.extra.grow(self, slots)
        slots.extra.watch(self, slots)

    def _tend(self, slots: Slots) -> float | None:
        """Called by the watcher: close what was idle too long; seconds until it should look again."""
        while (item := slots.take_idle(only_stale=True)) is not None:
            self._retire(slots, item)
        slots.extra.grow(self, slots)
        return slots.next_due()

    def _before_fork(self) -> None:
        slots = self._known()
        if slots is None or slots.inherited:
            return
        slots.extra.stop_watching(slots, STOP_TIMEOUT)
        slots.extra.wait_ended(STOP_TIMEOUT)
        hazards = 0
        for item, _ in slots.snapshot():
            if not is_sqlite_file(item.extra):
                item.extra.flag()
            elif slots.take_out(item):
                self._retire(slots, item)
            else:
                item.extra.flag()
                hazards += 1
        if hazards:
            warn_of_hazard(
                f"{self._terms.name}: a fork while {hazards} of its SQLite connections to files are handed out. SQLite "
                "does not allow that: give them back first. In the child they are dead",
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


def _for_all(what: Callable[[Upkeep[Any]], None]) -> Callable[[], None]:
    def hook() -> None:
        for reference in list(_pools.values()):
            pool = reference()
            try:
                if pool is not None:
                    what(pool)
            except BaseException as error:  # the others' turn comes all the same
                atfork.write_unraisable(error, what)

    return hook


register_at_fork(
    before=_for_all(Upkeep._before_fork),
    after_in_parent=_for_all(Upkeep._after_in_parent),
    after_in_child=_for_all(Upkeep._after_in_child),
)
