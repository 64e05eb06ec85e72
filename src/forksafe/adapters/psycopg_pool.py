"""The adapter for psycopg_pool.ConnectionPool: in a child, the pool is made anew, in place.

Guarantees, in a child: a protected pool has the parameters it was made with, and connections and worker threads of the
child's own. It opens when it is first used, for that starts threads. What it had open is dead and kept alive for good.
putconn(), and so a `with pool.connection()` that was open at the fork, ignores a connection of the parent's.

Why that survives fork: the attributes of a new pool replace those of the inherited one, which are kept.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.adapters.helpers import (
    before_first_call,
    ignore_in_putconn,
    instances_of,
    keep_attributes,
    watch_method,
)
from forksafe.adapters.registry import Adapter, Flag

__all__ = ["ADAPTERS"]


def _watch(pool: Any, flag: Flag) -> Callable[[], object]:
    made: weakref.WeakSet[Any] = weakref.WeakSet()
    vars(pool)["_forksafe_made"] = made

    def flag_and_note(conn: Any) -> None:
        made.add(conn)
        flag(conn)

    lent = instances_of(sys.modules["psycopg"].Connection, "_pool", pool)  # an idle one does not refer to its pool
    for conn in [*pool._pool, *lent]:
        flag_and_note(conn)
    return watch_method(pool, "_connect", flag_and_note)


def _connections_of(pool: Any) -> list[Any]:
    """Those that it made, lent ones included."""
    return list(vars(pool).get("_forksafe_made", ()))


def _renew(pool: Any) -> None:
    before = keep_attributes(pool)
    base = next(cls for cls in type(pool).__mro__ if cls.__module__.startswith("psycopg_pool."))
    given = {}
    for name in inspect.signature(base).parameters:
        for attribute in (name, f"_{name}"):
            if attribute in before:
                given[name] = before[attribute]
                break
    fresh = base(**{**given, "open": False})
    vars(pool).update(vars(fresh))
    ignore_in_putconn(pool, _connections_of(pool))
    if not before["_closed"]:
        before_first_call(pool, "_check_open_getconn", lambda pool: pool.open())


ADAPTERS = {
    "psycopg_pool.pool.ConnectionPool": Adapter(connections=_connections_of, watch=_watch, reset=_renew),
}
