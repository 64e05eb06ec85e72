"""protect() for psycopg2's pools, against a real server."""

from __future__ import annotations

import gc

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.sql import PID


@pytest.fixture
def pool(postgres):
    pool = pytest.importorskip("psycopg2.pool").ThreadedConnectionPool(0, 2, postgres.dsn())
    yield pool
    pool.closeall()


def pid_of(connection):
    with connection.cursor() as cursor:
        cursor.execute(PID)
        return cursor.fetchone()[0]


def test_psycopg2_pool(pool, fork):
    """In the child all is free, and giving back what was checked out does nothing."""
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


def test_control_psycopg2_pool(pool):
    taken = [pool.getconn(), pool.getconn()]
    with pytest.raises(Exception, match="exhausted"):
        run_in_child(lambda: pool.getconn() and None)
    for connection in taken:
        pool.putconn(connection)
