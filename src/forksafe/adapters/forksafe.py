"""Adapters for forksafe's own types: they need nothing, but for a standard lock that a condition was made with."""

from __future__ import annotations

from forksafe import locks
from forksafe.adapters.helpers import part
from forksafe.adapters.registry import Adapter

__all__ = ["ADAPTERS"]

ADAPTERS: dict[object, Adapter] = {
    **dict.fromkeys((locks.Lock, locks.RLock, locks.Semaphore, locks.BoundedSemaphore), Adapter()),
    **dict.fromkeys((locks.Condition, locks.Barrier, locks.Event), Adapter(part("_lock", "_cond"))),
    # These are derived from concurrent.futures' executors.
    **dict.fromkeys(("forksafe.ThreadPoolExecutor", "forksafe.ProcessPoolExecutor"), Adapter()),
}
