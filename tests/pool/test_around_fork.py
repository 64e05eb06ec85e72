"""What a ConnectionPool does before a fork, and what holds after it: flags, its threads, its figures, SQLite."""

from __future__ import annotations

import sqlite3
import threading
import time
import warnings

import pytest

import forksafe
from forksafe import ConnectionPool, PoolClosed
from forksafe.pool import maintenance
from forksafe.pool.connect_workers import ConnectWorkers
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.echo_pool import SIZE, assert_dead, uses_its_own
from support.pools import wait_until, watchers
from support.programs import python, script, succeeds
from support.threads import threads


def test_descriptors_are_flagged(server, pool):
    with pool.connection() as conn:
        number = conn.socket.fileno()
        assert atfork.is_flagged(number)
        pool.putconn(conn)
    pool.close()
    assert number not in atfork.flagged()


def test_client_connected_anew(server, pool):
    """It is flagged at the fork."""
    with pool.connection() as conn:
        other = server.connect()
        conn.socket.close()
        conn.socket = other.socket
        del other.socket  # it says no goodbye now
        run_in_child(lambda: assert_dead(conn))
        assert conn.query("parent's").endswith(" parent's")


def test_fds(server, calm_fork):
    """A connection whose descriptors forksafe cannot find."""

    class Hidden:
        __slots__ = ("query", "rollback")

        def __init__(self, conn):
            self.query, self.rollback = conn.query, conn.rollback
            sockets[id(self)] = conn.socket

    sockets = {}
    with ConnectionPool(lambda: Hidden(server.connect()), fds=lambda conn: sockets[id(conn)].fileno()) as pool:
        conn = pool.getconn()

        def child():
            forksafe.generation()
            assert_dead(conn)

        run_in_child(child, fork=calm_fork)
        assert conn.query("parent's")


def test_the_watcher_goes_on_after_a_fork(server):
    pool = ConnectionPool(server.connect)
    with pool.connection():
        pass
    assert watchers(pool)

    def child():
        assert not watchers(pool)
        with pool.connection():
            pass
        return len(watchers(pool))

    assert run_in_child(child) == 1
    wait_until(lambda: watchers(pool))


class SlowToChange(ConnectWorkers):
    """Other threads have their turn before the watcher that is wanted becomes another."""

    @property
    def wake(self):
        return self._wake

    @wake.setter
    def wake(self, waiter):
        time.sleep(0.05)
        self._wake = waiter


def test_watcher_woken_to_end(server, monkeypatch):
    """Else it sleeps on: the fork waits for it in vain, and there is one more of them after each."""
    monkeypatch.setattr(maintenance, "ConnectWorkers", SlowToChange)
    with ConnectionPool(server.connect) as pool:
        with pool.connection():
            pass
        (first,) = watchers(pool)
        run_in_child(lambda: None)
        assert not first.is_alive()
        assert len(watchers(pool)) == 1


def test_no_pool_thread_at_fork(tmp_path):
    """No thread of a pool is there at a fork."""
    program = script(
        tmp_path / "program.py",
        """
        import os, sys
        assert "threading" not in sys.modules
        os.register_at_fork(after_in_child=lambda: print(*sorted(
            thread.name for thread in threading._active.values())))  # before threading forgets those that vanished
        import threading
        import forksafe
        pool = forksafe.ConnectionPool(object, fds=(), name="mine")
        with pool.connection():
            pass
        threading.Thread(target=threading.Event().wait, daemon=True, name="another").start()
        print(*sorted(thread.name for thread in threading.enumerate()), flush=True)
        pid = os.fork()
        if pid == 0:
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    before, at_the_fork = succeeds(python(program)).splitlines()
    assert before.split() == ["MainThread", "another", "mine-watch"]
    assert at_the_fork.split() == ["MainThread", "another"]


def test_idle_ones_are_closed_in_a_child_too(server):
    with ConnectionPool(server.connect, max_idle=0.02) as pool:

        def child():
            with pool.connection() as conn:
                pass
            wait_until(lambda: pool.stats().pool_size == 0)
            return conn.number

        assert server.ends(run_in_child(child))


def test_closed_before_fork(server):
    """A pool that was closed before the fork is closed in the child."""
    pool = ConnectionPool(server.connect)
    pool.close()

    def child():
        with pytest.raises(PoolClosed):
            pool.getconn()
        return pool.closed

    assert run_in_child(child)


def test_resized_in_the_child(server, pool):
    def child():
        pool.resize(0, 1)
        return len(uses_its_own(pool, ()))

    with pool.connection():
        assert run_in_child(child) == 1
        assert pool.max_size == SIZE


def test_stats_begin_anew(server, pool):
    with pool.connection():
        stats = run_in_child(pool.stats)
    assert (stats.requests_num, stats.pool_size, stats.pool_max) == (0, 0, SIZE)


def test_a_storm_of_forks(server):
    """Threads that query, and forks all the while: no row is ever another's, and nothing hangs.

    os.fork only: after others the interpreter itself may hang in a child when many threads compete for it.
    """
    running = True
    wrong = []

    def work():
        while running:
            with pool.connection() as conn:
                text = f"{threading.get_ident()} {time.monotonic_ns()}"
                if conn.query(text) != f"{conn.number} {text}":
                    wrong.append(text)

    with ConnectionPool(server.connect, max_size=2, timeout=30) as pool, threads(work, 4):
        try:
            for _ in range(20):
                assert run_in_child(lambda: len(uses_its_own(pool, ()))) == 2
        finally:
            running = False
    assert wrong == []


@pytest.fixture
def sqlite_pool(tmp_path):
    def connect():
        conn = sqlite3.connect(tmp_path / "data.db", check_same_thread=False)
        conn.execute("CREATE TABLE IF NOT EXISTS numbers (n)")
        conn.commit()
        return conn

    with ConnectionPool(connect) as pool:
        yield pool


def insert(pool, number):
    with pool.connection() as conn:
        conn.execute("INSERT INTO numbers VALUES (?)", (number,))
        conn.commit()
        return [n for (n,) in conn.execute("SELECT n FROM numbers ORDER BY n")]


def test_sqlite_idle(sqlite_pool):
    """Such connections are closed before a fork."""
    assert insert(sqlite_pool, 1) == [1]
    with sqlite_pool.connection() as conn:
        pass
    assert run_in_child(lambda: insert(sqlite_pool, 2)) == [1, 2]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        conn.execute("SELECT 1")
    assert insert(sqlite_pool, 3) == [1, 2, 3]


def test_sqlite_handed_out(sqlite_pool):
    """It is a hazard."""
    insert(sqlite_pool, 1)
    with sqlite_pool.connection() as conn:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert run_in_child(lambda: insert(sqlite_pool, 2)) == [1, 2]
        assert any("1 of its SQLite connections to files are handed out" in str(each.message) for each in caught)
        assert conn.execute("SELECT count(*) FROM numbers").fetchone() == (2,)


def test_sqlite_in_memory_may_cross():
    with ConnectionPool(lambda: sqlite3.connect(":memory:", check_same_thread=False), max_size=1) as pool:
        with pool.connection() as conn:
            conn.execute("CREATE TABLE numbers (n)")
            conn.commit()
        run_in_child(lambda: None)
        with pool.connection() as again:
            assert again is conn and again.execute("SELECT * FROM numbers").fetchall() == []
