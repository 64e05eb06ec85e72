"""urllib3's pools, and so those of requests and botocore: in a child, all their slots are free.

Guarantees: a pool that was protected before the fork hands out as many connections in a child as it was made for, also
those that threads which vanished had checked out; with block=True a child would wait for these for ever. All are new
ones. What was idle is kept alive and never closed.

Why that survives fork: the pool keeps its slots in a queue; in the child it is given another one, of the same kind.

Not covered: a response that the forking thread had not read to its end: in the child it ends early.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from forksafe.adapters import register_adapter
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


register_adapter(
    "urllib3.connectionpool.HTTPConnectionPool",
    connections=lambda pool: [pool.pool] if pool.pool is not None else [],
    reset=renew,
)
