"""ConnectionPool in one process: what it lends, who waits, what is replaced, and what its arguments may be."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import gc
import logging
import math
import pickle
import signal
import sys
import threading
import time
import weakref

import pytest
from conftest import python, script, succeeds, threads

import forksafe
from forksafe import ConnectionPool, PoolClosed, PoolTimeout

LIMIT = 10  # seconds that only a hang reaches


class Conn:
    """What a pool needs of a connection, and a record of what was done to it."""

    closed = False

    def __init__(self):
        self.done = []

    def rollback(self):
        self.done.append("rollback")

    def close(self):
        self.done.append("close")
        self.closed = True


class Made(list):
    """connect(), which keeps what it made."""

    def __call__(self):
        self.append(Conn())
        return self[-1]


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def new_pool(made):
    pools = []

    def new(connect=made, **options):
        pools.append(ConnectionPool(connect, **{"fds": (), **options}))
        return pools[-1]

    yield new
    for pool in pools:
        pool.close()


def in_thread(function):
    """Runs it in a thread; returns a function that waits for what it returned or raised."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result():
        thread.join(LIMIT)
        assert outcome, "the thread hangs"
        return outcome[0]

    return result


def wait_until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)


def wait_for_waiters(pool, count):
    wait_until(lambda: pool.stats().requests_waiting == count)


def watchers(pool):
    return [thread for thread in threading.enumerate() if thread.name == f"{pool.name}-watch"]


# Lending


def test_nothing_is_connected_before_the_first_use(new_pool, made):
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


def test_an_exception_in_the_block_gives_back_and_goes_on(new_pool):
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
    with lease as conn:
        with pytest.raises(RuntimeError, match="call it again"):
            lease.__enter__()
    with lease as again:
        assert again is conn
    assert pool.stats().pool_available == 1


def test_given_back_by_hand_inside_the_block_is_given_back_once(new_pool):
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
    with pytest.raises(ValueError, match="pool 'mine' has handed out, and it knows nothing of <"):
        pool.putconn(other.getconn())
    with pytest.raises(ValueError, match="knows nothing of"):
        ConnectionPool(Conn, fds=()).putconn(conn)
    assert pool.stats().pool_available == 1


# Waiting


def test_a_timeout_says_why(new_pool):
    pool = new_pool(max_size=1, name="small", timeout=0.01)
    pool.getconn()
    with pytest.raises(PoolTimeout, match=r"'small' had no connection within 0.01 s: 1 of 1 handed out, 0 others wait"):
        pool.getconn()
    with pytest.raises(PoolTimeout, match="within 0.02 s"), pool.connection(timeout=0.02):
        pass
    with pytest.raises(TimeoutError):
        pool.getconn(timeout=0)
    assert pool.stats().requests_errors == 3 and pool.stats().requests_waiting == 0


def test_a_timeout_of_zero_takes_what_is_idle(new_pool):
    pool = new_pool()
    pool.putconn(pool.getconn())
    assert pool.getconn(timeout=0)


def test_waiters_are_served_in_order(new_pool):
    pool = new_pool(max_size=1)
    conn = pool.getconn()
    order = []

    def one(number):
        with pool.connection():
            order.append(number)

    results = []
    for number in range(8):
        results.append(in_thread(lambda number=number: one(number)))
        wait_for_waiters(pool, number + 1)
    pool.putconn(conn)
    for result in results:
        assert result() is None
    assert order == list(range(8))


def test_nobody_overtakes_those_who_wait(new_pool):
    """What comes back belongs to the waiter before anybody can ask for it, even the thread that gives it back."""
    pool = new_pool(max_size=1)
    conn = pool.getconn()
    result = in_thread(pool.getconn)
    wait_for_waiters(pool, 1)
    pool.putconn(conn)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    assert result() is conn


def test_one_who_gave_up_is_forgotten(new_pool):
    pool = new_pool(max_size=1)
    conn = pool.getconn()
    impatient = in_thread(lambda: pool.getconn(timeout=0.05))
    wait_for_waiters(pool, 1)
    patient = in_thread(pool.getconn)
    assert isinstance(impatient(), PoolTimeout)
    wait_for_waiters(pool, 1)
    pool.putconn(conn)
    assert patient() is conn


def test_a_return_serves_while_a_connect_hangs(new_pool):
    hang, hanging = threading.Event(), threading.Event()

    def connect():
        if first:
            return first.pop()
        hanging.set()
        hang.wait(LIMIT)
        return Conn()

    first = [Conn()]
    pool = new_pool(connect)
    conn = pool.getconn()
    waiter = in_thread(pool.getconn)
    assert hanging.wait(LIMIT)
    with pytest.raises(PoolTimeout, match="2 being made, 1 others wait"):
        pool.getconn(timeout=0.02)
    pool.putconn(conn)
    assert waiter() is conn
    hang.set()
    wait_until(lambda: pool.stats().pool_available == 2)  # what was made for others is there for all


def test_a_connect_that_fails_reaches_the_caller_and_loses_no_slot(new_pool):
    def connect():
        if failing:
            raise ConnectionRefusedError("no server")
        return Conn()

    failing = True
    pool = new_pool(connect, max_size=1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError, match="no server"):
            pool.getconn()
    assert pool.stats().pool_size == 0 and pool.stats().connections_errors == 3
    failing = False
    assert pool.getconn()


def test_each_of_those_who_wait_gets_an_error(new_pool):
    def connect():
        begin.wait(LIMIT)
        raise ConnectionRefusedError

    begin = threading.Event()
    pool = new_pool(connect, max_size=2)
    results = [in_thread(pool.getconn) for _ in range(6)]
    wait_for_waiters(pool, 6)
    begin.set()
    assert [type(result()) for result in results] == [ConnectionRefusedError] * 6
    assert pool.stats().pool_size == 0


def test_connect_that_returns_none_or_the_same_again(new_pool):
    with pytest.raises(TypeError, match=r"connect\(\) returned None"):
        new_pool(lambda: None).getconn()
    same = Conn()
    pool = new_pool(lambda: same, max_size=2)
    pool.getconn()
    with pytest.raises(ValueError, match="there already"):
        pool.getconn()


def test_connect_has_the_callers_context(new_pool):
    who = contextvars.ContextVar("who")
    seen = []
    pool = new_pool(lambda: seen.append(who.get()) or Conn())
    who.set("me")
    pool.getconn()
    assert seen == ["me"]


def test_the_thread_that_connected_has_ended(new_pool):
    """A program without threads has none after that either, so that it can fork."""
    before = threading.active_count()
    pool = new_pool(max_idle=math.inf)
    for _ in range(5):
        pool.getconn()
        assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer()")
def test_ctrl_c_while_waiting_loses_nothing(new_pool):
    def interrupt(*_):
        raise KeyboardInterrupt

    pool = new_pool(max_size=1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(20):
            with pool.connection():
                signal.setitimer(signal.ITIMER_REAL, 0.002)
                with pytest.raises(KeyboardInterrupt):
                    pool.getconn(timeout=LIMIT)
            assert pool.stats().requests_waiting == 0 and pool.stats().pool_available == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer()")
def test_a_storm_of_exceptions_loses_no_slot(new_pool):
    """An exception from a signal handler at any moment: whatever it hits, the pool can still give all it has."""

    class Alarm(BaseException):
        pass

    def alarm(*_):
        nonlocal armed
        if armed:
            armed = False  # one at a time: what puts things right again is Python code, too
            raise Alarm

    armed = False
    pool = new_pool(max_size=2, check=lambda _: None)
    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0007)
    hits = 0
    end = time.monotonic() + 1.5
    try:
        while time.monotonic() < end:
            try:
                armed = True
                with pool.connection(timeout=LIMIT), pool.connection(timeout=LIMIT):
                    pass
                armed = False
            except Alarm:
                hits += 1
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits > 50
    wait_until(lambda: pool.stats().pool_size == pool.stats().pool_available)
    with pool.connection(timeout=1), pool.connection(timeout=1):
        assert pool.stats().requests_waiting == 0


# What comes back, and what is handed out


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
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.1)
    wait_until(lambda: pool.stats().pool_size == pool.stats().pool_available)


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


# Sizes and times


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
    from forksafe import pool_threads

    def connect():
        if failures:
            raise failures.pop()
        return Conn()

    monkeypatch.setattr(pool_threads, "FIRST_RETRY", 0.01)
    failures = [OSError("first"), OSError("second"), OSError("third")]
    pool = new_pool(connect, min_size=1)
    with pytest.raises(OSError, match="third"):
        pool.getconn()
    wait_until(lambda: pool.stats().pool_available == 1)
    assert "connecting failed, and nobody waits for it" in caplog.text


def test_idle_ones_beyond_min_size_are_closed(new_pool, made):
    pool = new_pool(min_size=1, max_idle=0.02)
    with pool.connection(), pool.connection(), pool.connection():
        pass
    wait_until(lambda: pool.stats().pool_size == 1)
    wait_until(lambda: not watchers(pool))  # nothing is left to do
    assert sum(conn.closed for conn in made) == 2


def test_the_watcher_exists_only_while_there_is_something_to_watch(new_pool):
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


# Closing


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


def test_exit_closes_nothing_and_is_not_delayed(tmp_path):
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


def test_while_the_interpreter_ends_it_connects_without_a_thread(tmp_path):
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


# The rest


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
    assert repr(pool) == "<forksafe.ConnectionPool 'mine': 1 of 3 connections>"
    pool.close()
    assert repr(pool) == "<forksafe.ConnectionPool 'mine': closed>"


def test_a_name_for_type_checkers_is_good_at_run_time(made):
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
        ({"timeout": -1}, ValueError, r"timeout=...\) takes seconds from 0 on, or math.inf for no limit, not -1"),
        ({"timeout": None}, TypeError, r"timeout=...\) takes seconds"),
        ({"max_idle": float("nan")}, ValueError, r"max_idle=...\) takes seconds from 0"),
        ({"max_lifetime": "1h"}, TypeError, r"max_lifetime=...\) takes seconds, or math.inf for no limit, not '1h'"),
        ({"size": 3}, TypeError, "size"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ConnectionPool(**{"connect": Conn, **arguments})


def test_bad_timeouts(new_pool):
    pool = new_pool()
    for ask in (pool.getconn, pool.connection, pool.wait, pool.close):
        with pytest.raises(TypeError, match="takes seconds"):
            ask("soon")
        with pytest.raises(ValueError, match="takes seconds"):
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


def test_a_finaliser_may_give_back_at_any_moment(new_pool):
    """Also in the middle of the pool's own work in the same thread: nothing there waits for a lock."""

    class Holder:
        def __init__(self):
            self.me = self  # for the garbage collector to find, whenever it runs
            self.conn = pool.getconn()

        def __del__(self):
            pool.putconn(self.conn)

    pool = new_pool(max_size=1000)
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        with threads(lambda: [Holder() for _ in range(30)], 4):
            for _ in range(30):
                Holder()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert pool.stats().pool_size == pool.stats().pool_available


@pytest.mark.parametrize("size", [1, 3])
def test_a_storm_of_threads(new_pool, made, size):
    """No connection is ever in two hands, and in the end all are back."""
    pool = new_pool(max_size=size, reset=None)
    together = []

    def work():
        for number in range(300):
            if number % 2:
                with pool.connection(LIMIT) as conn:
                    use(conn)
            else:
                conn = pool.getconn(LIMIT)
                use(conn)
                pool.putconn(conn)

    def use(conn):
        conn.done.append(threading.get_ident())
        if len(conn.done) != 1:
            together.append(conn)
        if len(made) % 3 == 0:
            time.sleep(0)
        conn.done.clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with threads(work, 8, 60):
            pass
    finally:
        sys.setswitchinterval(interval)
    stats = pool.stats()
    assert together == [] and len(made) <= size
    assert stats.pool_size == stats.pool_available == len(made) and stats.requests_num == 8 * 300


def test_descriptors_that_cannot_be_found_are_warned_of():
    class Hidden:
        def close(self):
            pass

    with pytest.raises(forksafe.UnknownDescriptorsWarning, match=r"ConnectionPool 'mine'.*Hidden.*fds="):
        ConnectionPool(Hidden, name="mine").getconn()  # the tests turn these warnings into errors
    ConnectionPool(Hidden, fds=()).getconn()


def test_no_logging_when_nothing_is_wrong(new_pool, caplog):
    with caplog.at_level(logging.INFO, "forksafe.pool"):
        pool = new_pool(min_size=1)
        with pool.connection():
            pass
        pool.close()
    assert caplog.records == []
