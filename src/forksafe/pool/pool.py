"""ConnectionPool: connections of any driver, which no child ever shares with its parent.

Guarantees
  - In a child the pool is empty and all its slots are free, also those of threads that vanished; it connects anew.
    What the parent had, idle or handed out, is dead there before any Python runs: its descriptors are tombstones. It
    is kept alive for good, so no finaliser of it runs. Giving it back, the end of its `with` block, collection and
    exit do nothing to it. This holds whichever way the fork was made.
  - Waiters are served first come, first served, with a connection that comes back or a new one, whichever is there
    first. connect() is called in a thread of its own, so one that hangs delays no caller beyond its timeout. What it
    raises goes to the first waiter.
  - When nothing is unusual, taking and giving back takes no lock and makes no system call.
  - A thread exists only while it has something to do: one for each connect() under way, and one that closes idle
    connections while there are more than min_size. That one stops for a fork and goes on after it.

Why that survives fork: everything that changes lies in one object for each generation, which a child leaves alone.

Not covered: a connection that a vanished thread was just making. The child neither uses nor closes it, but its socket
stays open there. SQLite's connections to files must not cross a fork: idle ones are closed before it, and those
handed out are a ForkHazardWarning; a fork that Python did not make closes nothing and warns of nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from forksafe.arguments import seconds
from forksafe.errors import InheritedConnectionError, PoolClosed, PoolTimeout
from forksafe.pool.arguments import PoolStats, check_callables, checked_sizes
from forksafe.pool.entry import close, logger, rollback
from forksafe.pool.maintenance import Maintenance, pools
from forksafe.resources.ownership import OwnershipPolicy
from forksafe_core import Entry, Slots, Waiter

__all__ = ["ConnectionPool", "PoolStats"]

C = TypeVar("C")

FIRST_PAUSE, LAST_PAUSE = 0.01, 1.0  # seconds between new connections that check= refuses
MAKER_TIMEOUT = 1.0  # seconds to wait for the thread that made a connection: it has nothing left to do

_numbers = itertools.count(1)


class ConnectionPool(Maintenance[C]):
    """ConnectionPool(connect, *, min_size=0, max_size=10, timeout=30.0, max_idle=600.0, max_lifetime=3600.0, ...)

    Keeps connections that connect() returns, and lends them: `with pool.connection() as conn`. In a child the pool is
    empty and connects anew; what its parent has is neither used nor closed there. Nothing is connected before the
    first use.

    connect: called without arguments, in a thread of its own with the caller's context variables.
    min_size: as many are made from the first use on, in the background, and kept. max_size: the most there are at
    once; None: min_size. timeout: seconds that getconn() and connection() wait. max_idle: seconds after which an idle
    connection beyond min_size is closed. max_lifetime: seconds after which one is replaced, up to 5 % less. Each may
    be math.inf. check: called with a connection before it is handed out; if it raises, the connection is replaced.
    reset: called with a connection when it comes back; if it raises, or the connection's attribute `closed` is true,
    the connection is replaced; None for nothing; by default its rollback(), if it has one. close: called with a
    connection to close it; by default its close(). fds: called with a connection, returns its descriptors, for when
    forksafe cannot find them (it warns then); see register_finder(). name: for messages, threads and logs.
    """

    __module__ = "forksafe"

    def __init__(
        self,
        connect: Callable[[], C],
        *,
        min_size: int = 0,
        max_size: int | None = 10,
        timeout: float = 30.0,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        check: Callable[[C], object] | None = None,
        reset: Callable[[C], object] | None = rollback,
        close: Callable[[C], object] = close,
        fds: Callable[[C], int | Iterable[Any]] | tuple[()] | None = None,
        name: str | None = None,
    ) -> None:
        check_callables(connect=connect, close=close)
        optional = {"check": check, "reset": reset, "fds": None if fds == () else fds}
        check_callables(**{what: function for what, function in optional.items() if function is not None})
        self._sizes = checked_sizes(min_size, max_size)
        for what, value in (("timeout", timeout), ("max_idle", max_idle), ("max_lifetime", max_lifetime)):
            seconds(value, f"ConnectionPool({what}=...)", infinite=True)
        self.name = f"pool-{next(_numbers)}" if name is None else str(name)
        self.timeout = timeout
        self.max_idle = max_idle
        self.max_lifetime = max_lifetime
        self._connect = connect
        self._check = check
        self._looks_first = check is not None
        self._reset = reset
        self._close = close
        self._policy = OwnershipPolicy(f"ConnectionPool {self.name!r}", fds, "discard")
        self._closed = False
        pools.add(self)

    @property
    def min_size(self) -> int:
        return self._sizes[0]

    @property
    def max_size(self) -> int:
        return self._sizes[1]

    @property
    def closed(self) -> bool:
        """True once close() was called, here or before the fork in a parent."""
        return self._closed

    def __enter__(self) -> ConnectionPool[C]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        slots = self._current()
        figures = slots.figures()
        state = f"{figures['pool_available']} idle, {_out(slots)} out, {figures['requests_waiting']} waiting"
        state += ", closed" if self._closed else f", at most {self.max_size}"
        return f"<forksafe.{type(self).__name__} {self.name!r}: {state}>"

    def stats(self) -> PoolStats:
        """What the pool has and did in this process."""
        return PoolStats(**self._current().figures())

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until there are min_size connections. PoolTimeout after that many seconds; what connect() raises.

        The pool stays open whatever happens.
        """
        seconds(timeout, "wait()", infinite=True)
        deadline = time.monotonic() + timeout
        slots = self._open()
        slots.retry_in(0)
        while True:
            slots.extra.grow(self, slots)
            slots.extra.join_makers(deadline)
            figures = slots.figures()
            made, wanted = figures["pool_size"] - slots.making, figures["pool_min"]
            if slots.inherited or made >= wanted:
                return
            error, slots.extra.error = slots.extra.error, None
            if error is not None:
                raise error
            if slots.closed:
                raise self._closed_error()
            if time.monotonic() >= deadline:
                raise PoolTimeout(f"pool {self.name!r}: {made} of {wanted} connections were made in {timeout:g} s")

    def check(self) -> None:
        """Call check= with every idle connection, and replace those for which it raises."""
        slots = self._open()
        for entry, _ in slots.snapshot():
            if slots.take_out(entry) and (self._refusal(slots, entry) or not slots.hand_over(entry)):
                self._retire(slots, entry)
        self._keep_up(slots)

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change min_size and max_size (None: as min_size). A surplus is closed: idle ones now, others at return."""
        self._sizes = checked_sizes(min_size, max_size)
        slots = self._current()
        slots.resize(*self._sizes)
        while (entry := slots.take_idle(only_surplus=True)) is not None:
            self._retire(slots, entry)
        self._keep_up(slots)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool for good: idle connections now, others when they come back. Waiters get PoolClosed.

        timeout: seconds to wait for a connect() under way; what it makes later is closed then. In a child only the
        child's own connections are closed, and the parent's pool stays open.
        """
        seconds(timeout, "close()", infinite=True)
        deadline = time.monotonic() + timeout
        self._closed = True
        slots = self._current()
        slots.close()
        while (entry := slots.take_idle()) is not None:
            self._retire(slots, entry)
        slots.extra.stop_watching(slots, timeout)
        slots.extra.join_makers(deadline)

    # What the core calls when something is unusual.

    def _check_timeout(self, timeout: float) -> None:
        seconds(timeout, "timeout", infinite=True)

    def _lend_slowly(self, timeout: float | None) -> Entry[C]:
        request = _Request(self.timeout if timeout is None else timeout)
        while True:
            slots = self._current()
            waiter = Waiter()
            try:
                if self._wait(slots, waiter, request):
                    if self._is_fit(slots, waiter, request):
                        entry: Entry[C] = waiter.entry
                        return entry
                    request.again = not slots.inherited
            except BaseException:
                self._let_go(slots, waiter)
                raise

    def _take_back_slowly(self, slots: Slots, entry: Entry[C], closed: bool, error: BaseException | None) -> None:
        if not slots.inherited:
            if closed or error is not None:
                slots.count("returns_bad")
                logger.warning(
                    "%s: a connection came back %s and is replaced: %r",
                    self._policy.name, "closed" if closed else "and could not be reset", entry.value, exc_info=error,
                )  # fmt: skip
                self._retire(slots, entry)
            elif entry.expired or not slots.hand_over(entry):
                self._retire(slots, entry)
            self._keep_up(slots)
        if error is not None and not isinstance(error, Exception):
            raise error

    def _put_unknown(self, conn: C) -> None:
        slots = self._current()
        if self._is_inherited(conn):
            return
        if slots.find(conn) is not None:
            raise ValueError(f"putconn(): this connection was given back to pool {self.name!r} already: {conn!r}")
        raise ValueError(f"putconn() takes a connection that pool {self.name!r} has handed out, not {conn!r}")

    def _entered_again(self, inherited: bool) -> None:
        if inherited:
            raise InheritedConnectionError(
                f"this `with` block of pool {self.name!r} began before the fork, and its connection is the parent's: "
                "call connection() again in the child"
            )
        raise RuntimeError("connection() gives one `with` block a connection: call it again for another")

    # Lending.

    def _wait(self, slots: Slots, waiter: Waiter, request: _Request) -> bool:
        """Wait until the waiter has a connection. False if a fork made all this the parent's."""
        if not slots.enqueue(waiter, request.again):
            if slots.inherited:
                return False
            raise self._closed_error()
        if waiter.entry is not None:
            return True
        slots.count("requests_queued", not request.again)
        asked = time.monotonic()
        self._keep_up(slots)
        in_time = waiter.wait(request.deadline - time.monotonic()) or not slots.cancel(waiter)
        slots.count("requests_wait_ms", round((time.monotonic() - asked) * 1000))
        if slots.inherited:
            return False
        if waiter.entry is not None:
            return True
        slots.count("requests_errors")
        if waiter.error is not None:
            error, waiter.error = waiter.error, None
            try:
                raise error
            finally:
                del error
        if in_time:
            raise self._closed_error()
        raise self._timeout_error(slots, request)

    def _is_fit(self, slots: Slots, waiter: Waiter, request: _Request) -> bool:
        """Whether this connection may be handed out. Else it is replaced, and the caller asks again."""
        entry: Entry[C] = waiter.entry
        fresh, entry.extra.fresh = entry.extra.fresh, False
        maker, entry.extra.maker = entry.extra.maker, None
        if maker is not None and maker is not threading.current_thread():
            maker.join(MAKER_TIMEOUT)  # so that a program without threads has none again
        if fresh or not entry.expired:
            request.refusal = self._refusal(slots, entry)
            if request.refusal is None:
                return not slots.inherited
        self._retire(slots, entry)
        waiter.entry = None
        if fresh:  # then the next one will probably be refused, too
            left = request.deadline - time.monotonic()
            if left <= 0:
                slots.count("requests_errors")
                raise self._timeout_error(slots, request)
            time.sleep(min(next(request.pauses), left))
        return False

    def _refusal(self, slots: Slots, entry: Entry[C]) -> Exception | None:
        """What check= raises for this connection."""
        if self._check is None:
            return None
        try:
            self._check(entry.value)
        except Exception as error:
            slots.count("connections_lost")
            logger.info("%s: check= refuses %r, which is replaced", self._policy.name, entry.value, exc_info=True)
            return error
        except BaseException:  # it may be in the middle of anything
            self._retire(slots, entry)
            raise
        return None

    def _let_go(self, slots: Slots, waiter: Waiter) -> None:
        """An exception ends the waiting: no connection may be lost."""
        slots.cancel(waiter)
        entry: Entry[C] | None = waiter.entry
        waiter.entry = None
        if entry is None:
            return
        known = slots.find(entry.value)
        if known is not None and known is entry:  # else it was retired
            if not slots.hand_over(known):
                self._retire(slots, known)
            self._keep_up(slots)

    def _open(self) -> Slots:
        if self._closed:
            raise self._closed_error()
        return self._current()

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"pool {self.name!r} is closed and gives no more connections")

    def _timeout_error(self, slots: Slots, request: _Request) -> PoolTimeout:
        figures, making = slots.figures(), slots.making
        more = f", {making} being made" if making else ""
        unfit = "" if request.refusal is None else " that check= does not refuse"
        error = PoolTimeout(
            f"pool {self.name!r} had no connection within {request.limit:g} s{unfit}: {_out(slots)} of "
            f"{figures['pool_max']} handed out{more}, {figures['requests_waiting']} others wait"
        )
        if request.refusal is not None:  # a cause of None would hide the exception that the caller was handling
            error.__cause__ = request.refusal
        return error


class _Request:
    """A caller's request, which goes on when the connection that it was given is refused."""

    def __init__(self, limit: float) -> None:
        self.limit = limit  # seconds
        self.deadline = time.monotonic() + limit
        self.again = False
        self.pauses = _pauses()
        self.refusal: Exception | None = None  # what check= raised for the last one


def _out(slots: Slots) -> int:
    """How many connections are handed out."""
    figures = slots.figures()
    return figures["pool_size"] - figures["pool_available"] - slots.making


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, LAST_PAUSE)
