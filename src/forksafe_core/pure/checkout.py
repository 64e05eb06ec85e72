"""Checkout and what it needs, for platforms without fork: as _checkout.pyx, with a lock and no generations.

The lock can be taken again by the thread that has it, as a signal handler or finaliser may do in the middle of a step;
then, as in any Python, the step that was interrupted goes on with what it finds.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from types import GenericAlias
from typing import Any, TypeVar, final

__all__ = ["Checkout", "Item", "Slots", "Waiter"]

MOST_SECONDS = 1e9

F = TypeVar("F", bound=Callable[..., Any])


class Item:
    def __init__(
        self,
        value: Any,
        *,
        reset: Callable[[], object] | None = None,
        has_closed: bool = False,
        lifetime: float = MOST_SECONDS,
        extra: Any = None,
    ) -> None:
        self.value = value
        self.reset = reset
        self.has_closed = has_closed
        self.extra = extra
        self._expires = time.monotonic() + lifetime
        self._since = 0.0
        self._loan = 0
        self._lent = False

    @property
    def expired(self) -> bool:
        return self._expires <= time.monotonic()

    def _lend(self) -> Item:
        self._lent = True
        self._loan += 1
        return self


@final
class Waiter:
    def __init__(self) -> None:
        self.item: Item | None = None
        self.error: BaseException | None = None
        self._woken = threading.Event()

    def wait(self, seconds: float) -> bool:
        return self._woken.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))

    def wake(self) -> None:
        self._woken.set()


def _step(method: F) -> F:
    @functools.wraps(method)
    def step(self: Slots, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return step  # type: ignore[return-value]


@final
class Slots:
    inherited = False

    def __init__(
        self,
        min_size: int,
        max_size: int,
        *,
        idle_limit: float = MOST_SECONDS,
        closed: bool = False,
        extra: Any = None,
    ) -> None:
        self._lock = threading.RLock()
        self._items: dict[int, Item] = {}
        self._idle: list[Item] = []
        self._waiters: list[Waiter] = []
        self._counts: dict[str, int] = {}
        self._min_size, self._max_size, self._making = min_size, max_size, 0
        self._idle_limit = idle_limit
        self._retry_at: float | None = None
        self._requests = 0
        self._watched = False
        self.closed = closed
        self.extra = extra

    @property
    def _size(self) -> int:
        return len(self._items) + self._making

    def _needs_watching(self) -> bool:
        spare = self._idle_limit < MOST_SECONDS and self._size > self._min_size
        return not self.closed and (self._retry_at is not None or spare)

    def _slow(self) -> bool:
        too_many = self._size > self._max_size
        return self.closed or bool(self._waiters) or too_many or (not self._watched and self._needs_watching())

    def _place(self, item: Item) -> None:
        if self._waiters:
            waiter = self._waiters.pop(0)
            waiter.item = item._lend()
            waiter.wake()
        else:
            item._since = time.monotonic()
            self._idle.append(item)

    @_step
    def _lend_fast(self) -> Item | None:
        if self._slow() or not self._idle or self._idle[-1].expired:
            return None
        self._requests += 1
        return self._idle.pop()._lend()

    @_step
    def _place_fast(self, item: Item) -> bool:
        if self._slow() or item.expired:
            return False
        self._place(item)
        return True

    @_step
    def _end_loan(self, item: Item | None, loan: int | None) -> bool:
        if item is None or not item._lent or loan not in (None, item._loan):
            return False
        item._lent = False
        return True

    @_step
    def _rescue(self, item: Item, loan: int, bad: bool) -> None:
        if item._lent or item._loan != loan or item in self._idle or id(item.value) not in self._items:
            return
        if bad or self.closed:
            del self._items[id(item.value)]
        else:
            self._place(item)

    @_step
    def ask(self, waiter: Waiter, again: bool = False) -> bool:
        if self.closed:
            return False
        self._requests += not again
        if self._idle and (again or not self._waiters):
            waiter.item = self._idle.pop()._lend()
        else:
            self._waiters.insert(0 if again else len(self._waiters), waiter)
        return True

    @_step
    def withdraw(self, waiter: Waiter) -> bool:
        if waiter not in self._waiters:
            return False
        self._waiters.remove(waiter)
        return True

    def wake_all(self) -> None:
        while self._waiters:
            self._waiters.pop().wake()

    @_step
    def reserve(self, claim: list[None]) -> bool:
        if self.closed or self._size >= self._max_size:
            return False
        if len(self._waiters) <= self._making and (self._size >= self._min_size or self._retry_at is not None):
            return False
        claim.append(None)
        self._making += 1
        return True

    @_step
    def add(self, item: Item) -> bool:
        if id(item.value) in self._items:
            raise ValueError("there already")
        self._making -= 1
        if not self.closed:
            self._items[id(item.value)] = item
            self._place(item)
        return not self.closed

    @_step
    def fail(self, error: BaseException | None) -> bool:
        self._making -= 1
        if error is None or not self._waiters:
            return False
        waiter = self._waiters.pop(0)
        waiter.error = error
        waiter.wake()
        return True

    @_step
    def give(self, item: Item) -> bool:
        item._lent = False
        if self.closed or self._size > self._max_size or id(item.value) not in self._items:
            return False
        self._place(item)
        return True

    @_step
    def remove(self, item: Item) -> None:
        item._lent = False
        self._items.pop(id(item.value), None)

    @_step
    def take_idle(self, only_stale: bool = False, only_surplus: bool = False) -> Item | None:
        if only_surplus and self._size <= self._max_size:
            return None
        idle_since = time.monotonic() - self._idle_limit if self._size > self._min_size else 0.0
        for item in self._idle:
            if not only_stale or item.expired or item._since <= idle_since:
                self._idle.remove(item)
                return item
        return None

    @_step
    def take_out(self, item: Item) -> bool:
        if item not in self._idle:
            return False
        self._idle.remove(item)
        return True

    @_step
    def close(self) -> None:
        self.closed = True
        self.wake_all()

    @_step
    def resize(self, min_size: int, max_size: int) -> None:
        self._min_size, self._max_size = min_size, max_size

    @_step
    def retry_in(self, seconds: float) -> None:
        self._retry_at = time.monotonic() + seconds if seconds else None

    @_step
    def watch(self) -> bool:
        if self._watched or not self._needs_watching():
            return False
        self._watched = True
        return True

    @_step
    def next_due(self) -> float | None:
        now = time.monotonic()
        if not self._needs_watching():
            self._watched = False
            return None
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
            return 0.0
        due = [item._expires for item in self._idle]
        if self._retry_at is not None:
            due.append(self._retry_at)
        if self._size > self._min_size:
            due += [now + self._idle_limit, *(item._since + self._idle_limit for item in self._idle)]
        return max(min(due) - now, 0.0)

    @_step
    def stop_watching(self) -> None:
        self._watched = False

    @_step
    def count(self, what: str, n: int = 1) -> None:
        self._counts[what] = self._counts.get(what, 0) + n

    @_step
    def figures(self) -> dict[str, int]:
        return {
            **self._counts,
            "min_size": self._min_size,
            "max_size": self._max_size,
            "size": self._size,
            "idle": len(self._idle),
            "making": self._making,
            "waiting": len(self._waiters),
            "requests": self._requests,
        }

    @_step
    def snapshot(self) -> list[tuple[Item, bool]]:
        return [(item, item in self._idle) for item in self._items.values()]

    def find(self, value: object) -> Item | None:
        return self._items.get(id(value))


class Checkout:
    """Lends things. The class derived from it says what they are, and deals with all that is unusual."""

    __class_getitem__: Any = classmethod(GenericAlias)
    _looks_first = False
    _slots: Slots | None = None

    def getconn(self, timeout: float | None = None) -> Any:
        """Take a connection out of the pool; see ConnectionPool."""
        return self._take(timeout).value

    def putconn(self, conn: Any, /) -> None:
        """Give a connection back. ValueError for one that is not handed out by this pool."""
        item = self._slots and self._slots.find(conn)
        if self._slots is None or item is None or not self._put(item, None):
            self._put_unknown(conn)  # type: ignore[attr-defined]

    def connection(self, timeout: float | None = None) -> Lease:
        """A context manager: `with pool.connection() as conn`."""
        return Lease(self, timeout)

    def _take(self, timeout: float | None) -> Item:
        if timeout is not None:
            self._check_timeout(timeout)  # type: ignore[attr-defined]
        item = None if self._slots is None or self._looks_first else self._slots._lend_fast()
        return item or self._lend_slowly(timeout)  # type: ignore[attr-defined]

    def _put(self, item: Item, loan: int | None) -> bool:
        slots = self._current()
        if not slots._end_loan(item, loan):
            return False
        error, closed = None, False
        try:
            closed = item.has_closed and bool(item.value.closed)
            if not closed and item.reset is not None:
                item.reset()
        except BaseException as caught:
            error = caught
        if closed or error is not None or not slots._place_fast(item):
            kept = item._loan
            try:
                self._take_back_slowly(slots, item, closed, error)  # type: ignore[attr-defined]
            except BaseException:
                slots._rescue(item, kept, closed or error is not None)
                raise
        return True

    def _current(self) -> Slots:
        if self._slots is None:
            made = self._new_slots()  # type: ignore[attr-defined]
            self.__dict__.setdefault("_slots", made)  # one step: of several threads one wins
        return self._slots  # type: ignore[return-value]

    def _known(self) -> Slots | None:
        return self._slots

    def _is_inherited(self, value: object) -> bool:
        return False

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: make one in each process, or fork")


@final
class Lease:
    """What connection() returns. Also gives back when it is dropped without its __exit__() having been called."""

    __class_getitem__: Any = classmethod(GenericAlias)
    _item: Item | None = None

    def __init__(self, owner: Checkout, timeout: float | None) -> None:
        if timeout is not None:
            owner._check_timeout(timeout)  # type: ignore[attr-defined]
        self._owner = owner
        self._timeout = timeout

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._item is not None and not is_finalizing():
            self.__exit__()

    def __enter__(self) -> Any:
        if self._item is not None:
            self._owner._entered_again(False)  # type: ignore[attr-defined]
        self._item = item = self._owner._take(self._timeout)
        self._loan = item._loan
        return item.value

    def __exit__(self, *exception: object) -> None:
        item, self._item = self._item, None
        if item is not None:
            self._owner._put(item, self._loan)
