"""ConnectionPool in children: whatever the parent's pool was doing, whatever the child does, however it was forked.

The server is real and a process of its own (echo_server.py); its sessions end when a client says `quit`, as drivers'
finalisers do. After each child the parent's sessions must live and must have been sent only what the parent sent.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading

import pytest

from forksafe import InheritedConnectionError, PoolClosed
from forksafe.testing import run_in_child
from support.cover import cover
from support.echo_pool import SIZE, assert_dead, uses_its_own
from support.forks import FORKS
from support.hangs import assert_child_hangs
from support.pools import LIMIT, in_thread, wait_for_waiters, wait_until
from support.threads import threads

# What the parent's pool is doing at the fork. Each yields the sessions it has, and what the child knows of them.


@contextlib.contextmanager
def idle(pool, server):
    with pool.connection() as a, pool.connection() as b:
        pass
    yield [a, b], None, None


@contextlib.contextmanager
def lent_to_the_survivor(pool, server):
    with pool.connection() as spare:
        pass
    lease = pool.connection()
    conn = lease.__enter__()
    assert conn is spare
    other = pool.getconn()
    pool.putconn(other)
    try:
        yield [conn, other], conn, lease
    finally:
        lease.__exit__(None, None, None)


@contextlib.contextmanager
def lent_to_others(pool, server):
    go, conns = threading.Event(), []

    def hold():
        with pool.connection() as conn:
            conns.append(conn)
            go.wait(60)

    with threads(hold, SIZE):
        wait_until(lambda: len(conns) == SIZE)
        try:
            yield conns, conns[0], None
        finally:
            go.set()


@contextlib.contextmanager
def lent_and_waited_for(pool, server):
    with lent_to_others(pool, server) as (conns, conn, _):
        waiting = [in_thread(lambda: pool.connection().__enter__().number) for _ in range(2)]
        wait_for_waiters(pool, 2)
        yield conns, conn, None
        del waiting


@contextlib.contextmanager
def connecting(pool, server):
    """Another thread is inside connect(), with a session of its own that the pool does not know yet."""
    inside, go = threading.Event(), threading.Event()
    main, connect = os.getpid(), pool._connect

    def connect_slowly():
        conn = connect()
        if os.getpid() == main and not inside.is_set():
            inside.set()
            go.wait(60)
        return conn

    with pool.connection() as conn:
        pass
    pool._connect = connect_slowly
    lent = pool.getconn()
    result = in_thread(lambda: pool.putconn(pool.getconn()))
    assert inside.wait(LIMIT)
    try:
        yield [conn], lent, None
    finally:
        pool._connect = connect
        go.set()
        assert result() is None
        pool.putconn(lent)


STATES = (idle, lent_to_the_survivor, lent_to_others, lent_and_waited_for, connecting)


# What the child does with it.


def leaves_it(pool, conn, lease):
    pass


def collects(pool, conn, lease):
    gc.collect()


def closes_the_pool(pool, conn, lease):
    pool.close()
    with pytest.raises(PoolClosed):
        pool.getconn()


def gives_back(pool, conn, lease):
    if conn is not None:
        pool.putconn(conn)
        pool.putconn(conn)


def ends_the_block(pool, conn, lease):
    if lease is not None:
        with pytest.raises(InheritedConnectionError, match="began before the fork"):
            lease.__enter__()
        lease.__exit__(None, None, None)
        lease.__exit__(None, None, None)
        with lease as own:  # the lease is nobody's again
            assert own.query("child's")


def uses_it(pool, conn, lease):
    if conn is not None:
        assert_dead(conn)
        conn.close()


ACTIONS = (leaves_it, collects, closes_the_pool, gives_back, ends_the_block, uses_it)


@cover(fork_name=FORKS, state=STATES, action=ACTIONS)
def test_child(server, pool, calm_fork, state, action):
    with state(pool, server) as (conns, conn, lease):
        numbers = [each.number for each in conns]
        before = {number: server.received(number) for number in numbers}

        def child():
            if action is not uses_it:
                action(pool, conn, lease)
            own = () if pool.closed else uses_its_own(pool, numbers)  # the first call: a late fork is noticed
            if action is uses_it:
                action(pool, conn, lease)
            assert pool.stats().pool_size == (0 if pool.closed else SIZE)
            return len(own)

        assert run_in_child(child, 30, fork=calm_fork) == (0 if action is closes_the_pool else SIZE)
        assert {number: server.received(number) for number in numbers} == before
        for each in conns:
            assert each.query("parent's") == f"{each.number} parent's"
        assert not pool.closed
    with pool.connection() as conn:
        assert conn.query("still") == f"{conn.number} still"


def test_checkout_dropped_in_child(server, pool, calm_fork):
    leases = [pool.connection()]
    conn = leases[0].__enter__()
    before = server.received(conn.number)

    def child():
        leases.clear()
        gc.collect()
        return pool.stats().pool_size, len(uses_its_own(pool, [conn.number]))

    assert run_in_child(child, 30, fork=calm_fork) == (0, SIZE)
    assert server.received(conn.number) == before
    assert conn.query("parent's") == f"{conn.number} parent's"
    leases.clear()
    gc.collect()
    assert pool.getconn(timeout=0) is conn
    pool.putconn(conn)


# The same situations with a pool that knows nothing of forks.


class NaivePool:
    """What many programs have: connections in a queue."""

    def __init__(self, connect, size):
        self.idle = queue.LifoQueue()
        for _ in range(size):
            self.idle.put(connect())

    getconn = property(lambda self: self.idle.get)
    putconn = property(lambda self: self.idle.put)


def test_control_use(server):
    naive = NaivePool(server.connect, 1)
    assert run_in_child(lambda: naive.getconn().query("from the child"))
    conn = naive.getconn()
    assert server.received(conn.number)[0] == "from the child"


def test_control_collection(server):
    naive = NaivePool(server.connect, 1)
    number = naive.idle.queue[0].number

    def child():
        naive.idle.queue.clear()
        gc.collect()

    run_in_child(child)
    assert server.ends(number)
    with pytest.raises(OSError, match=r"Broken pipe|reset|closed the connection"):
        naive.getconn().query("parent's")


def test_control_lent_to_another_thread(server, busy):
    naive = NaivePool(server.connect, 1)
    conns = []
    busy(lambda: conns.append(naive.getconn()), lambda: naive.putconn(conns[0]))
    assert_child_hangs(lambda: naive.getconn().number, "queue.py")


def test_control_sqlalchemy(server):
    """A child that merely drops a connection which was checked out sends ROLLBACK on its parent's session."""
    sqlalchemy_pool = pytest.importorskip("sqlalchemy.pool", reason="SQLAlchemy is not installed")
    theirs = sqlalchemy_pool.QueuePool(server.connect, pool_size=1)
    fairies = [theirs.connect()]
    number = fairies[0].dbapi_connection.number

    def child():
        fairies.clear()
        gc.collect()

    run_in_child(child)
    assert server.received(number) == ["rollback"]
