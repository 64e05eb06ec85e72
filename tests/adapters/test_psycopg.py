"""protect() for database clients and their pools, against real servers.

The parent's session survives whatever a child does; without protect() (the controls) it ends or is garbled.
"""

from __future__ import annotations

import gc

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.sql import PID, scalar

# psycopg_pool


@pytest.fixture
def pool(postgres, tls):
    psycopg_pool = pytest.importorskip("psycopg_pool")
    pool = psycopg_pool.ConnectionPool(postgres.dsn(tls=tls), min_size=1, max_size=2, open=True, timeout=5)
    pool.wait()
    yield pool
    pool.close()


def pool_session(pool):
    with pool.connection() as connection:
        return connection.execute(PID).fetchone()[0]


def test_psycopg_pool(pool, fork):
    forksafe.protect(pool)
    session = pool_session(pool)

    def child():
        forksafe.generation()
        sessions = {pool_session(pool) for _ in range(4)}
        pool.close()
        return sessions

    sessions = run_in_child(child, fork=fork)
    assert sessions
    assert session not in sessions
    assert pool_session(pool) == session


def test_psycopg_pool_all_checked_out(pool):
    forksafe.protect(pool)
    with pool.connection() as first, pool.connection() as second:
        first.execute("CREATE TEMP TABLE t (n int)")

        def child():
            own = {pool_session(pool), pool_session(pool)}
            try:
                first.execute("SELECT 1")
            except Exception as error:
                failed = type(error).__name__
            pool.putconn(first)
            del own
            return failed, pool.get_stats()["pool_max"]

        assert run_in_child(child) == ("OperationalError", 2)
        assert first.execute("INSERT INTO t VALUES (1)").rowcount == 1
        assert second.execute(PID).fetchone()


def test_control_psycopg_pool(pool):
    """Unprotected, the child has no workers and the parent's connections: all out, it waits in vain."""
    with pool.connection(), pool.connection(), pytest.raises(Exception, match="couldn't get a connection"):
        run_in_child(lambda: pool.getconn(timeout=0.3) and None)


# psycopg2.pool


@pytest.fixture
def psycopg2_pool(postgres):
    pool = pytest.importorskip("psycopg2.pool").ThreadedConnectionPool(0, 2, postgres.dsn())
    yield pool
    pool.closeall()


def pid_of(connection):
    with connection.cursor() as cursor:
        cursor.execute(PID)
        return cursor.fetchone()[0]


def test_psycopg2_pool(psycopg2_pool, fork):
    """In the child all is free, and giving back what was checked out does nothing."""
    pool = psycopg2_pool
    before = pool.getconn()
    forksafe.protect(pool)
    taken = [before, pool.getconn()]
    sessions = [pid_of(connection) for connection in taken]

    def child():
        forksafe.generation()
        mine = list(taken)
        for connection in taken:
            pool.putconn(connection, close=True)
        del taken[:]
        gc.collect()
        own = [pool.getconn(), pool.getconn()]
        pids = [pid_of(connection) for connection in own]
        pool.putconn(own[0])
        pool.putconn(conn=own[1])
        pool.getconn()
        run_in_child(lambda: [pool.putconn(connection) for connection in mine] and None)  # the grandparent's
        return pids

    assert not set(run_in_child(child, fork=fork)) & set(sessions)
    assert [pid_of(connection) for connection in taken] == sessions
    for connection in taken:
        pool.putconn(connection)


def test_control_psycopg2_pool(psycopg2_pool):
    taken = [psycopg2_pool.getconn(), psycopg2_pool.getconn()]
    with pytest.raises(Exception, match="exhausted"):
        run_in_child(lambda: psycopg2_pool.getconn() and None)
    for connection in taken:
        psycopg2_pool.putconn(connection)


def test_they_are_held_weakly(postgres):
    """With a connection open, and one out: protect() keeps neither the object nor what watches it."""
    import weakref

    sqlalchemy = pytest.importorskip("sqlalchemy")
    psycopg_pool = pytest.importorskip("psycopg_pool")
    peewee = pytest.importorskip("peewee")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    database.execute_sql(PID)
    engine, bare = (sqlalchemy.create_engine(postgres.url()) for _ in range(2))
    scalar(engine), scalar(bare)
    pool = psycopg_pool.ConnectionPool(postgres.dsn(), min_size=1, open=True)
    pool_session(pool)
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
