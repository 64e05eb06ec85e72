"""What a ConnectionPool must know and do about one connection, whatever driver it is of.

Guarantees: the descriptors of a connection are flagged when it is made, and sought again before each os.fork, for a
client may have connected anew; so a child finds tombstones there before any Python runs. What a connection has
(rollback(), closed) is looked up once, when it is made.

Not covered: a connection that connects late or anew, and is then forked by C code before Python's own fork saw it.
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from forksafe.descriptors import search as finding
from forksafe.resources.ownership import Owned, Terms, bury, unflag_files
from forksafe_core import Item

__all__ = ["Pooled", "abandon", "admit", "close", "close_quietly", "is_sqlite_file", "rollback"]

JITTER = 0.05  # so that connections made together are not all replaced together

logger = logging.getLogger("forksafe.pool.pool")


class Pooled(Owned):
    """What belongs to this process of one connection.

    fresh: it was not handed out yet. maker: then, the thread that made it, which is about to end.
    """

    __slots__ = ("fresh", "maker")

    def __init__(self, conn: Any, terms: Terms) -> None:
        super().__init__(conn, terms, None)
        self.fresh = True
        self.maker: Any = None
        self.found = finding.flag(conn, terms.fds)


def rollback(conn: Any) -> None:
    """The usual reset=: conn.rollback(), where a connection has that."""
    method = getattr(conn, "rollback", None)
    if method is not None:
        method()


def close(conn: Any) -> None:
    """The usual close=: conn.close(), where a connection has that."""
    method = getattr(conn, "close", None)
    if method is not None:
        method()


def admit(conn: Any, reset: Callable[[Any], object] | None, max_lifetime: float, terms: Terms) -> Item[Any]:
    """A connection that was just made: flagged, and with all that is needed when it comes back."""
    if conn is None:
        raise TypeError(f"{terms.name}: connect() returned None, and a connection is needed")
    pooled = Pooled(conn, terms)
    if pooled.found.unknown:
        finding.warn_unknown(conn, terms.name, pooled.found)
    return Item(
        conn,
        reset=_bound(reset, conn),
        has_closed=hasattr(conn, "closed") and not callable(conn.closed),
        lifetime=max_lifetime * (1 - JITTER * random.random()),
        extra=pooled,
    )


def _bound(reset: Callable[[Any], object] | None, conn: Any) -> Callable[[], object] | None:
    if reset is rollback:
        method: Callable[[], object] | None = getattr(conn, "rollback", None)
        return method
    return None if reset is None else partial(reset, conn)


def close_quietly(conn: Any, closing: Callable[[Any], object], pooled: Pooled | None = None) -> None:
    """Close a connection that is not wanted any more. That it cannot be closed properly is no news then."""
    try:
        if pooled is not None:
            unflag_files(pooled.found.descriptors)
        closing(conn)
    except Exception:
        logger.debug("closing %r failed", conn, exc_info=True)


def abandon(conn: Any, terms: Terms) -> None:
    """In a child: a connection that was half made in the parent. It is dead here, and kept alive for good."""
    bury(Pooled(conn, terms))


def is_sqlite_file(pooled: Pooled) -> bool:
    """True for an SQLite connection to a file: such must not cross a fork open. One in memory may."""
    sqlite3 = sys.modules.get("sqlite3")
    return sqlite3 is not None and isinstance(pooled.value, sqlite3.Connection) and bool(pooled.found.descriptors)
