"""What a ConnectionPool must know and do about one connection, whatever driver it is of.

Guarantees: the descriptors of a connection are flagged when it is made, and searched again before each os.fork, since a
client may have connected anew; so a child finds tombstones there before any Python runs. What a connection has
(rollback(), closed) is looked up once, when it is made.

Not covered: a connection that connects late or anew, if C code then forks before an os.fork has seen it.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from forksafe.descriptors import search
from forksafe.resources.ownership import Owned, OwnershipPolicy, unflag_files
from forksafe_core import Entry

__all__ = ["PoolEntry", "admit", "close", "close_quietly", "is_sqlite_file", "rollback"]

JITTER = 0.05  # so that connections made together are not all replaced together

logger = logging.getLogger("forksafe.pool.pool")


class PoolEntry(Owned):
    """What belongs to this process of one connection. The core's Entry has it as `extra`.

    fresh: it was not handed out yet. maker: then, the thread that made it, which is about to end.
    """

    __slots__ = ("fresh", "maker")

    def __init__(self, conn: Any, policy: OwnershipPolicy) -> None:
        super().__init__(conn, policy, None)
        self.fresh = True
        self.maker: Any = None
        self.found = search.flag(conn, policy.fds)


def rollback(conn: Any) -> None:
    """The usual reset=: conn.rollback(), if the connection has that."""
    method = getattr(conn, "rollback", None)
    if method is not None:
        method()


def close(conn: Any) -> None:
    """The usual close=: conn.close(), if the connection has that."""
    method = getattr(conn, "close", None)
    if method is not None:
        method()


def admit(conn: Any, reset: Callable[[Any], object] | None, max_lifetime: float, policy: OwnershipPolicy) -> Entry[Any]:
    """A connection that was just made: flagged, and with all that is needed when it comes back."""
    if conn is None:
        raise TypeError(f"{policy.name}: connect() returned None, and a connection is needed")
    extra = PoolEntry(conn, policy)
    if extra.found.unknown:
        search.warn_unknown(conn, policy.name, extra.found)
    return Entry(
        conn,
        reset=_bound(reset, conn),
        has_closed=hasattr(conn, "closed") and not callable(conn.closed),
        lifetime=max_lifetime * (1 - JITTER * random.random()),
        extra=extra,
    )


def _bound(reset: Callable[[Any], object] | None, conn: Any) -> Callable[[], object] | None:
    if reset is rollback:
        method: Callable[[], object] | None = getattr(conn, "rollback", None)
        return method
    return None if reset is None else partial(reset, conn)


def close_quietly(conn: Any, closing: Callable[[Any], object], extra: PoolEntry | None = None) -> None:
    """Close a connection that is not needed any more. That it cannot be closed properly is then no news."""
    try:
        if extra is not None:
            unflag_files(extra.found.descriptors)
        closing(conn)
    except Exception:
        logger.debug("closing %r failed", conn, exc_info=True)


def is_sqlite_file(extra: PoolEntry) -> bool:
    """True for an SQLite connection to a file: such must not cross a fork open. One in memory may."""
    sqlite3 = sys.modules.get("sqlite3")
    return sqlite3 is not None and isinstance(extra.value, sqlite3.Connection) and bool(extra.found.descriptors)
