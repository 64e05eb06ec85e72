"""The adapter for psycopg2.pool: in a child, a pool is empty.

Guarantees, in a child: a protected pool connects anew when it is used. What it had open is dead and kept alive for
good. putconn() ignores a connection that the forking thread had taken before the fork.
"""

from __future__ import annotations

from typing import Any

from forksafe.adapters.helpers import ignore_in_putconn, part, watch_method
from forksafe.adapters.registry import Adapter

__all__ = ["ADAPTERS"]


def _connections_of(pool: Any) -> list[Any]:
    return [*pool._pool, *pool._used.values()]


def _reset(pool: Any) -> None:
    inherited = _connections_of(pool)
    pool._pool, pool._used, pool._rused = [], {}, {}
    ignore_in_putconn(pool, inherited)


ADAPTERS = {
    "psycopg2.pool.AbstractConnectionPool": Adapter(
        part("_lock"),
        connections=_connections_of,
        watch=lambda pool, flag: watch_method(pool, "_connect", flag),
        reset=_reset,
    ),
}
