"""Those who wait for a ConnectionPool: in what order, how long, and what they get when connecting fails."""

from __future__ import annotations

import contextvars
import gc
import math
import signal
import sys
import threading
import time

import pytest

from forksafe import ConnectionPool, PoolTimeout
from forksafe.testing import run_in_child
from support.pools import LIMIT, Conn, in_thread, wait_for_waiters, wait_until
from support.threads import threads


def test_a_timeout_says_why(new_pool):
    pool = new_pool(max_size=1, name="small", timeout=0.01)
    pool.getconn()
    with pytest.raises(PoolTimeout, match=r"'small' had no connection within 0.01 s: 1 of 1 handed out, 0 others wait"):
        pool.getconn()
    with pytest.raises(PoolTimeout, match=r"within 0.02 s"), pool.connection(timeout=0.02):
        pass
    with pytest.raises(TimeoutError):
        pool.getconn(timeout=0)
    assert pool.stats().requests_errors == 3 and pool.stats().requests_waiting == 0
    try:
        raise LookupError
    except LookupError:
        with pytest.raises(PoolTimeout) as raised:
            pool.getconn()
    assert isinstance(raised.value.__context__, LookupError) and not raised.value.__suppress_context__


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


def test_refused_waiter_is_next(new_pool):
    """check= refuses what the first in the queue got: it must not queue up behind the second."""
    bad, order = [], []

    def one(name):
        with pool.connection():
            order.append(name)

    pool = new_pool(max_size=1, check=lambda conn: 1 / (conn not in bad))
    conn = pool.getconn()
    results = []
    for name in ("first", "second"):
        results.append(in_thread(lambda name=name: one(name)))
        wait_for_waiters(pool, len(results))
    bad.append(conn)
    pool.putconn(conn)
    assert [result() for result in results] == [None, None] and order == ["first", "second"]


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


def test_connect_fails(new_pool):
    """The error reaches the caller, and no slot is lost."""

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


def test_connect_returns_none_or_same(new_pool):
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


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs pthread_kill()")
def test_ctrl_c_while_waiting_loses_nothing(new_pool):
    def interrupt(*_):
        raise KeyboardInterrupt

    def press():
        wait_for_waiters(pool, 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    pool = new_pool(max_size=1)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        for _ in range(20):
            with pool.connection():
                with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                    pressed = in_thread(press)
                    pool.getconn(timeout=LIMIT)
                assert pressed() is None and pool.stats().requests_waiting == 0
            assert pool.stats().pool_available == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("bad", [False, True])
def test_ctrl_c_while_giving_back(made, bad):
    """Before the pool could do anything with what came back."""

    class Interrupted(ConnectionPool):
        def _take_back_slowly(self, *args):
            if interrupt:
                interrupt.clear()
                raise KeyboardInterrupt
            super()._take_back_slowly(*args)

    interrupt = [True]
    pool = Interrupted(made, fds=(), max_size=1)
    conn = pool.getconn()
    conn.closed = bad
    result = in_thread(pool.getconn)  # so that what comes back does not just become idle
    wait_for_waiters(pool, 1)
    with pytest.raises(KeyboardInterrupt):
        pool.putconn(conn)
    assert interrupt == [] and pool.stats().pool_size == (not bad)
    if bad:
        pool.wait()  # whatever is called next has a new one made for the waiter
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.01)
    assert (result() is conn) != bad
    pool.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some hit a finaliser
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer()")
def test_a_storm_of_exceptions_loses_no_slot(new_pool):
    """An exception from a signal handler at any moment: whatever it hits, the pool can still give all it has.

    In a child, since it also hits threading's own functions, which may leave a lock held for good.
    """

    class Alarm(BaseException):
        pass

    def alarm(*_):
        nonlocal armed
        if armed:
            armed = False  # one at a time: what puts things right again is Python code, too
            raise Alarm

    armed = False

    def storm():
        nonlocal armed
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
        wait_until(lambda: pool.stats().pool_size == pool.stats().pool_available)
        with pool.connection(timeout=1), pool.connection(timeout=1):
            assert pool.stats().requests_waiting == 0
        return hits

    assert run_in_child(storm, LIMIT) > 50


def test_finaliser_gives_back(new_pool):
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
