"""ConnectionPool and whole processes: children that exit, grandchildren, multiprocessing, and forks from odd places."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from forksafe import ConnectionPool
from forksafe.testing import run_in_child
from support.echo_pool import SIZE, assert_dead, uses_its_own
from support.pools import LIMIT, in_thread, wait_for_waiters, wait_until
from support.programs import TESTS, python, script, succeeds

PROGRAM = """
import gc, os, sys, time
import forksafe
sys.path.insert(0, TESTS)
from support.echo_server import Server, Session

class Naive:
    def __init__(self, connect, **_):
        self.conn = connect()
    def getconn(self):
        return self.conn
    putconn = lambda self, conn: None

server = Server()
pool = POOL(server.connect, max_size=2)
idle, lent = pool.getconn(), pool.getconn()
pool.putconn(idle)
numbers = {idle.number, lent.number}
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    server.process.returncode = 0  # not ours to wait for
    END
assert os.waitpid(pid, 0)[1] == 0, "the child failed"
try:  # on the same connections, so after whatever the child has sent
    print("alive" if {int(conn.query("x").split()[0]) for conn in (idle, lent)} == numbers else "mixed up")
except OSError:
    print("ended")
server.stop()
"""

ENDS = {
    "falls off the end": "sys.exit()",
    "drops everything": "del idle, lent, pool; gc.collect(); sys.exit()",
    "drops everything, in cycles": "idle.me = idle; lent.me = lent; del idle, lent; pool.me = pool; del pool;"
    "gc.collect(); sys.exit()",
    "has used its own": "own = pool.getconn(); own.query('x'); sys.exit()",
}


def run_program(tmp_path, end, pool):
    text = PROGRAM.replace("END", end).replace("POOL", pool).replace("TESTS", repr(TESTS))
    return succeeds(python(script(tmp_path / "program.py", text))).split()[-1]


@pytest.mark.parametrize("end", list(ENDS))
def test_a_child_that_exits(tmp_path, end):
    assert run_program(tmp_path, ENDS[end], "forksafe.ConnectionPool") == "alive"


@pytest.mark.parametrize("end", list(ENDS)[:2])  # in cycles a socket may be finalised, and dumb, before its owner is
def test_control_a_child_that_exits(tmp_path, end):
    assert run_program(tmp_path, ENDS[end], "Naive") == "ended"


def test_the_pool_collected_in_the_child(server, calm_fork):
    """Nothing of forksafe runs in the child before its collector finds the pool, in a cycle with its connections."""

    def child():
        holder.clear()
        gc.collect()
        gc.collect()

    pool = ConnectionPool(server.connect, max_idle=math.inf)
    with pool.connection() as conn:
        conn.pool = pool
    number, holder = conn.number, [pool]
    forks = [conn.query]  # keeps it for the parent; the child drops that, too
    del pool, conn

    def child_too():
        forks.clear()
        child()

    run_in_child(child_too, fork=calm_fork)
    assert forks[0]("parent's") == f"{number} parent's" and server.received(number) == ["rollback", "parent's"]
    holder[0].close()


def test_sessions_after_parent_death(server, tmp_path):
    """A child that lives on holds no descriptor of the parent's sessions, so the server sees them end."""
    program = script(
        tmp_path / "program.py",
        f"""
        import os, sys
        import forksafe
        sys.path.insert(0, {TESTS!r})
        from support.echo_server import Session
        pool = forksafe.ConnectionPool(lambda: Session({server.port}))
        with pool.connection() as a, pool.connection() as b:
            pass
        lent = pool.getconn()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1), os.dup2(null, 2)
            os.read(0, 1)  # until the test says so
            os._exit(0)
        print(a.number, b.number, pid, flush=True)
        os._exit(0)
        """,
    )
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, program], stdin=reader, stdout=subprocess.PIPE, text=True)
    os.close(reader)
    try:
        first, second, child = map(int, process.stdout.readline().split())
        assert process.wait(LIMIT) == 0
        assert server.ends(first) and server.ends(second)
        os.kill(child, 0)  # it is still there
    finally:
        os.close(writer)
        process.stdout.close()


def test_grandchild(server, pool):
    with pool.connection() as conn:

        def child():
            mine = uses_its_own(pool, [conn.number])
            with pool.connection() as own:

                def grandchild():
                    pool.putconn(conn)
                    pool.putconn(own)
                    assert_dead(own)
                    return uses_its_own(pool, {conn.number} | mine)

                run_in_child(grandchild)
                return own.query("child's") == f"{own.number} child's"

        assert run_in_child(child)
        assert conn.query("parent's") == f"{conn.number} parent's"


def test_a_worker_thread_forks(server, pool, calm_fork):
    def work():
        with pool.connection() as conn:
            assert run_in_child(lambda: len(uses_its_own(pool, [conn.number])), fork=calm_fork) == SIZE
            return conn.query("parent's") == f"{conn.number} parent's"

    with pool.connection():
        assert in_thread(work)() is True


@pytest.mark.parametrize("method", ["fork"])
def test_multiprocessing(server, pool, method):
    context = multiprocessing.get_context(method)
    with pool.connection() as conn, context.Pool(2) as processes:
        numbers = processes.map(_number_in_child, [pool.name] * 8)
        assert conn.number not in numbers and len(set(numbers)) <= 2
        process = context.Process(target=_uses_its_own_in_child, args=([conn.number],))
        process.start()
        process.join(LIMIT)
        assert process.exitcode == 0
        assert conn.query("parent's") == f"{conn.number} parent's"


def _inherited_pool(name=None):
    return next(each for each in gc.get_objects() if type(each) is ConnectionPool and not each.closed)


def _number_in_child(name):
    with _inherited_pool(name).connection() as conn:
        assert conn.query("child's") == f"{conn.number} child's"
        return conn.number


def _uses_its_own_in_child(parents):
    uses_its_own(_inherited_pool(), parents)


def test_parents_block_ends_in_child(server, pool):
    """A block in the parent ends in the child."""

    def child():
        with pool.connection() as own:
            assert own.number != conn.number
        assert pool.stats().pool_available == 1
        stack.close()
        return pool.stats().pool_available

    with contextlib.ExitStack() as stack:
        conn = stack.enter_context(pool.connection())
        assert run_in_child(child) == 1
        assert conn.query("parent's")


@pytest.mark.parametrize("where", ["check", "reset", "close"])
def test_a_fork_inside_what_the_pool_calls(server, calm_fork, where):
    """The child finds itself in the middle of the parent's work, and gets a connection of its own all the same."""

    def forks(conn):
        if armed:
            armed.clear()
            pids.append(calm_fork())
        if where == "close":
            conn.closed = False
            conn.close()

    armed, pids, parent = [], [], os.getpid()
    pool = ConnectionPool(server.connect, max_size=1, max_idle=math.inf, **{"reset": None, where: forks})
    try:
        conn = pool.getconn()
        conn.closed = where == "close"
        if where != "check":
            armed.append(True)
        pool.putconn(conn)
        armed += [True] if where == "check" else []
        with pool.connection() as own:
            if pids == [0]:
                os._exit(own.number == conn.number or own.query("child's") != f"{own.number} child's")
            assert (own is conn) == (where != "close") and own.query("parent's") == f"{own.number} parent's"
    finally:
        if os.getpid() != parent:
            os._exit(9)
    assert os.waitpid(pids[0], 0)[1] == 0
    assert "child's" not in server.received(conn.number)
    pool.close()


@pytest.mark.parametrize("where", ["idle", "lent", "closing"])
def test_no_finaliser_runs_in_a_child(calm_fork, where):
    """Neither when everything that refers to the parent's connections is dropped there."""

    class Conn:
        def __del__(self):
            ended.append(self)

    def child():
        kept.clear()
        gc.collect()
        return len(ended)

    def close(conn):
        if not results:
            results.append(run_in_child(child, 30, fork=calm_fork))

    ended, results = [], []
    pool = ConnectionPool(Conn, fds=(), max_idle=math.inf, close=close)
    kept = [pool, pool.getconn(), pool.getconn()]
    if where == "idle":
        pool.putconn(kept.pop())
        pool.putconn(kept.pop())
    if where == "closing":
        pool.resize(0, 1)  # one is too many when it comes back
        pool.putconn(kept[1])
    del pool
    close(None)
    assert results == [0]
    kept[0].close()
    kept.clear()
    gc.collect()
    assert len(ended) == 2  # in the parent they end as ever


def test_a_fork_inside_connect(server):
    """The child is the thread that connected: what it has made is its parent's, and dies with it unheard."""

    def connect():
        conn = server.connect()
        pids.append(os.fork())
        if pids[-1] == 0:
            conn.socket.settimeout(5)
        return conn

    pids = []
    pool = ConnectionPool(connect)
    conn = pool.getconn()
    assert os.waitpid(pids[0], 0)[1] == 0  # a thread that ends
    assert server.received(conn.number) == [] and conn.query("parent's")
    pool.putconn(conn)
    pool.close()


def test_signal_handler_forks(server):
    """The child's thread was in the queue of its parent's pool: it asks its own."""
    pids = []
    pool = ConnectionPool(server.connect, max_size=1)
    before = signal.signal(signal.SIGUSR1, lambda *_: pids.append(os.fork()))
    parent = os.getpid()
    try:
        lent = pool.getconn()

        def interrupt():
            wait_for_waiters(pool, 1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            wait_until(lambda: pids)
            pool.putconn(lent)

        helper = in_thread(interrupt)
        conn = pool.getconn(timeout=LIMIT)
        if pids[0] == 0:
            os._exit(conn.number == lent.number or conn.query("child's") != f"{conn.number} child's")
        assert os.waitpid(pids[0], 0)[1] == 0
        assert conn is lent and conn.query("parent's") and helper() is None
    finally:
        if os.getpid() != parent:
            os._exit(9)
        signal.signal(signal.SIGUSR1, before)
    pool.putconn(conn)
    pool.close()
