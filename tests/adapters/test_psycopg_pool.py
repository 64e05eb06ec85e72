"""protect() for psycopg_pool, against a real server.

The parent's session survives whatever a child does; without protect() (the controls) it ends or is garbled.
"""

from __future__ import annotations

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.sql import PID


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
    """Unprotected, the child has no workers and the parent's connections: none is free."""
    with pool.connection(), pool.connection(), pytest.raises(Exception, match="couldn't get a connection"):
        run_in_child(lambda: pool.getconn(timeout=0.3) and None)
