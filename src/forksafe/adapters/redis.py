"""Adapters for redis-py: in a child, a pool is empty.

Guarantees, in a child: a protected client or pool connects anew when it is used. What it had open is dead and kept
alive for good.

Why that survives fork: redis-py notices by itself that it is in a child. But it would close and collect what it has;
so that is kept alive, and the pool is reset before it notices.
"""

from __future__ import annotations

from typing import Any

from forksafe.adapters.helpers import keep_attributes, part
from forksafe.adapters.registry import Adapter

__all__ = ["ADAPTERS"]


def _reset(pool: Any) -> None:
    keep_attributes(pool)
    pool.reset()


ADAPTERS = {
    "redis.connection.ConnectionPool": Adapter(
        part("_lock", "_fork_lock"), connections=lambda pool: [pool], reset=_reset
    ),
    "redis.client.Redis": Adapter(
        part("connection_pool", "single_connection_lock"),
        connections=lambda client: [client.connection] if client.connection is not None else [],
    ),
}
