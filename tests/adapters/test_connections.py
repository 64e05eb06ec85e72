"""protect() for what is open: sockets and files, objects that change later, and what goes wrong on the way."""

from __future__ import annotations

import gc
import io
import os
import threading
import weakref

import pytest

import forksafe
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.hangs import assert_child_hangs
from support.sql import PID, scalar


class Holder:
    def __init__(self, *things):
        self.things = list(things)


def test_socket(pair, fork):
    a, b = pair
    assert forksafe.protect(a) is a
    assert run_in_child(lambda: (forksafe.generation(), a.recv(1))[1], fork=fork) == b""
    a.send(b"x")
    assert b.recv(9) == b"x"


def test_control_socket(pair):
    a, b = pair
    assert run_in_child(lambda: a.send(b"child")) == 5
    assert b.recv(9) == b"child"


def test_what_an_object_opens_later_counts(pair, fork):
    """Found again before each fork that Python makes."""
    holder = forksafe.protect(Holder(threading.Lock()))
    holder.things.append(pair[0])
    if fork is os.fork:
        assert run_in_child(lambda: pair[0].recv(1), fork=fork) == b""


def test_engine_assigned_later(postgres):
    """An engine that a protected object gets later is protected, too."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    holder = forksafe.protect(Holder(threading.Lock()))
    engine = sqlalchemy.create_engine(postgres.url())
    holder.things.append(engine)

    def session():
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar()

    mine = session()
    assert run_in_child(session) != mine
    assert session() == mine
    engine.dispose()


def test_a_connections_own_lock(postgres, busy):
    """psycopg: a thread that uses the connection has its lock; in a child it fails, and does not hang."""
    psycopg = pytest.importorskip("psycopg")
    connection = psycopg.connect(postgres.dsn())

    def child():
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return "failed"

    busy(connection.lock.acquire, connection.lock.release)
    assert_child_hangs(child, "in execute")  # the control
    forksafe.protect(connection)
    assert run_in_child(child) == "failed"
    connection.lock.release()
    connection.close()
    connection.lock.acquire()


def test_a_sqlite_file_under_sqlalchemy(tmp_path):
    """A file is opened anew in the child; what is in memory stays (see test_sqlalchemy.py)."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = forksafe.protect(sqlalchemy.create_engine(f"sqlite:///{tmp_path}/file.db"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (n int)"))

    def child():
        with engine.begin() as connection:
            return connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)")).rowcount

    assert run_in_child(child) == 1
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 1
    engine.dispose()


def test_fork_inside_hook(busy):
    """It forgets nothing of the outer fork."""
    lock = forksafe.protect(threading.Lock())
    inner = []

    def fork_again():
        registration.unregister()
        inner.append(run_in_child(lambda: lock.acquire(timeout=1)))

    busy(lock.acquire, lock.release)
    registration = forksafe.register_at_fork(before=fork_again)
    assert run_in_child(lambda: lock.acquire(timeout=1)) is True
    assert inner == [True]


def test_adapter_raises(pair, busy, monkeypatch, registrations):
    """An adapter that raises is reported, and the other objects are protected nevertheless."""
    failing = []

    class Mine(Holder):
        """Not Holder itself: instances of other tests may not have been collected yet."""

    def parts(obj):
        if failing:
            raise ValueError("parts")
        return []

    forksafe.register_adapter(Mine, parts=parts, reset=lambda obj: 1 / 0)
    reported = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    first = forksafe.protect(Mine())
    lock = forksafe.protect(threading.Lock())
    busy(lock.acquire, lock.release)
    assert run_in_child(lambda: (lock.acquire(timeout=1), reported)) == (True, [ZeroDivisionError])
    failing.append(1)
    assert run_in_child(lambda: (lock.acquire(timeout=1), reported)) == (True, [ValueError, ValueError])
    forksafe.unprotect(first)


def test_unprotect_flagged_before(pair):
    a, b = pair
    forksafe.close_on_fork(a)
    forksafe.protect(a)
    forksafe.protect(b)
    forksafe.unprotect(a)
    forksafe.unprotect(b)
    assert atfork.is_flagged(a.fileno())
    assert not atfork.is_flagged(b.fileno())


def test_watch_raises(pair, registrations):
    """Nothing is half protected when watch= raises."""
    from forksafe.adapters.protect import _protected

    def watch(obj, flag):
        flag(obj.things[0])
        raise ValueError("watch")

    forksafe.register_adapter(Holder, connections=lambda obj: obj.things, watch=watch)
    gc.collect()  # so that other tests' objects do not go now
    before = len(_protected)
    holder = Holder(pair[0])
    with pytest.raises(ValueError, match="watch"):
        forksafe.protect(holder)
    assert len(_protected) == before
    assert not atfork.is_flagged(pair[0].fileno())


def test_protect_nothing_open(pair):
    a, _ = pair
    a.close()
    for nothing in (a, io.StringIO()):
        with pytest.raises(TypeError, match="can do nothing for"):
            forksafe.protect(nothing)


def test_pools_held_weakly(postgres):
    """With a connection open, and one out: protect() keeps neither the object nor what watches it."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    psycopg_pool = pytest.importorskip("psycopg_pool")
    peewee = pytest.importorskip("peewee")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    database.execute_sql(PID)
    engine, bare = (sqlalchemy.create_engine(postgres.url()) for _ in range(2))
    scalar(engine), scalar(bare)
    pool = psycopg_pool.ConnectionPool(postgres.dsn(), min_size=1, open=True)
    with pool.connection() as connection:
        connection.execute(PID)
    del connection
    references = []
    for each in (database, engine, bare.pool, pool):
        references.append(weakref.ref(forksafe.protect(each)))
    pool.close()
    database.close()
    engine.dispose()
    bare.dispose()
    del each, database, engine, bare, pool
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
