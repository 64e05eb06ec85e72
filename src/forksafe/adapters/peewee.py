"""The adapter for peewee's databases, pooled ones included: in a child, a database has no connection yet.

Guarantees, in a child: a protected database connects anew when it is used. What it had open is dead and kept alive for
good. A SQLite database in memory stays.

Why that survives fork: a database keeps one connection for each thread, and a pooled one two collections of them; the
child gives it others.
"""

from __future__ import annotations

from typing import Any

from forksafe.adapters.helpers import has_descriptors, part, watch_method
from forksafe.adapters.registry import Adapter
from forksafe_core import atfork

__all__ = ["ADAPTERS"]

_COLLECTIONS = ("_connections", "_in_use")  # of a pooled database


def _connections_of(database: Any) -> list[object]:
    return [database._state.conn, *(getattr(database, name, ()) for name in _COLLECTIONS)]


def _reset(database: Any) -> None:
    if database._state.conn is not None and not has_descriptors(database._state.conn):
        return
    atfork.keep_alive([vars(database._state).copy(), *_connections_of(database)])
    database._state.reset()
    for name in _COLLECTIONS:
        if hasattr(database, name):
            setattr(database, name, type(getattr(database, name))())


ADAPTERS = {
    "peewee.Database": Adapter(
        part("_lock", "_pool_lock", "_pool_available"),
        connections=_connections_of,
        watch=lambda database, flag: watch_method(database, "_connect", flag),
        reset=_reset,
    ),
}
