"""ConnectionPool in one process: what it lends and takes back, what it tells, what its arguments may be."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import math
import pickle
import threading

import pytest

import forksafe
from forksafe import ConnectionPool, PoolTimeout
from support.pools import LIMIT, Conn, in_thread, wait_for_waiters, wait_until


def test_connects_at_first_use(new_pool, made):
    """Nothing is connected before the first use."""
    pool = new_pool(min_size=2)
    assert made == [] and pool.stats().pool_size == 0 and pool.stats().pool_min == 2


def test_with_gives_back(new_pool, made):
    pool = new_pool()
    with pool.connection() as conn:
        assert conn is made[0] and pool.stats().pool_available == 0
    assert pool.stats().pool_available == 1
    with pool.connection() as again:
        assert again is conn
    assert conn.done == ["rollback"] * 2


def test_getconn_and_putconn(new_pool, made):
    pool = new_pool()
    conn = pool.getconn()
    pool.putconn(conn)
    assert pool.getconn(timeout=1) is conn
    pool.putconn(conn)
    assert len(made) == 1


def test_the_last_one_back_is_the_first_out(new_pool):
    pool = new_pool()
    a, b, c = (pool.getconn() for _ in range(3))
    for conn in (a, c, b):
        pool.putconn(conn)
    assert [pool.getconn() for _ in range(3)] == [b, c, a]


def test_block_raises(new_pool):
    """The connection is given back, and the exception goes on."""
    pool = new_pool()
    with pytest.raises(ZeroDivisionError), pool.connection() as conn:
        1 / 0  # noqa: B018
    assert conn.done == ["rollback"] and pool.stats().pool_available == 1


def test_nested_blocks_have_a_connection_each(new_pool):
    pool = new_pool()
    with pool.connection() as a, pool.connection() as b:
        assert a is not b
    assert pool.stats().pool_available == 2


def test_one_lease_for_one_block_after_another(new_pool):
    pool = new_pool()
    lease = pool.connection()
    with lease as conn, pytest.raises(RuntimeError, match="call it again"):
        lease.__enter__()
    with lease as again:
        assert again is conn
    assert pool.stats().pool_available == 1


def test_checkout_dropped_in_block(new_pool):
    """As contextlib's do, and as CPython 3.14 drops it where a signal's exception comes between enter and block."""
    pool = new_pool(max_size=1)
    lease = pool.connection()
    conn = lease.__enter__()
    del lease
    gc.collect()
    assert conn.done == ["rollback"] and pool.stats().pool_available == 1
    with pool.connection(timeout=0) as again:
        assert again is conn


def test_given_back_in_block(new_pool):
    """It is given back once."""
    pool = new_pool()
    with pool.connection() as conn:
        pool.putconn(conn)
        assert pool.getconn() is conn  # lent again: the end of the block must not give back this loan
    assert pool.stats().pool_available == 0
    pool.putconn(conn)
    assert pool.stats().pool_available == 1


def test_what_cannot_be_given_back(new_pool):
    pool, other = new_pool(name="mine"), new_pool()
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(ValueError, match="given back to pool 'mine' already"):
        pool.putconn(conn)
    with pytest.raises(ValueError, match="pool 'mine' has handed out, not <"):
        pool.putconn(other.getconn())
    with pytest.raises(ValueError, match="has handed out, not"):
        ConnectionPool(Conn, fds=()).putconn(conn)
    assert pool.stats().pool_available == 1


def test_reset(new_pool):
    seen = []
    pool = new_pool(reset=seen.append)
    with pool.connection() as conn:
        pass
    assert seen == [conn] and conn.done == []
    with new_pool(reset=None).connection() as conn:
        pass
    assert conn.done == []


def test_a_connection_without_rollback(new_pool):
    pool = new_pool(object)
    with pool.connection() as conn:
        pass
    assert pool.getconn() is conn


def test_a_reset_that_fails_replaces(new_pool, made, caplog):
    pool = new_pool(reset=lambda conn: conn.reset_fails(), name="mine", max_size=1)
    with pool.connection() as conn:
        pass
    assert conn.done == ["close"] and pool.stats().returns_bad == 1 and pool.stats().pool_size == 0
    assert "ConnectionPool 'mine': a connection came back and could not be reset" in caplog.text
    assert pool.getconn() is made[1]


def test_a_reset_that_is_interrupted(new_pool):
    def reset(conn):
        raise KeyboardInterrupt

    pool = new_pool(reset=reset, max_size=1)
    with pytest.raises(KeyboardInterrupt), pool.connection() as conn:
        pass
    assert conn.closed and pool.stats().pool_size == 0


def test_closed_at_return_is_replaced(new_pool, made):
    pool = new_pool(max_size=1)
    with pool.connection() as conn:
        conn.close()
    assert conn.done == ["close", "close"] and pool.stats().returns_bad == 1
    assert pool.getconn() is made[1]


def test_closed_that_is_a_method_is_not_asked(new_pool):
    class Odd(Conn):
        def closed(self):
            return False

        def close(self):
            self.done.append("close")

    pool = new_pool(Odd)
    with pool.connection() as conn:
        pass
    assert pool.getconn() is conn and conn.done == ["rollback"]


def test_close(new_pool):
    closed = []
    pool = new_pool(close=closed.append)
    conn = pool.getconn()
    pool.putconn(conn)
    pool.close()
    assert closed == [conn] and conn.done == ["rollback"]


def test_a_close_that_fails_is_no_news(new_pool):
    def close(conn):
        raise OSError("gone already")

    pool = new_pool(close=close, max_size=1)
    with pool.connection() as conn:
        conn.closed = True
    assert pool.getconn() is not conn


def test_a_slot_is_free_only_after_close(new_pool):
    """So that there are never more than max_size connections."""
    closing, go = threading.Event(), threading.Event()

    def close(conn):
        closing.set()
        go.wait(LIMIT)

    pool = new_pool(close=close, max_size=1)
    conn = pool.getconn()
    conn.closed = True
    result = in_thread(lambda: pool.putconn(conn))
    assert closing.wait(LIMIT)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.02)
    go.set()
    assert result() is None
    assert pool.getconn()


def test_check_before_hand_out(new_pool, made):
    def check(conn):
        checked.append(conn)
        if conn in bad:
            raise OSError("stale")

    checked, bad = [], []
    pool = new_pool(check=check, max_size=2)
    with pool.connection() as a, pool.connection() as b:
        pass
    assert checked == [a, b]
    bad += [a, b]
    conn = pool.getconn()
    assert conn is made[2] and conn not in bad
    assert a.done == b.done == ["rollback", "close"] and pool.stats().connections_lost == 2


def test_a_check_that_always_fails_is_bounded(new_pool):
    pool = new_pool(check=lambda conn: conn.no_such_thing, max_size=1)
    with pytest.raises(PoolTimeout, match="check= does not refuse") as raised:
        pool.getconn(timeout=0.1)
    assert isinstance(raised.value.__cause__, AttributeError)
    wait_until(lambda: pool.stats().pool_size == pool.stats().pool_available)


def test_refused_then_timeout(new_pool):
    """The refusal is told also if the time ends while another connection is made."""

    def connect():
        assert made == [] or go.wait(LIMIT)
        made.append(Conn())
        return made[-1]

    made, go = [], threading.Event()
    pool = new_pool(connect, check=lambda conn: conn.no_such_thing, max_size=1)
    with pytest.raises(PoolTimeout, match="check= does not refuse: 0 of 1 handed out, 1 being made") as raised:
        pool.getconn(timeout=0.3)
    assert isinstance(raised.value.__cause__, AttributeError)
    go.set()


def test_a_check_that_is_interrupted_closes(new_pool):
    def check(conn):
        raise KeyboardInterrupt

    pool = new_pool(check=check, max_size=1)
    with pytest.raises(KeyboardInterrupt):
        pool.getconn()
    assert pool.stats().pool_size == 0


def test_checking_all_idle_ones(new_pool):
    bad = []
    pool = new_pool(check=lambda conn: 1 / (conn not in bad))
    with pool.connection() as a, pool.connection() as b, pool.connection() as c:
        pass
    with pool.connection() as out:
        assert out is a
        bad += [a, b]
        pool.check()
        assert b.closed and not a.closed and not c.closed
    assert pool.stats().pool_available == 2


def test_stats(new_pool):
    pool = new_pool(min_size=0, max_size=2)
    nothing = pool.stats()
    assert dataclasses.asdict(nothing) == {
        **dict.fromkeys((field.name for field in dataclasses.fields(nothing)), 0),
        "pool_max": 2,
    }
    with pool.connection():
        pool.getconn()
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.01)
    stats = pool.stats()
    assert (stats.pool_size, stats.pool_available, stats.requests_num, stats.requests_queued) == (2, 1, 3, 3)
    assert (stats.connections_num, stats.connections_errors, stats.requests_errors) == (2, 0, 1)
    assert stats.requests_wait_ms >= 10
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.pool_size = 3
    assert isinstance(stats, forksafe.PoolStats) and repr(stats).startswith("PoolStats(pool_min=0,")


def test_name_and_repr(new_pool):
    a, b = new_pool(), new_pool()
    assert a.name.startswith("pool-") and a.name != b.name
    pool = new_pool(name="mine", max_size=3)
    pool.getconn()
    assert repr(pool) == "<forksafe.ConnectionPool 'mine': 0 idle, 1 out, 0 waiting, at most 3>"
    pool.close()
    assert repr(pool) == "<forksafe.ConnectionPool 'mine': 0 idle, 1 out, 0 waiting, closed>"


def test_typing_name_at_run_time(made):
    """A name for type checkers is good at run time."""
    pool = ConnectionPool[Conn](made, fds=())
    assert isinstance(pool, ConnectionPool) and pool.getconn() is made[0]


def test_it_cannot_be_pickled_or_copied(new_pool):
    pool = new_pool()
    for make in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="make one in each process"):
            make(pool)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"connect": "host=1"}, TypeError, r"connect=...\) takes a callable, not 'host=1'"),
        ({"close": None}, TypeError, r"close=...\) takes a callable, not None"),
        ({"check": True}, TypeError, r"check=...\) takes a callable, not True"),
        ({"reset": 1}, TypeError, r"reset=...\) takes a callable, not 1"),
        ({"fds": [3]}, TypeError, r"fds=...\) takes a callable, not \[3\]"),
        ({"min_size": -1}, ValueError, "keeps from 0 to max_size: not min_size=-1, max_size=10"),
        ({"max_size": 0}, ValueError, "room for 1 connection or more"),
        ({"max_size": None}, ValueError, "room for 1 connection or more"),
        ({"min_size": 11}, ValueError, "not min_size=11, max_size=10"),
        ({"min_size": 1.5}, TypeError, "min_size takes a number of connections, not 1.5"),
        ({"max_size": "4"}, TypeError, "max_size takes a number of connections, not '4'"),
        (
            {"timeout": -1},
            ValueError,
            r"timeout=...\) takes a number of seconds .*, or math.inf .*, not -1",
        ),
        ({"timeout": None}, TypeError, r"timeout=...\) takes a number of seconds"),
        ({"max_idle": float("nan")}, ValueError, r"max_idle=...\) takes a number of seconds from 0"),
        (
            {"max_lifetime": "1h"},
            TypeError,
            r"max_lifetime=...\) takes a number of seconds .*, not '1h'",
        ),
        ({"size": 3}, TypeError, "size"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ConnectionPool(**{"connect": Conn, **arguments})


def test_bad_timeouts(new_pool):
    pool = new_pool()
    for ask in (pool.getconn, pool.connection, pool.wait, pool.close):
        with pytest.raises(TypeError, match="takes a number of seconds"):
            ask("soon")
        with pytest.raises(ValueError, match="takes a number of seconds"):
            ask(-1)
    assert not pool.closed and pool.stats().requests_num == 0
    with pytest.raises(ValueError, match="keeps from 0"):
        pool.resize(3, 2)
    assert (pool.min_size, pool.max_size) == (0, 10)


def test_no_limit(new_pool):
    pool = new_pool(timeout=math.inf, max_lifetime=math.inf, max_idle=math.inf, max_size=1)
    conn = pool.getconn()
    result = in_thread(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.putconn(conn)
    assert result() is conn


@pytest.mark.filterwarnings("error::forksafe.UnknownDescriptorsWarning")
def test_descriptors_not_found():
    """Descriptors that cannot be found are warned of."""

    class Hidden:
        def close(self):
            pass

    with pytest.raises(forksafe.UnknownDescriptorsWarning, match=r"ConnectionPool 'mine'.*Hidden.*fds="):
        ConnectionPool(Hidden, name="mine").getconn()
    ConnectionPool(Hidden, fds=()).getconn()


def test_no_logging_when_nothing_is_wrong(new_pool, caplog):
    with caplog.at_level(logging.INFO, "forksafe.pool.pool"):
        pool = new_pool(min_size=1)
        with pool.connection():
            pass
        pool.close()
    assert caplog.records == []
