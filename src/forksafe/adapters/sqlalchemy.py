"""Adapters for other libraries' engines, pools and clients, by name: none of them is imported here.

Guarantees, in a child of a process that protected one: it can be used at once, with connections of the child's own;
what it had open is dead (its descriptors are tombstones) and kept alive for good, so that no finaliser, no pool and no
`with` block that was open at the fork sends anything to the parent's server.

Each is changed in place, for others have references to it. Private attributes are used where a library has no public
way to forget connections without closing them; a version that lacks one is left as it is, tombstones included.
"""

from __future__ import annotations

import gc
import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.adapters.registry import Flag, part, register_adapter
from forksafe.errors import InheritedConnectionError
from forksafe.locks import Lock
from forksafe_core import atfork

__all__: list[str] = []


class _Dead:
    """In place of a connection that is the parent's: giving it up does nothing, using it is an error."""

    closed = True

    def rollback(self, *args: object, **kwargs: object) -> None:
        """Nothing: the transaction is the parent's."""

    close = terminate = rollback

    def __getattr__(self, name: str) -> Any:
        raise InheritedConnectionError(
            f"this connection was checked out before the fork and belongs to the parent: no {name} in a child. "
            "Check out one of the child's own"
        )


def _watch_method(obj: Any, name: str, flag: Flag) -> Callable[[], object]:
    """Flag whatever obj.name() returns from now on; returns what undoes it."""
    original = getattr(obj, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        flag(made)
        return made

    setattr(obj, name, method)
    alive, ours = weakref.ref(obj), weakref.ref(method)  # what undoes this must keep neither, for the one has the other

    def undo() -> None:
        owner = alive()
        if owner is not None and vars(owner).get(name) is ours():
            delattr(owner, name)

    return undo


def _living(cls: type, attribute: str, owner: Any) -> list[Any]:
    """The instances of a class that refer to their owner: they may be anywhere, on other threads' stacks.

    A search of everything, for when a pool is protected. isinstance() would ask lazy proxies what they are.
    """
    found = [obj for obj in gc.get_objects() if issubclass(type(obj), cls)]
    return [obj for obj in found if getattr(obj, attribute, None) is owner]


# SQLAlchemy: a pool forgets its connections in place; those that are checked out are replaced by dead ones.


def _records_of(pool: Any) -> dict[int, Any]:
    """The records of its connections by id. They refer to the pool, so they lie nowhere but in it."""
    records: dict[int, Any] = vars(pool).setdefault("_forksafe_records", {})
    return records


def _watch_pool(pool: Any, flag: Flag) -> Callable[[], object]:
    event: Any = sys.modules["sqlalchemy.event"]
    family = _family_of(pool)
    if any(getattr(listener, "flag", None) == flag for listener in pool.dispatch.connect):
        return lambda: None  # it came of a pool that is watched
    alive = weakref.ref(pool)
    undone = False

    def connected(connection: Any, record: Any) -> None:
        if undone:  # on a pool that took these listeners over
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
    """A pool, and those that engine.dispose() made of it: what was checked out stays with the one before.

    Known by the listeners, which each new pool takes over from the one before.
    """
    families = (getattr(listener, "family", None) for listener in pool.dispatch.connect)
    family: weakref.WeakSet[Any] = next((each for each in families if each is not None), weakref.WeakSet())
    family.add(pool)
    return family


def _existing_records(pool: Any) -> list[Any]:
    """Also those that are checked out."""
    base: Any = sys.modules["sqlalchemy.pool.base"]
    mine = _living(base._ConnectionRecord, "_ConnectionRecord__pool", pool)
    return [record for record in mine if record.dbapi_connection is not None]


def _open_in_pool(pool: Any) -> list[object]:
    return [record.dbapi_connection for record in list(_records_of(pool).values())]


def _renew_pool(pool: Any) -> None:
    records = _records_of(pool)
    connections = [record.dbapi_connection for record in records.values()]
    if connections and not any(map(_has_descriptors, connections)):
        return  # SQLite in memory: what is in there would be lost
    before = dict(vars(pool))
    old = object.__new__(type(pool))
    vars(old).update(before)
    atfork.keep_alive((old, connections, dict(records)))
    for record in records.values():
        _kill_record(record, old)
    records.clear()
    vars(pool).update(vars(old.recreate()))


def _has_descriptors(connection: object) -> bool:
    from forksafe.descriptors.search import find

    found = find(connection)
    return bool(found.descriptors or found.files or found.unknown)


def _kill_record(record: Any, old_pool: Any) -> None:
    dead = _Dead()
    reference = getattr(record, "fairy_ref", None)
    fairy = reference() if callable(reference) else None
    record._ConnectionRecord__pool = old_pool
    record.dbapi_connection = dead
    if fairy is not None and fairy.dbapi_connection is not None:
        fairy.dbapi_connection = dead
        fairy._pool = old_pool


def _bound_engine(session: Any) -> list[Any]:
    bind = getattr(session, "bind", None)
    return [] if bind is None else [getattr(bind, "engine", bind)]


def _factory_engine(factory: Any) -> list[Any]:
    bind = getattr(factory, "kw", {}).get("bind")
    return [] if bind is None else [getattr(bind, "engine", bind)]


register_adapter(
    "sqlalchemy.pool.base.Pool",
    parts=lambda pool: [each for each in _family_of(pool) if each is not pool],
    connections=_open_in_pool,
    watch=_watch_pool,
    reset=_renew_pool,
)
register_adapter("sqlalchemy.engine.base.Engine", parts=part("pool"))
register_adapter("sqlalchemy.ext.asyncio.engine.AsyncEngine", parts=part("sync_engine"))
register_adapter("sqlalchemy.orm.session.Session", parts=_bound_engine)
register_adapter("sqlalchemy.orm.session.sessionmaker", parts=_factory_engine)
register_adapter("sqlalchemy.orm.scoping.scoped_session", parts=part("session_factory"))


# psycopg_pool: made anew in place, and opened when it is first used, for that starts threads.

_lent: dict[int, weakref.WeakSet[Any]] = {}  # by id of a pool: the connections that it made


def _watch_psycopg_pool(pool: Any, flag: Flag) -> Callable[[], object]:
    key = id(pool)
    made = _lent[key] = weakref.WeakSet()

    def flag_and_note(conn: Any) -> None:
        made.add(conn)
        flag(conn)

    lent = _living(sys.modules["psycopg"].Connection, "_pool", pool)  # which those in the pool do not say of it
    for conn in [*pool._pool, *lent]:
        flag_and_note(conn)
    end_watch = _watch_method(pool, "_connect", flag_and_note)

    def undo() -> None:
        _lent.pop(key, None)
        end_watch()

    return undo


def _renew_psycopg_pool(pool: Any) -> None:
    before = dict(vars(pool))
    inherited = list(_lent.get(id(pool), ()))
    atfork.keep_alive((before, inherited))
    given = {}
    base = next(cls for cls in type(pool).__mro__ if cls.__module__.startswith("psycopg_pool."))
    for name in inspect.signature(base).parameters:
        for attribute in (name, f"_{name}"):
            if attribute in before:
                given[name] = before[attribute]
                break
    fresh = base(**{**given, "open": False})
    vars(pool).update(vars(fresh))
    pool.putconn = _putconn_but(pool, inherited)
    if not before["_closed"]:
        pool._check_open_getconn = _opened_first(pool)


def _putconn_but(pool: Any, connections: list[Any]) -> Callable[..., None]:
    """A `with pool.connection()` open at the fork ends by giving back what is the parent's, or its parent's."""
    inherited: set[int] = vars(pool).setdefault("_forksafe_inherited", set())
    inherited.update(map(id, connections))  # which are kept alive, so that no other gets one of these

    def putconn(conn: Any, *args: Any, **kwargs: Any) -> None:
        if id(conn) not in inherited:
            type(pool).putconn(pool, conn, *args, **kwargs)

    return putconn


def _opened_first(pool: Any) -> Callable[[], None]:
    lock = Lock()

    def check() -> None:
        with lock:
            if vars(pool).pop("_check_open_getconn", None) is not None:
                pool.open()
        pool._check_open_getconn()

    return check


register_adapter(
    "psycopg_pool.pool.ConnectionPool",
    connections=lambda pool: list(_lent.get(id(pool), ())),
    watch=_watch_psycopg_pool,
    reset=_renew_psycopg_pool,
)


# psycopg2.pool: its own thread may give back in a child what is the parent's.


def _renew_psycopg2_pool(pool: Any) -> None:
    inherited = _in_psycopg2_pool(pool)
    atfork.keep_alive(inherited)
    pool._pool, pool._used, pool._rused = [], {}, {}
    pool.putconn = _putconn_but(pool, inherited)


def _in_psycopg2_pool(pool: Any) -> list[Any]:
    return [*pool._pool, *pool._used.values()]


register_adapter(
    "psycopg2.pool.AbstractConnectionPool",
    parts=part("_lock"),
    connections=_in_psycopg2_pool,
    watch=lambda pool, flag: _watch_method(pool, "_connect", flag),
    reset=_renew_psycopg2_pool,
)


# redis: it notices by itself that it is in a child, but closes and collects what it has.


def _reset_redis_pool(pool: Any) -> None:
    atfork.keep_alive(dict(vars(pool)))
    pool.reset()


register_adapter(
    "redis.connection.ConnectionPool",
    parts=part("_lock", "_fork_lock"),
    connections=lambda pool: [pool],
    reset=_reset_redis_pool,
)
register_adapter(
    "redis.client.Redis",
    parts=part("connection_pool", "single_connection_lock"),
    connections=lambda client: [client.connection] if client.connection is not None else [],
)


# peewee: a connection for each thread, and those that a pool keeps.


def _watch_peewee(database: Any, flag: Flag) -> Callable[[], object]:
    return _watch_method(database, "_connect", flag)


def _of_peewee(database: Any) -> list[object]:
    pooled = [getattr(database, name, ()) for name in ("_connections", "_in_use")]
    return [database._state.conn, *pooled]


def _reset_peewee(database: Any) -> None:
    if database._state.conn is not None and not _has_descriptors(database._state.conn):
        return  # SQLite in memory
    atfork.keep_alive([vars(database._state).copy(), database._state.conn, *_of_peewee(database)])
    database._state.reset()
    for name in ("_connections", "_in_use"):
        if hasattr(database, name):
            kept = getattr(database, name)
            setattr(database, name, type(kept)())


register_adapter(
    "peewee.Database",
    parts=part("_lock", "_pool_lock", "_pool_available"),
    connections=_of_peewee,
    watch=_watch_peewee,
    reset=_reset_peewee,
)
