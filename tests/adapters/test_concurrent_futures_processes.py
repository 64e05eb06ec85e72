"""protect() for the standard ProcessPoolExecutor; each cure with its control."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import multiprocessing.pool
import os
import threading
from multiprocessing import process

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs
from support.workers import LIMIT, Derived, blocked, end, in_child, standard


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


def test_executor_unprotected():
    """The control: in the child it hangs."""
    with standard() as executor:
        forksafe.unprotect(forksafe.protect(executor))
        executor.submit(pow, 2, 5).result(LIMIT)
        assert_child_hangs(lambda: executor.submit(pow, 2, 6).result(), "in result")


def test_executor_unused_in_child(executor):
    """It starts nothing there."""
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


def test_executor_shut_down_before_fork(tmp_path):
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


def test_executor_dropped_in_child(tmp_path):
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
