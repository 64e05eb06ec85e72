"""urllib3's pools, and so those of requests and botocore, and httpx's: in a child, all their slots are free.

Guarantees: a pool that was protected before the fork hands out as many connections in a child as it was made for, also
those that threads which vanished had checked out; a child would wait for these in vain. All are new ones. What was
idle is kept alive and never closed.

Why that survives fork: a pool of urllib3 keeps its slots in a queue, one of httpx in two lists; in the child it is
given others.

Not covered: a response that the forking thread had not read to its end: in the child it ends early.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from forksafe.adapters.registry import part, register_adapter
from forksafe_core import atfork

__all__ = ["renew"]

_sizes: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # of the pools whose queues are ours


def renew(pool: Any) -> None:
    """In a child: give this urllib3.HTTPConnectionPool, unless it is closed, new slots."""
    inherited = pool.pool
    if inherited is None:
        return
    atfork.keep_alive(inherited)
    slots = _sizes.setdefault(pool, inherited.maxsize)
    # The forking thread may give back what it had checked out: in a blocking pool there must be room for that.
    fresh = pool.QueueCls(2 * slots if pool.block else slots)
    for _ in range(slots):
        fresh.put(None, block=False)
    pool.pool = fresh


class _Requests(list[Any]):
    """Those that a pool of httpx works on; one that the thread which forked still has is none of them in the child."""

    def remove(self, request: Any) -> None:
        if request in self:
            super().remove(request)


def _empty(pool: Any) -> None:
    atfork.keep_alive((pool._connections, pool._requests))
    pool._connections, pool._requests = [], _Requests()


register_adapter("httpcore._synchronization.ThreadLock", parts=part("_lock"))
for _name in ("httpcore.ConnectionPool", "httpcore.AsyncConnectionPool"):
    register_adapter(
        _name,
        parts=part("_optional_thread_lock"),
        connections=lambda pool: list(pool._connections),
        reset=_empty,
    )
register_adapter(
    "urllib3.connectionpool.HTTPConnectionPool",
    connections=lambda pool: [pool.pool] if pool.pool is not None else [],
    reset=renew,
)
