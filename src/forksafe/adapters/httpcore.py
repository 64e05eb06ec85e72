"""Adapters for httpcore's pools, which httpx uses: in a child, a pool is empty, and all its slots are free.

Guarantees: in a child, a protected pool hands out as many connections as it was made for, all of them new, including
those that threads of the parent had checked out. What was idle is kept alive and never closed.

Why that survives fork: a pool keeps its connections and requests in two lists; the child gives it others.

Not covered: a response that the forking thread had not read to its end: in the child it ends early.
"""

from __future__ import annotations

from typing import Any

from forksafe.adapters.helpers import part
from forksafe.adapters.registry import Adapter
from forksafe_core import atfork

__all__ = ["ADAPTERS"]


class _Requests(list[Any]):
    """The requests that a pool works on. One that the forking thread still has is not among them in the child."""

    def remove(self, request: Any) -> None:
        if request in self:
            super().remove(request)


def _empty(pool: Any) -> None:
    atfork.keep_alive((pool._connections, pool._requests))
    pool._connections, pool._requests = [], _Requests()


_POOL = Adapter(part("_optional_thread_lock"), connections=lambda pool: list(pool._connections), reset=_empty)

ADAPTERS = {
    "httpcore._synchronization.ThreadLock": Adapter(part("_lock")),
    "httpcore.ConnectionPool": _POOL,
    "httpcore.AsyncConnectionPool": _POOL,
}
