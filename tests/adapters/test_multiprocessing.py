"""protect() for the standard ProcessPoolExecutor, multiprocessing's Pool and ThreadPool; each cure with its control."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import multiprocessing.pool
import os
import signal
import threading
import time
from multiprocessing import process
from pathlib import Path

import pytest

import forksafe
from forksafe.testing import ChildTimeout, run_in_child

LIMIT = 30
CONTEXT = multiprocessing.get_context("fork")
in_child = forksafe.generation  # after a fork by C hooks run at the first call of forksafe


go = threading.Event()  # for those who are threads here: who polls asks for the GIL


def block(directory):
    """Say in a file that it runs, and run until there is another."""
    Path(directory, f"inside {os.getpid()} {threading.get_ident()}").touch()
    if multiprocessing.parent_process() is None:
        go.wait(LIMIT)
    deadline = time.monotonic() + LIMIT
    while not Path(directory, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with open(Path(directory, "ran"), "a") as ran:
        ran.write("blocked\n")


def blocked(directory, submit, size):
    """Have all workers busy, and more waiting; returns what submit() gave."""
    go.clear()
    made = [submit(block, str(directory)) for _ in range(size + 2)]
    deadline = time.monotonic() + LIMIT
    while len(list(directory.glob("inside*"))) < size:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return made


def end(directory, results, get):
    """Everything was done in the parent, once."""
    (directory / "go").touch()
    go.set()
    for each in results:
        get(each)
    assert (directory / "ran").read_text() == "blocked\n" * len(results)


# ProcessPoolExecutor


class Derived(concurrent.futures.ProcessPoolExecutor):
    """Its arguments are its own."""

    def __init__(self):
        super().__init__(2, mp_context=CONTEXT, initializer=os.putenv, initargs=("FORKSAFE_TEST", "1"))


def standard():
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=CONTEXT)


@pytest.fixture(params=[standard, Derived])
def executor(request):
    with request.param() as executor:
        yield forksafe.protect(executor)


def test_child_uses_the_executor(executor, tmp_path, fork):
    done = executor.submit(pow, 2, 5)
    assert done.result(LIMIT) == 32
    futures = blocked(tmp_path, executor.submit, 2)
    called = []
    for future in futures:
        future.add_done_callback(called.append)
    submit = executor.submit  # bound before the fork

    def child():
        in_child()
        before = dict(executor._processes), threading.active_count()
        assert done.result(0) == 32
        assert concurrent.futures.wait(futures, LIMIT).not_done == set()
        kinds = {type(future.exception(0)) for future in futures}
        result = submit(pow, 2, 6).result(LIMIT), list(executor.map(abs, [-1, -2], timeout=LIMIT))
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            submit(pow, 2, 6)
        return before[0], result, kinds == {forksafe.InheritedFutureError}, called

    assert run_in_child(child, LIMIT, fork=fork) == ({}, (64, [1, 2]), True, [])
    assert not any(future.done() for future in futures)
    end(tmp_path, futures, lambda future: future.result(LIMIT))
    assert executor.submit(pow, 2, 7).result(LIMIT) == 128
    executor.shutdown()
    assert len(called) == len(futures)


def test_control_unprotected_the_executor_hangs():
    with standard() as executor:
        forksafe.unprotect(forksafe.protect(executor))
        executor.submit(pow, 2, 5).result(LIMIT)
        with pytest.raises(ChildTimeout):
            run_in_child(lambda: executor.submit(pow, 2, 6).result(), 1, c_stacks=False)


def test_executor_not_used_in_the_child_starts_nothing(executor):
    executor.submit(pow, 2, 5).result(LIMIT)

    def child():
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        gc.collect()
        forksafe.generation()
        after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        return threading.active_count(), process._children, before == after, executor._call_queue

    assert run_in_child(child, LIMIT) == (1, set(), True, None)


def test_grandchild_uses_the_executor(executor, tmp_path):
    executor.submit(pow, 2, 5).result(LIMIT)

    def use(exponent):
        with executor:  # its workers would outlive it, as run_in_child() ends without exit functions
            return executor.submit(pow, 2, exponent).result(LIMIT)

    def child():
        unused = run_in_child(lambda: use(6), LIMIT)
        mine = blocked(tmp_path, executor.submit, 2)

        def grandchild():
            assert isinstance(mine[0].exception(LIMIT), forksafe.InheritedFutureError)
            return use(7)

        used = run_in_child(grandchild, LIMIT)
        end(tmp_path, mine, lambda future: future.result(LIMIT))
        executor.shutdown()
        return unused, used

    assert run_in_child(child, LIMIT * 2) == (64, 128)


def test_executor_that_was_shut_down_stays_so(tmp_path):
    executor = forksafe.protect(standard())
    futures = blocked(tmp_path, executor.submit, 2)
    executor.shutdown(wait=False)

    def child():
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(pow, 2, 6)
        executor.shutdown()
        return {type(future.exception(LIMIT)).__name__ for future in futures}

    assert run_in_child(child, LIMIT) == {"InheritedFutureError"}
    end(tmp_path, futures, lambda future: future.result(LIMIT))


def test_child_that_drops_the_executor_wakes_nobody(tmp_path):
    """The standard one sends to its parent's thread, which has a lock that the thread may have held."""
    executor = forksafe.protect(standard())
    executor.submit(pow, 2, 5).result(LIMIT)
    wakeup = executor._executor_manager_thread_wakeup
    told = []
    wakeup.wakeup = lambda: told.append("woken") or type(wakeup).wakeup(wakeup)

    def child():
        nonlocal executor
        executor = None
        gc.collect()
        return told

    assert run_in_child(child, LIMIT) == []
    executor.shutdown()
    assert told


def test_spawned_workers():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        forksafe.protect(executor)
        executor.submit(pow, 2, 5).result(LIMIT)

        def child():
            with executor:
                return executor.submit(pow, 2, 6).result(LIMIT)

        assert run_in_child(child, LIMIT * 2) == 64


# multiprocessing's pools

POOLS = {"Pool": CONTEXT.Pool, "ThreadPool": multiprocessing.pool.ThreadPool}


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
        with pytest.raises(ChildTimeout):
            run_in_child(lambda: pool.apply(pow, (2, 6)), 1, c_stacks=False)


ENDS = {
    "with": lambda pool: pool.__exit__(None, None, None),
    "close": lambda pool: pool.close(),
    "terminate": lambda pool: pool.terminate(),
}


@pytest.mark.parametrize("how", ENDS)
def test_child_ends_the_pool_without_having_used_it(pool, how):
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


def test_worker_processes_may_use_it_not_take_it_for_the_parents(pool):
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
    assert capsys.readouterr().err.count(": put right in children") == 2


def test_signal_handler_that_forks_while_waiting(pool, tmp_path):
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
