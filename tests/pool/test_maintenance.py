"""How many connections a ConnectionPool keeps, for how long, and what becomes of them when it is closed."""

from __future__ import annotations

import gc
import math
import threading
import time
import weakref

import pytest

from forksafe import ConnectionPool, PoolClosed, PoolTimeout
from support.pools import LIMIT, Conn, in_thread, wait_for_waiters, wait_until, watchers
from support.programs import python, script, succeeds


def test_min_size_is_filled_in_the_background(new_pool, made):
    pool = new_pool(min_size=3)
    with pool.connection():
        pass
    wait_until(lambda: pool.stats().pool_available == 3)
    assert len(made) == 3


def test_wait(new_pool):
    pool = new_pool(min_size=3, max_size=None)
    pool.wait()
    assert pool.stats().pool_available == 3 == pool.max_size
    assert not [thread for thread in threading.enumerate() if thread.name == f"{pool.name}-connect"]
    pool.wait(0)


def test_wait_tells_what_is_wrong(new_pool):
    def connect():
        if failing:
            raise ConnectionRefusedError("no server")
        go.wait(LIMIT)
        return Conn()

    failing, go = True, threading.Event()
    pool = new_pool(connect, min_size=2, name="mine")
    with pytest.raises(ConnectionRefusedError, match="no server"):
        pool.wait()
    failing = False
    with pytest.raises(PoolTimeout, match=r"pool 'mine': 0 of 2 connections were made in 0.05 s"):
        pool.wait(0.05)
    go.set()
    pool.wait()
    assert pool.stats().pool_available == 2


def test_filling_that_failed_is_tried_again(new_pool, monkeypatch, caplog):
    from forksafe.pool import connect_workers

    def connect():
        if failures:
            raise failures.pop()
        return Conn()

    monkeypatch.setattr(connect_workers, "FIRST_RETRY", 0.01)
    failures = [OSError("first"), OSError("second"), OSError("third")]
    pool = new_pool(connect, min_size=1)
    with pytest.raises(OSError, match="third"):
        pool.getconn()
    wait_until(lambda: pool.stats().pool_available == 1)
    assert "connecting failed, and no thread waits for it" in caplog.text


def test_idle_ones_beyond_min_size_are_closed(new_pool, made):
    pool = new_pool(min_size=1, max_idle=0.02)
    with pool.connection(), pool.connection(), pool.connection():
        pass
    wait_until(lambda: pool.stats().pool_size == 1)
    wait_until(lambda: not watchers(pool))  # nothing is left to do
    assert sum(conn.closed for conn in made) == 2


def test_watcher_lifetime(new_pool):
    """It exists only while there is something to watch."""
    pool = new_pool(max_idle=0.02)
    assert not watchers(pool)
    for _ in range(2):
        with pool.connection():
            pass
        wait_until(lambda: pool.stats().pool_size == 0)
        wait_until(lambda: not watchers(pool))


def test_without_a_limit_there_is_no_watcher(new_pool):
    pool = new_pool(max_idle=math.inf)
    with pool.connection():
        pass
    assert not watchers(pool) and pool.stats().pool_available == 1


def test_lifetime(new_pool, made):
    pool = new_pool(max_lifetime=0.02, max_idle=math.inf)
    conn = pool.getconn()
    time.sleep(0.03)
    pool.putconn(conn)
    assert conn.closed and pool.stats().pool_size == 0  # at its return
    with pool.connection() as conn:
        pass
    time.sleep(0.03)
    assert pool.getconn() is not conn  # before it is handed out
    assert conn.closed


def test_lifetimes_differ(new_pool):
    pool = new_pool(max_lifetime=1000.0, max_size=50)
    conns = [pool.getconn() for _ in range(50)]
    assert not any(conn.closed for conn in conns)


def test_resize(new_pool, made):
    pool = new_pool(max_size=3)
    a, b, c = (pool.getconn() for _ in range(3))
    pool.putconn(a)
    pool.resize(0, 1)
    assert a.closed and pool.stats().pool_size == 2 and pool.max_size == 1
    pool.putconn(b)
    assert b.closed
    pool.putconn(c)
    assert not c.closed and pool.stats().pool_available == 1
    pool.resize(2)
    assert (pool.min_size, pool.max_size) == (2, 2)
    wait_until(lambda: pool.stats().pool_available == 2)


def test_resize_serves_those_who_wait(new_pool):
    pool = new_pool(max_size=1)
    pool.getconn()
    result = in_thread(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.resize(0, 2)
    assert isinstance(result(), Conn)


def test_closing(new_pool, made):
    pool = new_pool(name="mine")
    conn, idle = pool.getconn(), pool.getconn()
    pool.putconn(idle)
    assert not pool.closed
    pool.close()
    pool.close()
    assert pool.closed and idle.closed and not conn.closed
    for ask in (pool.getconn, pool.wait, pool.check, pool.connection().__enter__):
        with pytest.raises(PoolClosed, match="'mine' is closed"):
            ask()
    pool.putconn(conn)
    assert conn.closed and pool.stats().pool_size == 0
    assert not watchers(pool)


def test_closing_while_others_wait(new_pool):
    pool = new_pool(max_size=1)
    pool.getconn()
    results = [in_thread(pool.getconn) for _ in range(3)]
    wait_for_waiters(pool, 3)
    pool.close()
    assert [type(result()) for result in results] == [PoolClosed] * 3


def test_closing_while_connecting(new_pool):
    def connect():
        connecting.set()
        go.wait(LIMIT)
        late.append(Conn())
        return late[0]

    connecting, go, late = threading.Event(), threading.Event(), []
    pool = new_pool(connect)
    result = in_thread(pool.getconn)
    assert connecting.wait(LIMIT)
    pool.close(timeout=0.01)
    assert isinstance(result(), PoolClosed)
    go.set()
    pool.close()  # waits for what is under way
    assert late[0].closed and pool.stats().pool_size == 0


def test_closing_in_the_middle_of_a_block(new_pool):
    pool = new_pool()
    with pool.connection() as conn:
        pool.close()
        assert not conn.closed
    assert conn.closed


def test_context_manager(made):
    with ConnectionPool(made, fds=()) as pool, pool.connection() as conn:
        assert not pool.closed
    assert pool.closed and conn.closed


def test_collected_without_being_closed(made):
    """The watcher does not keep it alive, and ends."""
    pool = ConnectionPool(made, fds=(), name="short-lived")
    with pool.connection():
        pass
    assert watchers(pool)
    name, reference, conn = pool.name, weakref.ref(pool), weakref.ref(made.pop())
    del pool
    gc.collect()
    wait_until(lambda: reference() is None and conn() is None)
    wait_until(lambda: not any(thread.name == f"{name}-watch" for thread in threading.enumerate()))


def test_a_cycle_through_the_pool_is_collected():
    class Owner:
        def __init__(self):
            self.pool = ConnectionPool(self.connect, fds=(), max_idle=math.inf)

        def connect(self):
            conn = Conn()
            conn.owner = self
            return conn

    owner = Owner()
    with owner.pool.connection() as conn:
        pass
    references = weakref.ref(owner), weakref.ref(conn)
    del owner, conn
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_exit_closes_nothing(tmp_path):
    """The interpreter's exit is not delayed."""
    program = script(
        tmp_path / "program.py",
        """
        import sys, threading, forksafe
        class Conn:
            def close(self):
                print("closed")
        def hang():
            threading.Event().wait()
        pool = forksafe.ConnectionPool(Conn, fds=())
        with pool.connection():
            pass
        hanging = forksafe.ConnectionPool(hang)
        try:
            hanging.getconn(timeout=0.01)
        except forksafe.PoolTimeout:
            print("timeout")
        """,
    )
    assert succeeds(python(program)) == "timeout\n"


def test_connect_at_interpreter_exit(tmp_path):
    """It connects without a thread."""
    program = script(
        tmp_path / "program.py",
        """
        import atexit, forksafe
        class Conn:
            pass
        pool = forksafe.ConnectionPool(Conn, fds=(), max_size=1)
        def end():
            with pool.connection(timeout=5) as conn:
                print(type(conn).__name__)
        atexit.register(end)
        """,
    )
    assert succeeds(python(program)) == "Conn\n"
