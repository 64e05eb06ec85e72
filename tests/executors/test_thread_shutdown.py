"""ThreadPoolExecutor: how it ends, in a child too, and what it has in common with the standard one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import multiprocessing
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.executors import Blocked
from support.threads import Busy

# Ends


def test_child_shuts_it_down(fork):
    """It waits for nobody of the parent's, and the parent's goes on."""
    with forksafe.ThreadPoolExecutor(2) as executor:
        blocked = Blocked(executor)

        def child():
            with executor:
                pass
            with pytest.raises(RuntimeError, match="after shutdown"):
                executor.submit(pow, 2, 5)
            return executor._threads

        assert run_in_child(child, fork=fork) == set()
        assert not any(future.done() for future in blocked.all)
        assert executor.submit(pow, 2, 5) not in blocked.all
        blocked.end()


def test_shut_down_before_the_fork():
    executor = forksafe.ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        run_in_child(lambda: executor.submit(pow, 2, 5) and None)


def test_broken_then_fork():
    """What was broken before the fork is tried again in the child."""
    parent = os.getpid()

    def initializer():
        if os.getpid() == parent:
            raise ValueError("only in children")

    executor = forksafe.ThreadPoolExecutor(1, initializer=initializer)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        executor.submit(pow, 2, 5).result(10)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        executor.submit(pow, 2, 5)
    assert run_in_child(lambda: executor.submit(pow, 2, 5).result(10)) == 32


def test_collected_in_the_child(fork):
    executor = forksafe.ThreadPoolExecutor(1)
    blocked = Blocked(executor)
    holder = [executor]
    del executor
    gc.collect()  # a Thread that was not joined: after a fork by C the interpreter would detach what is not there
    run_in_child(lambda: [holder.clear(), gc.collect()], fork=fork)
    holder.clear()
    blocked.end()


def test_arguments_not_finalised(executor):
    """What a task of the parent had is not finalised in the child."""

    class Session:
        def __del__(self):
            finalised.append(os.getpid())

    finalised = []
    blocked = Blocked(executor)
    futures = [executor.submit(id, Session())]

    def child():
        assert isinstance(futures[0].exception(), forksafe.InheritedFutureError)
        futures.clear()
        blocked.all.clear()
        gc.collect()
        return finalised

    assert run_in_child(child) == []
    blocked.end()
    futures[0].result(10)
    del futures[:]
    executor.shutdown()
    assert finalised == [os.getpid()]


def test_collected_ends_threads():
    """An executor that is collected ends its threads."""
    executor = forksafe.ThreadPoolExecutor(2)
    results = [executor.submit(pow, 2, n) for n in range(100)]
    threads, reference = set(executor._threads), weakref.ref(executor)
    del executor
    gc.collect()
    assert reference() is None
    assert [each.result(10) for each in results] == [2**n for n in range(100)]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_thread_that_cannot_be_started(monkeypatch):
    with forksafe.ThreadPoolExecutor(2) as executor:

        def fail(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            with pytest.raises(RuntimeError, match="can't start"):
                executor.submit(pow, 2, 5)
            assert (executor._work_queue.qsize(), executor._threads) == (0, set())
        first = executor.submit(pow, 2, 5)
        assert first.result(10) == 32
        blocked = Busy(lambda: None)
        gate = threading.Event()
        running = executor.submit(gate.wait, 10)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            later = executor.submit(pow, 2, 6)  # the thread that there is will do it
        gate.set()
        assert running.result(10)
        assert later.result(10) == 64
        blocked.end()


def test_bad_arguments():
    for seconds in ("1", True, [], object()):
        with pytest.raises(TypeError, match=r"fork_grace\) takes a number of seconds"):
            forksafe.ThreadPoolExecutor(1, fork_grace=seconds)
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"fork_grace\) takes a number of seconds"):
            forksafe.ThreadPoolExecutor(1, fork_grace=seconds)
    with pytest.raises(ValueError, match="max_workers"):
        forksafe.ThreadPoolExecutor(0)
    with pytest.raises(TypeError, match="initializer"):
        forksafe.ThreadPoolExecutor(1, initializer=1)
    with pytest.raises(TypeError, match="pickled"):
        multiprocessing.reduction.ForkingPickler.dumps(forksafe.ThreadPoolExecutor(1))


def test_types(executor):
    future = executor.submit(pow, 2, 5)
    assert isinstance(executor, ThreadPoolExecutor)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(10) == 32
    assert repr(future).startswith("<Future at 0x")
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_result(1)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_exception(ValueError())
    with pytest.raises(TypeError, match="pickled"):
        multiprocessing.reduction.ForkingPickler.dumps(future)


def test_context_variables(executor):
    """Context variables are seen as with the standard executor."""
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("set by who submits")
    with ThreadPoolExecutor(1) as standard:
        seen = [each.submit(variable.get).result(10) for each in (executor, standard)]
    assert seen[0] == seen[1]


def test_default_executor_of_asyncio(executor):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        return await asyncio.gather(*(asyncio.to_thread(pow, 2, n) for n in range(50)))

    assert asyncio.run(main()) == [2**n for n in range(50)]


def test_repr_counts():
    """Workers, queued and running tasks, and whether it takes more."""
    started, go = threading.Event(), threading.Event()
    executor = forksafe.ThreadPoolExecutor(1)
    assert " workers=0/1 queued=0 running=0 at 0x" in repr(executor)
    executor.submit(lambda: started.set() or go.wait(10))
    executor.submit(print)
    assert started.wait(10)
    try:
        assert repr(executor).startswith("<forksafe.ThreadPoolExecutor workers=1/1 queued=1 running=1 at 0x")
        assert " workers=0/1 queued=0 running=0 at 0x" in run_in_child(lambda: repr(executor))
        executor.shutdown(wait=False, cancel_futures=True)
        assert " queued=0 running=1 closed at 0x" in repr(executor)
    finally:
        go.set()


def test_repr_broken():
    executor = forksafe.ThreadPoolExecutor(1, initializer=lambda: 1 / 0)
    executor.submit(print).exception(10)
    assert " broken at 0x" in repr(executor)
