"""Adapters for SQLAlchemy's pools, engines and sessions.

Guarantees, in a child: a protected pool has no connection yet and connects anew when it is used. What it had open is
dead and kept alive for good, so that no finaliser and no `with` block that was open at the fork sends anything to the
parent's server. A connection that was checked out is replaced by a dead one. The pools that engine.dispose() left
behind count too. SQLite in memory stays.

Why that survives fork: a pool's events tell each connection that it makes; the child gives the pool the attributes of
a new one, in place, for others refer to it. Private attributes are used where SQLAlchemy has no public way to forget
connections without closing them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.adapters.helpers import DeadConnection, has_descriptors, instances_of, keep_attributes, part
from forksafe.adapters.registry import Adapter, Flag
from forksafe_core import atfork

__all__ = ["ADAPTERS"]


def _records_of(pool: Any) -> dict[int, Any]:
    """The records of its connections by id. They are kept in the pool, to which they refer."""
    records: dict[int, Any] = vars(pool).setdefault("_forksafe_records", {})
    return records


def _watch(pool: Any, flag: Flag) -> Callable[[], object]:
    event: Any = sys.modules["sqlalchemy.event"]
    family = _family_of(pool)
    if any(getattr(listener, "flag", None) == flag for listener in pool.dispatch.connect):
        return lambda: None  # dispose() made it of a pool that is watched
    alive = weakref.ref(pool)
    undone = False

    def connected(connection: Any, record: Any) -> None:
        if undone:  # a later pool has inherited these listeners
            return
        owner = record._ConnectionRecord__pool
        family.add(owner)
        _records_of(owner)[id(record)] = record
        flag(connection)

    def closed(connection: Any, record: Any) -> None:
        _records_of(record._ConnectionRecord__pool).pop(id(record), None)

    vars(connected).update(flag=flag, family=family)

    for record in _existing_records(pool):
        connected(record.dbapi_connection, record)
    listeners = (("connect", connected), ("close", closed))
    for name, listener in listeners:
        event.listen(pool, name, listener)

    def undo() -> None:
        nonlocal undone
        undone = True
        watched = alive()
        for name, listener in listeners if watched is not None else ():
            if event.contains(watched, name, listener):
                event.remove(watched, name, listener)

    return undo


def _family_of(pool: Any) -> weakref.WeakSet[Any]:
    """A pool, and those that engine.dispose() made of it: what was checked out stays with its pool.

    The listeners know them, which each new pool takes over from the one before.
    """
    families = (getattr(listener, "family", None) for listener in pool.dispatch.connect)
    family: weakref.WeakSet[Any] = next((each for each in families if each is not None), weakref.WeakSet())
    family.add(pool)
    return family


def _existing_records(pool: Any) -> list[Any]:
    """Also those that are checked out."""
    base: Any = sys.modules["sqlalchemy.pool.base"]
    mine = instances_of(base._ConnectionRecord, "_ConnectionRecord__pool", pool)
    return [record for record in mine if record.dbapi_connection is not None]


def _connections_of(pool: Any) -> list[object]:
    return [record.dbapi_connection for record in list(_records_of(pool).values())]


def _renew(pool: Any) -> None:
    records = _records_of(pool)
    connections = [record.dbapi_connection for record in records.values()]
    if connections and not any(map(has_descriptors, connections)):
        return  # SQLite in memory: its data would be lost
    old = object.__new__(type(pool))
    vars(old).update(keep_attributes(pool))
    atfork.keep_alive((old, connections, dict(records)))
    for record in records.values():
        _kill_record(record, old)
    records.clear()
    vars(pool).update(vars(old.recreate()))


def _kill_record(record: Any, old_pool: Any) -> None:
    dead = DeadConnection()
    reference = getattr(record, "fairy_ref", None)
    fairy = reference() if callable(reference) else None
    record._ConnectionRecord__pool = old_pool
    record.dbapi_connection = dead
    if fairy is not None and fairy.dbapi_connection is not None:
        fairy.dbapi_connection = dead
        fairy._pool = old_pool


def _engine_of(bind: Any) -> list[Any]:
    return [] if bind is None else [getattr(bind, "engine", bind)]


ADAPTERS = {
    "sqlalchemy.pool.base.Pool": Adapter(
        lambda pool: [each for each in _family_of(pool) if each is not pool],
        connections=_connections_of,
        watch=_watch,
        reset=_renew,
    ),
    "sqlalchemy.engine.base.Engine": Adapter(part("pool")),
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": Adapter(part("sync_engine")),
    "sqlalchemy.orm.session.Session": Adapter(lambda session: _engine_of(getattr(session, "bind", None))),
    "sqlalchemy.orm.session.sessionmaker": Adapter(lambda maker: _engine_of(getattr(maker, "kw", {}).get("bind"))),
    "sqlalchemy.orm.scoping.scoped_session": Adapter(part("session_factory")),
}
