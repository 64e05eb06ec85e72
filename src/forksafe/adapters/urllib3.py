"""The adapter for urllib3's pools, which requests and botocore use: in a child, all slots of a pool are free.

Guarantees: in a child, a protected pool hands out as many connections as it was made for, all of them new, including
those that threads of the parent had checked out. What was idle is kept alive and never closed.

Why that survives fork: a pool keeps its slots in a queue; the child gives it another one.

Not covered: a response that the forking thread had not read to its end: in the child it ends early.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from forksafe.adapters.registry import Adapter
from forksafe_core import atfork

__all__ = ["ADAPTERS"]

_sizes: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # of the pools that have been renewed


def _renew(pool: Any) -> None:
    inherited = pool.pool
    if inherited is None:  # closed
        return
    atfork.keep_alive(inherited)
    slots = _sizes.setdefault(pool, inherited.maxsize)
    # The forking thread may give back what it had checked out: in a blocking pool there must be room for that.
    fresh = pool.QueueCls(2 * slots if pool.block else slots)
    for _ in range(slots):
        fresh.put(None, block=False)
    pool.pool = fresh


ADAPTERS = {
    "urllib3.connectionpool.HTTPConnectionPool": Adapter(
        connections=lambda pool: [pool.pool] if pool.pool is not None else [], reset=_renew
    ),
}
