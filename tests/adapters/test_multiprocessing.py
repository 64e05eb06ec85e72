"""protect() for multiprocessing's Pool and ThreadPool; each cure with its control."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import signal
import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs
from support.workers import CONTEXT, LIMIT, Derived, blocked, end, go, in_child, standard

# multiprocessing's pools

POOLS = {"Pool": CONTEXT.Pool, "ThreadPool": multiprocessing.pool.ThreadPool}


@pytest.fixture(params=[standard, Derived])
def executor(request):
    with request.param() as executor:
        yield forksafe.protect(executor)


@pytest.fixture(params=POOLS)
def pool(request):
    with POOLS[request.param](2) as pool:
        yield forksafe.protect(pool)


def sent(pool):
    return lambda function, argument: pool.apply_async(function, (argument,))


def test_child_uses_the_pool(pool, tmp_path, fork):
    assert pool.apply(pow, (2, 5)) == 32
    results = blocked(tmp_path, sent(pool), 2)
    called, apply = [], pool.apply  # bound before the fork
    more = pool.map_async(abs, [-1, -2], callback=called.append, error_callback=called.append)
    lazily = pool.imap(abs, [-1, -2])

    def child():
        in_child()
        before = len(pool._pool)
        assert all(result.ready() and not result.successful() for result in [*results, more])
        for get in (results[0].get, more.get, lazily.next):
            with pytest.raises(forksafe.InheritedFutureError, match="not ready when the process forked"):
                get(LIMIT)
        with pytest.raises(StopIteration):
            lazily.next(LIMIT)
        used = apply(pow, (2, 6)), pool.map(abs, [-1, -2]), list(pool.imap_unordered(abs, [-3])), len(pool._pool)
        with pool:
            pass
        pool.join()
        with pytest.raises(ValueError, match="Pool not running"):
            apply(pow, (2, 6))
        return before, used, called

    assert run_in_child(child, LIMIT, fork=fork) == (0, (64, [1, 2], [3], 2), [])
    end(tmp_path, results, lambda result: result.get(LIMIT))
    assert more.get(LIMIT) == list(lazily) == [1, 2] and called == [[1, 2]]


@pytest.mark.parametrize("kind", POOLS)
def test_control_unprotected_the_pool_hangs(kind):
    with POOLS[kind](2) as pool:
        forksafe.unprotect(forksafe.protect(pool))
        pool.apply(pow, (2, 5))
        assert_child_hangs(lambda: pool.apply(pow, (2, 6)), "pool.py")


ENDS = {
    "with": lambda pool: pool.__exit__(None, None, None),
    "close": lambda pool: pool.close(),
    "terminate": lambda pool: pool.terminate(),
}


@pytest.mark.parametrize("how", ENDS)
def test_pool_ended_unused_in_child(pool, how):
    """The child ends the pool without having used it."""

    def child():
        ENDS[how](pool)
        pool.join()
        with pytest.raises(ValueError, match="Pool not running"):
            pool.map(abs, [-1])
        return pool._pool

    assert run_in_child(child, LIMIT) == []
    assert pool.map(abs, [-1, -2]) == [1, 2]


def test_grandchild_uses_the_pool(pool):
    def child():
        unused = run_in_child(lambda: pool.apply(pow, (2, 5)), LIMIT)
        mine = pool.apply(pow, (2, 6))
        used = run_in_child(lambda: pool.apply(pow, (2, 7)), LIMIT)
        pool.terminate()
        return unused, mine, used

    assert run_in_child(child, LIMIT * 2) == (32, 64, 128)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_pool_that_was_closed_stays_so(pool, how):
    getattr(pool, how)()

    def child():
        pool.join()
        with pytest.raises(ValueError, match="Pool not running"):
            pool.apply(pow, (2, 5))

    assert run_in_child(child, LIMIT) is None


def test_pool_used_in_its_workers(pool):
    """They are children, too, made while the pool is; what they have of it must go on to work."""
    with CONTEXT.Pool(1, maxtasksperchild=1) as other:
        forksafe.protect(other)
        assert [other.apply(pow, (2, n)) for n in range(4)] == [1, 2, 4, 8]


def test_a_process_of_multiprocessing(pool, executor):
    def child():
        assert pool.apply(pow, (2, 5)) == executor.submit(pow, 2, 5).result(LIMIT) == 32
        os._exit(0) if pool.terminate() else None
        executor.shutdown()

    pool.apply(pow, (2, 5))
    executor.submit(pow, 2, 5).result(LIMIT)
    child_process = CONTEXT.Process(target=child)
    child_process.start()
    child_process.join(LIMIT)
    assert child_process.exitcode == 0
    assert pool.apply(pow, (2, 6)) == executor.submit(pow, 2, 6).result(LIMIT) == 64


def test_verbose(pool, executor, capsys):
    for each in (pool, executor):
        forksafe.protect(each, verbose=True)
    assert capsys.readouterr().err.count(": reset in children") == 2


def test_signal_handler_forks(pool, tmp_path):
    """The thread that forks is inside get(): in the child that ends, too."""
    (result, *more) = blocked(tmp_path, sent(pool), 2)
    statuses = []

    def fork(number, frame):
        pid = os.fork()
        if pid:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            (tmp_path / "go").touch()
            go.set()
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)

    parent, before = os.getpid(), signal.signal(signal.SIGUSR1, fork)
    try:
        threading.Timer(0.2, os.kill, (parent, signal.SIGUSR1)).start()  # by then get() sleeps
        failed = None
        try:
            result.get(LIMIT)
        except forksafe.InheritedFutureError as error:
            failed = error
        finally:
            if os.getpid() != parent:
                os._exit(7 if failed else 3)
    finally:
        signal.signal(signal.SIGUSR1, before)
    for each in more:
        each.get(LIMIT)
    assert statuses == [7]
