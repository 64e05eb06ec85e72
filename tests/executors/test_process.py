"""ProcessPoolExecutor in a child: usable at once with workers of its own, and what the parent has is the parent's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import pickle
import sys
import threading
from concurrent.futures import as_completed, wait
from concurrent.futures.process import BrokenProcessPool

import pytest

import forksafe
from forksafe.executors.inherited import InheritedFutureError
from forksafe.executors.process import ProcessPoolExecutor
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs
from support.process_targets import fork_and_prepare, told, use_a_pool
from support.processes import CONTEXT, LIMIT, Gated, ask, in_thread, linux, prepare, prepared

Standard = concurrent.futures.ProcessPoolExecutor


@pytest.fixture
def executor():
    with ProcessPoolExecutor(2) as executor:
        assert executor.submit(pow, 2, 5).result(LIMIT) == 32
        yield executor


@pytest.fixture
def gated():
    gated = Gated(ProcessPoolExecutor)
    yield gated
    gated.open()


# A child uses it


def test_child_uses_it(executor, fork):
    workers = set(executor._processes)
    assert workers

    def child():
        assert executor._processes == {}
        return executor.submit(os.getpid).result(LIMIT), executor.submit(os.getppid).result(LIMIT), os.getpid()

    worker, owner, child_pid = run_in_child(child, LIMIT, fork=fork)
    assert worker not in workers
    assert child_pid != os.getpid()
    assert owner == child_pid or sys.platform != "linux"  # where it is forked by the child itself
    assert executor.submit(os.getpid).result(LIMIT) in set(executor._processes)
    assert workers <= set(executor._processes)


def test_control_the_standard_one_hangs():
    with Standard(1, mp_context=CONTEXT) as executor:
        assert executor.submit(pow, 2, 5).result(LIMIT) == 32
        assert_child_hangs(lambda: executor.submit(pow, 2, 6).result(), "in result")


def test_attributes_of_the_standard_one():
    """What programs read of a standard executor is there, before and after the first use."""
    with Standard(2) as standard, ProcessPoolExecutor(2, initializer=print) as executor:
        assert set(vars(standard)) & {"_max_workers", "_mp_context", "_initializer", "_initargs"} <= set(vars(executor))
        assert (executor._max_workers, executor._initializer, executor._initargs) == (2, print, ())


def test_never_used_in_the_parent(fork):
    with ProcessPoolExecutor(1) as executor:
        assert run_in_child(lambda: executor.submit(pow, 2, 6).result(LIMIT), LIMIT, fork=fork) == 64


def test_grandchild_and_worker_thread(executor):
    def use():
        return executor.submit(pow, 2, 6).result(LIMIT)

    def child():
        return use(), run_in_child(use, LIMIT), in_thread(use)

    assert in_thread(lambda: run_in_child(child, LIMIT)) == (64, 64, 64)
    assert in_thread(use) == 64


def test_in_a_daemonic_process():
    assert ask(use_a_pool, daemon=True)[1] == 64


def test_each_worker_is_initialised():
    with ProcessPoolExecutor(2, initializer=prepare) as executor:
        own = {executor.submit(prepared).result(LIMIT) for _ in range(4)}

        def child():
            return {executor.submit(prepared).result(LIMIT) for _ in range(4)}

        childs = run_in_child(child, LIMIT)
    assert all(good for good, _ in own | childs)
    assert not {pid for _, pid in own} & {pid for _, pid in childs}


def test_an_initializer_that_forks():
    with ProcessPoolExecutor(1, initializer=fork_and_prepare) as executor:
        assert executor.submit(told).result(LIMIT)


def test_a_task_that_forks(executor):
    assert executor.submit(fork_and_prepare).result(LIMIT) is None
    assert executor.submit(pow, 2, 6).result(LIMIT) == 64


# Futures


def test_futures_of_the_parent_have_failed(gated, fork):
    def child():
        forksafe.generation()
        for future in gated.all:
            with pytest.raises(InheritedFutureError, match="not done a second time"):
                future.result(LIMIT)
            assert future.done() and not future.running() and not future.cancelled() and not future.cancel()
        return {future._state for future in gated.all}

    assert run_in_child(child, LIMIT, fork=fork) == {"FINISHED"}
    assert not any(future.done() for future in gated.all)


def test_control_standard_hangs():
    """The negative control: futures of the standard executor hang in a child."""
    gated = Gated(lambda *given, **more: Standard(*given, mp_context=CONTEXT, **more))
    for future in gated.running, gated.waiting[-1]:
        with pytest.raises(concurrent.futures.TimeoutError):
            run_in_child(lambda: future.result(0.3))
    gated.open()


def test_done_stays_readable(executor, fork):
    """Futures that were done at the fork stay readable."""
    done, failed = executor.submit(pow, 2, 5), executor.submit(divmod, 1, 0)
    assert wait([done, failed], LIMIT).not_done == set()

    def child():
        assert isinstance(failed.exception(0), ZeroDivisionError)
        return done.result(0)

    assert run_in_child(child, fork=fork) == 32


def test_waiters_in_child(gated):
    """wait(), as_completed() and asyncio, with futures of other kinds among them."""

    def child():
        standard = concurrent.futures.Future()
        standard.set_result(1)
        with forksafe.ThreadPoolExecutor(1) as threads:
            mixed = [*gated.all, standard, threads.submit(pow, 2, 6), gated.executor.submit(pow, 2, 6)]
            gated.gate.set()
            assert wait(mixed, LIMIT).not_done == set()
            assert set(as_completed(mixed, LIMIT)) == set(mixed)
            assert [each.result(LIMIT) for each in mixed[-3:]] == [1, 64, 64]

        async def main():
            return await asyncio.wait_for(asyncio.wrap_future(gated.waiting[0]), LIMIT)

        with pytest.raises(InheritedFutureError):
            asyncio.run(main())

    run_in_child(child, LIMIT)


def test_mixed_kinds_in_the_parent(executor):
    with concurrent.futures.ThreadPoolExecutor(1) as standard, forksafe.ThreadPoolExecutor(1) as threads:
        futures = [each.submit(pow, 2, n) for n in range(5) for each in (executor, standard, threads)]
        assert {future.result() for future in as_completed(futures, LIMIT)} == {2**n for n in range(5)}
        assert wait(futures, LIMIT).not_done == set()

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(executor, pow, 2, 6), LIMIT)

    assert asyncio.run(main()) == 64


def test_callbacks_of_parent(gated):
    """Callbacks of the parent run in the parent alone."""
    called = []
    for future in gated.all:
        future.add_done_callback(lambda _: called.append(os.getpid()))

    def child():
        assert wait(gated.all, LIMIT).not_done == set()
        return called

    assert run_in_child(child, LIMIT) == []
    gated.gate.set()
    assert wait(gated.all, LIMIT).not_done == set()
    gated.executor.shutdown()
    assert called == [os.getpid()] * len(gated.all)


def test_cancel():
    gated = Gated(ProcessPoolExecutor)
    last = [gated.executor.submit(pow, 2, n) for n in range(5)][-1]
    assert last.cancel() and last.cancelled() and last._state.startswith("CANCELLED")
    assert gated.running.running() and not gated.running.cancel()
    gated.open()
    with pytest.raises(concurrent.futures.CancelledError):
        last.result(0)


# A worker that dies


@pytest.mark.parametrize("restart", [False, True])
def test_a_worker_that_dies(restart, fork):
    with ProcessPoolExecutor(1, restart=restart) as executor:
        for _ in range(2 if restart else 1):
            with pytest.raises(BrokenProcessPool):
                executor.submit(os._exit, 3).result(LIMIT)
        if restart:
            assert executor.submit(pow, 2, 6).result(LIMIT) == 64
        else:
            with pytest.raises(BrokenProcessPool):
                executor.submit(pow, 2, 6)
        assert run_in_child(lambda: executor.submit(pow, 2, 7).result(LIMIT), LIMIT, fork=fork) == 128


# Its methods


def test_map(executor):
    assert list(executor.map(pow, [2, 3, 4], [1, 2, 3], timeout=LIMIT)) == [2, 9, 64]
    assert list(executor.map(abs, range(-5, 5), chunksize=3)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)
    if sys.version_info >= (3, 14):
        assert list(executor.map(abs, range(-5, 5), buffersize=2)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_map_timeout():
    gated = Gated(ProcessPoolExecutor)
    with pytest.raises(concurrent.futures.TimeoutError):
        list(gated.executor.map(abs, [-1], timeout=0.01))
    gated.open()


def test_shutdown(fork):
    """A child's waits for nobody, and is the child's alone."""
    gated = Gated(ProcessPoolExecutor)

    def child():
        with gated.executor:
            pass
        with pytest.raises(RuntimeError, match="after shutdown"):
            gated.executor.submit(pow, 2, 5)

    run_in_child(child, LIMIT, fork=fork)
    assert gated.executor.submit(pow, 2, 6) not in gated.all
    gated.open()
    with pytest.raises(RuntimeError, match="after shutdown"):
        gated.executor.submit(pow, 2, 5)
    with pytest.raises(RuntimeError, match="after shutdown"):
        run_in_child(lambda: gated.executor.submit(pow, 2, 5) and None)


def test_shutdown_that_cancels():
    gated = Gated(ProcessPoolExecutor)
    gated.executor.shutdown(wait=False, cancel_futures=True)
    gated.gate.set()
    assert gated.running.result(LIMIT) != os.getpid()
    assert wait(gated.all, LIMIT).not_done == set()
    assert gated.waiting[-1].cancelled()


def test_collected_in_the_child(gated, fork):
    def child():
        gated.executor = None
        gated.all.clear()
        gated.waiting.clear()
        gc.collect()

    run_in_child(child, LIMIT, fork=fork)


@pytest.mark.skipif(not hasattr(Standard, "kill_workers"), reason="needs CPython 3.14")
@pytest.mark.parametrize("name", ["terminate_workers", "kill_workers"])
def test_workers_that_are_killed(name):
    gated = Gated(ProcessPoolExecutor)
    run_in_child(getattr(gated.executor, name), LIMIT)  # they are not the child's to kill
    assert all(each.is_alive() for each in gated.executor._processes.values())
    getattr(gated.executor, name)()
    assert isinstance(gated.running.exception(LIMIT), BrokenProcessPool)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs CPython 3.11")
def test_max_tasks_per_child():
    with ProcessPoolExecutor(1, max_tasks_per_child=1) as executor:
        assert len({executor.submit(os.getpid).result(LIMIT) for _ in range(2)}) == 2
        pids = run_in_child(lambda: {executor.submit(os.getpid).result(LIMIT) for _ in range(2)}, LIMIT)
        assert len(pids) == 2


def test_wrong_arguments():
    for wrong, error in (
        ({"max_workers": 0}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"restart": 1}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(wrong))):
            ProcessPoolExecutor(**wrong)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ProcessPoolExecutor(1))


@linux
def test_workers_start_method():
    """Workers are forked only while there is a single thread."""

    def child():
        with ProcessPoolExecutor(1) as executor:
            executor.submit(pow, 2, 5).result(LIMIT)
            return {each._popen.method for each in executor._processes.values()}

    assert run_in_child(child, LIMIT) == {"fork"}
    with ProcessPoolExecutor(1) as executor:
        thread = threading.Thread(target=(go := threading.Event()).wait, daemon=True)
        thread.start()
        assert executor.submit(pow, 2, 5).result(LIMIT) == 32
        assert {each._popen.method for each in executor._processes.values()} == {"forkserver"}
        go.set()
        thread.join()


def test_repr_counts():
    """Workers, queued and running tasks, and whether it takes more."""
    with ProcessPoolExecutor(1) as executor:
        assert repr(executor).startswith("<forksafe.ProcessPoolExecutor workers=0/1 queued=0 running=0 at 0x")
        assert executor.submit(pow, 2, 5).result(LIMIT) == 32
        assert " workers=1/1 queued=0 " in repr(executor)
        assert " workers=0/1 queued=0 running=0 at 0x" in run_in_child(lambda: repr(executor))
    assert " queued=0 running=0 closed at 0x" in repr(executor)
