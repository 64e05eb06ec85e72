"""ThreadPoolExecutor in a child: usable at once, and what the parent submitted is the parent's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.executors import Blocked
from support.hangs import assert_child_hangs
from support.programs import python, script, succeeds

# A child uses it


def test_child_uses_it(executor, fork):
    assert executor.submit(pow, 2, 5).result(10) == 32
    assert run_in_child(lambda: executor.submit(pow, 2, 6).result(10), fork=fork) == 64
    assert executor.submit(pow, 2, 7).result(10) == 128


def test_control_standard_one_hangs():
    with ThreadPoolExecutor(1) as executor:
        executor.submit(pow, 2, 5).result(10)
        assert_child_hangs(lambda: executor.submit(pow, 2, 6).result(), "in result")


def test_child_has_its_full_size(executor, blocked, fork):
    def child():
        together = threading.Barrier(executor._max_workers, timeout=5)
        futures = [executor.submit(together.wait) for _ in range(executor._max_workers)]
        return sorted(future.result(10) for future in futures), len(executor._threads)

    assert run_in_child(child, fork=fork) == ([*range(executor._max_workers)], executor._max_workers)


def test_never_used_in_the_parent(executor, fork):
    assert run_in_child(lambda: executor.submit(pow, 2, 6).result(10), fork=fork) == 64


def test_grandchild_and_its_own_futures(executor, blocked):
    def child():
        mine = executor.submit(threading.Event().wait, 30)

        def grandchild():
            assert isinstance(mine.exception(5), forksafe.InheritedFutureError)
            assert all(isinstance(each.exception(5), forksafe.InheritedFutureError) for each in blocked.all)
            return executor.submit(pow, 2, 6).result(10)

        return run_in_child(grandchild), executor.submit(pow, 2, 7).result(10) if executor._max_workers > 1 else 128

    assert run_in_child(child) == (64, 128)


def test_multiprocessing(executor, blocked):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(executor.submit(pow, 2, 6).result(10)))
    process.start()
    assert queue.get(timeout=10) == 64
    process.join(10)
    assert process.exitcode == 0


def test_fork_in_other_thread(executor, blocked):
    """A thread forks that is not one of the executor's."""
    result = []
    thread = threading.Thread(target=lambda: result.append(run_in_child(lambda: executor.submit(pow, 2, 6).result(10))))
    thread.start()
    thread.join(20)
    assert result == [64]


# Futures


def test_futures_of_the_parent_have_failed(executor, blocked, fork):
    def child():
        forksafe.generation()
        for future in blocked.all:
            with pytest.raises(forksafe.InheritedFutureError, match="not done a second time"):
                future.result(5)
            assert future.done()
            assert not future.running()
            assert not future.cancelled()
            assert not future.cancel()
            assert isinstance(future.exception(), concurrent.futures.BrokenExecutor)
        return [future._state for future in blocked.all]

    assert set(run_in_child(child, fork=fork)) == {"FINISHED"}
    assert not any(future.done() for future in blocked.all)


def test_control_standard_hangs():
    """The negative control: futures of the standard executor hang in a child."""
    with ThreadPoolExecutor(1) as executor:
        blocked = Blocked(executor)
        for future in (blocked.running[0], blocked.waiting[0]):
            with pytest.raises(concurrent.futures.TimeoutError):
                run_in_child(lambda future=future: future.result(0.3))
        blocked.end()


def test_done_stays_readable(executor, fork):
    """Futures that were done at the fork stay readable."""
    done, failed = executor.submit(pow, 2, 5), executor.submit(divmod, 1, 0)
    wait([done, failed], 10)
    blocked = Blocked(executor)
    cancelled = blocked.waiting.pop()
    blocked.all.remove(cancelled)
    assert cancelled.cancel()

    def child():
        assert done.result(0) == 32
        assert cancelled.cancelled()
        assert isinstance(failed.exception(0), ZeroDivisionError)
        with pytest.raises(concurrent.futures.CancelledError):
            cancelled.result(0)

    run_in_child(child, fork=fork)
    blocked.end()


def test_waiters_in_child(executor, blocked):
    """wait(), as_completed() and asyncio, with futures of other kinds among them."""

    def child():
        standard = concurrent.futures.Future()
        standard.set_result(1)
        mine = executor.submit(pow, 2, 6)
        mixed = [*blocked.all, standard, mine]
        assert wait(mixed, 10).not_done == set()
        assert set(as_completed(mixed, 10)) == set(mixed)
        assert wait(blocked.all, 10, FIRST_COMPLETED).done

        async def main():
            return await asyncio.wait_for(asyncio.wrap_future(blocked.waiting[0]), 5)

        with pytest.raises(forksafe.InheritedFutureError):
            asyncio.run(main())

    run_in_child(child)


def test_wait_for_both_kinds_in_the_parent(executor):
    with ThreadPoolExecutor(1) as standard:
        futures = [each.submit(pow, 2, n) for n in range(20) for each in (executor, standard)]
        assert {future.result() for future in as_completed(futures, 10)} == {2**n for n in range(20)}
        assert wait(futures, 10).not_done == set()


def test_callbacks_of_parent(executor):
    """Callbacks of the parent run in the parent alone."""
    called, callers = [], []
    blocked = Blocked(executor)
    for future in blocked.all:
        future.add_done_callback(lambda _: called.append(os.getpid()))

    def child():
        for future in blocked.all:
            future.add_done_callback(lambda _: callers.append(os.getpid()))
            wait([future], 5)
        return called, set(callers) == {os.getpid()}, len(callers)

    assert run_in_child(child) == ([], True, len(blocked.all))
    blocked.end()
    executor.shutdown()
    assert called == [os.getpid()] * len(blocked.all)


@pytest.mark.parametrize("how", ["result", "exception", "wait", "as_completed"])
def test_signal_handler_forks(executor, blocked, how):
    """In the child the handler returns into the very call that waits for the parent's future."""
    future = blocked.waiting[-1]
    ways = {
        "result": lambda: future.result(),
        "exception": lambda: future.exception(),
        "wait": lambda: wait(blocked.all),
        "as_completed": lambda: list(as_completed(blocked.all)),
    }
    children = []

    def handler(number, frame):
        children.append(os.fork())
        if children[-1] == 0:
            signal.alarm(10)
        else:
            blocked.go.set()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        main = threading.main_thread().ident
        timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGUSR1))
        timer.start()
        error = None
        try:
            ways[how]()
        except BaseException as raised:
            error = raised
        if children == [0]:
            fine = isinstance(future.exception(0), forksafe.InheritedFutureError)
            fine = fine and (how != "result" or isinstance(error, forksafe.InheritedFutureError))
            os._exit(0 if fine else 3)
        assert error is None
        _, status = os.waitpid(children[0], 0)
        assert os.waitstatus_to_exitcode(status) == 0
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


ASYNCIO = """
import asyncio, os, signal, sys, threading, concurrent.futures, forksafe
executor = {module}.ThreadPoolExecutor(1)
{more}
go = threading.Event()

async def main():
    loop = forksafe.protect(asyncio.get_running_loop())  # else parent and child wake each other's
    running = loop.run_in_executor(executor, go.wait, 20)
    waiting = loop.run_in_executor(executor, pow, 2, 5)
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)  # whose status says that it has hung
        for future in running, waiting:
            try:
                await future
            except forksafe.InheritedFutureError:
                continue
            os._exit(3)
        assert await loop.run_in_executor(executor, pow, 2, 6) == 64
        os._exit(7)
    go.set()
    assert (await running, await waiting) == (True, 32)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio does not let a loop go on in a child any more")
@pytest.mark.parametrize(("module", "more", "status"), [
    ("forksafe", "", "7"),
    ("concurrent.futures", "forksafe.protect(executor)", "7"),
    ("concurrent.futures", "", str(-signal.SIGALRM)),  # the negative control
])  # fmt: skip
def test_loop_that_goes_on_in_the_child(tmp_path, module, more, status):
    """What it awaits is done there, too."""
    path = script(tmp_path / "program.py", ASYNCIO.format(module=module, more=more))
    assert succeeds(python("-W", "ignore", path)) == f"{status}\n"
