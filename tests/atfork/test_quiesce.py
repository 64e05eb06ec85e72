"""quiesce(): a fork finds no task in the middle."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import time
import warnings

import pytest

import forksafe
from forksafe.atfork import hooks, quiesce
from forksafe.testing import run_in_child
from support.forks import FORKS
from support.programs import python, script, succeeds
from support.tasks import Account, let_go_when_it_waits

# quiesce()


def test_quiesce(fork):
    """For forks by hand: no task is in the middle, and locks held across forks are taken, on both sides."""
    lock = forksafe.Lock(hold=True)
    with forksafe.ThreadPoolExecutor(2) as executor:
        account = Account()
        executor.submit(account.change)
        assert account.torn.wait(10)
        thread = let_go_when_it_waits(account, executor)
        thread._go.set()
        with forksafe.quiesce(10) as busy:
            assert busy == []
            late = executor.submit(pow, 2, 5)

            def child():
                forksafe.generation()
                return account.in_child(), executor.submit(pow, 2, 6).result(10), lock.locked()

            assert run_in_child(child, fork=fork) == (True, 64, True)
            assert not late.done()
        assert late.result(10) == 32
        assert not lock.locked()
        thread.end()


def test_quiesce_left_in_child():
    """The child leaves the block, too, and its executors and locks can be used."""
    program = """
    import os, sys, forksafe
    lock = forksafe.Lock(hold=True)
    executor = forksafe.ThreadPoolExecutor(2)
    executor.submit(pow, 2, 5).result(10)
    with forksafe.quiesce():
        pid = os.fork()
    assert not lock.locked()
    assert executor.submit(pow, 2, 6).result(10) == 64
    if pid == 0:
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    """
    import textwrap

    result = python("-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program))
    succeeds(result)
    assert result.stderr == ""


def test_quiesce_nested():
    """Blocks may be nested, and Python's own forks happen within."""
    with forksafe.ThreadPoolExecutor(2, fork_grace=5) as executor:
        executor.submit(pow, 2, 5).result(10)
        with forksafe.quiesce(5), forksafe.quiesce(5):
            assert run_in_child(lambda: executor.submit(pow, 2, 6).result(10)) == 64
            late = executor.submit(pow, 2, 7)
            assert not late.done()
        assert late.result(10) == 128


def test_quiesce_says_who_is_busy():
    with forksafe.ThreadPoolExecutor(2, "slow") as executor:
        account = Account()
        future = executor.submit(account.change)
        assert account.torn.wait(10)
        with contextlib.ExitStack() as stack:
            with pytest.warns(forksafe.ForkHazardWarning, match=r"slow_0 at .*:\d+ in change"):
                (busy,) = stack.enter_context(forksafe.quiesce(0.1))
            assert busy.name == "slow_0"
            assert busy.where.endswith(" in change")
        with pytest.raises(TimeoutError, match=r"slow_0 at .*:\d+ in change"), forksafe.quiesce(0.1, strict=True):
            raise AssertionError("not reached")
        account.go_on.set()
        future.result(10)
        assert executor.submit(pow, 2, 6).result(10) == 64


def test_interrupted_while_it_waits(tmp_path):
    """Ctrl-C, and everything goes on."""
    succeeds(python(script(tmp_path / "program.py", """
        import forksafe, os, signal, threading, time
        from forksafe.atfork import hooks
        from forksafe.atfork import quiesce
        executor, go = forksafe.ThreadPoolExecutor(2), threading.Event()
        future = executor.submit(go.wait, 30)

        def interrupt():
            while not quiesce.is_paused(executor):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        try:
            with forksafe.quiesce(30):
                os._exit(3)
        except KeyboardInterrupt:
            go.set()
        assert future.result(10)
        assert executor.submit(pow, 2, 5).result(10) == 32
    """)))  # fmt: skip


def in_a_block(busy):
    """Another thread is within quiesce(), until the end of the test."""
    block = contextlib.ExitStack()
    return busy(lambda: block.enter_context(forksafe.quiesce(5)), block.close)


def test_quiesce_other_thread_c_fork(busy):
    """Its block is over in the child, where there is nobody to leave it."""
    with forksafe.ThreadPoolExecutor(2) as executor:
        executor.submit(pow, 2, 5).result(10)
        other = in_a_block(busy)

        def child():
            forksafe.generation()
            first = executor.submit(pow, 2, 5).result(10)
            with forksafe.quiesce(5):
                pass
            return first, executor.submit(pow, 2, 6).result(10)

        if "C fork" in FORKS:
            assert run_in_child(child, fork=FORKS["C fork"]) == (32, 64)
        other.end()
        assert executor.submit(pow, 2, 7).result(10) == 128


def test_quiesce_other_thread_forks(busy):
    """And do not keep the locks from the one that forks within it."""
    lock = forksafe.Lock(hold=True)
    order = []
    inside = threading.Event()

    def fork_outside():
        inside.wait(10)
        run_in_child(lambda: None)
        order.append("outside")

    thread = threading.Thread(target=fork_outside)
    thread.start()
    with forksafe.quiesce(5):
        inside.set()
        deadline = time.monotonic() + 10
        while thread.ident not in hooks.forking_idents() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert run_in_child(lambda: lock.locked()) is True
        order.append("inside")
    thread.join(30)
    assert order == ["inside", "outside"]


def test_quiesce_new_executor(busy):
    """An executor that is made within a block is paused, too."""
    other = in_a_block(busy)
    with forksafe.ThreadPoolExecutor(1) as executor:
        future = executor.submit(pow, 2, 5)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.1)
        other.end()
        assert future.result(10) == 32


def test_fork_grace_fork_in_hook():
    """The hook runs when everything is at rest; in its child the outer fork is yet to come."""
    with forksafe.ThreadPoolExecutor(1, fork_grace=5) as executor:
        executor.submit(pow, 2, 5).result(10)
        children = []

        def hook():
            if not children:
                children.append(os.fork())
            if children == [0]:
                os._exit(7 if quiesce.is_paused(executor) else 3)

        registration = forksafe.register_at_fork(before=hook)
        hooks._registrations = (registration, *(each for each in hooks._registrations if each is not registration))
        assert run_in_child(lambda: executor.submit(pow, 2, 6).result(10)) == 64
        registration.unregister()
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
        assert executor.submit(pow, 2, 7).result(10) == 128


def test_initializers_are_waited_for():
    inside, go = threading.Event(), threading.Event()
    with forksafe.ThreadPoolExecutor(1, initializer=lambda: (inside.set(), go.wait(30))) as executor:
        future = executor.submit(pow, 2, 5)
        assert inside.wait(10)
        with pytest.raises(TimeoutError, match="in <lambda>"), forksafe.quiesce(0.1, strict=True):
            raise AssertionError("not reached")
        go.set()
        assert future.result(10) == 32
        with forksafe.quiesce(10) as busy:
            assert busy == []


def test_fork_grace_two_forking_tasks():
    """The one that comes second waits for the first one's fork, and so cannot come to rest for it: it is named."""
    with warnings.catch_warnings(record=True) as caught, forksafe.ThreadPoolExecutor(2, fork_grace=60) as executor:
        warnings.simplefilter("always")
        together = threading.Barrier(2, timeout=10)

        def task():
            together.wait()
            return run_in_child(lambda: executor.submit(pow, 2, 5).result(10))

        assert [future.result(50) for future in [executor.submit(task), executor.submit(task)]] == [32, 32]
    assert {each.category for each in caught} <= {forksafe.ForkHazardWarning, DeprecationWarning}


def test_fork_grace_quiescing_task():
    """It waits for that fork to be over, and so cannot come to rest for it: it is named, and at once."""
    in_hook, go = threading.Event(), threading.Event()
    with forksafe.ThreadPoolExecutor(1, fork_grace=60) as executor:

        def task():
            in_hook.wait(30)
            go.set()
            with forksafe.quiesce(30):
                return 32

        def hook():  # before the executor is brought to rest
            in_hook.set()
            assert go.wait(30)

        future = executor.submit(task)
        registration = forksafe.register_at_fork(before=hook)
        try:
            with pytest.warns(forksafe.ForkHazardWarning, match=" in task did not"):
                run_in_child(lambda: None)
        finally:
            registration.unregister()
        assert future.result(30) == 32


def test_quiesce_within_a_task():
    with forksafe.ThreadPoolExecutor(2) as executor:

        def task():
            with forksafe.quiesce(5) as busy:
                return busy

        assert executor.submit(task).result(10) == []


@pytest.mark.parametrize(
    ("value", "error"), [("1", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)]
)
def test_bad_timeouts(value, error):
    with pytest.raises(error, match=r"quiesce\(timeout\) takes a number of seconds"), forksafe.quiesce(value):
        pass


def test_storm_of_forks_that_wait(tmp_path):
    """No child ever sees the account torn, and nothing is lost or done twice."""
    succeeds(python(script(tmp_path / "program.py", """
        import os, threading, forksafe
        executor = forksafe.ThreadPoolExecutor(3, fork_grace=20)
        lock = threading.Lock()
        account = [0, 0]
        def change():
            with lock:
                account[0] += 1
                sum(range(2000))
                account[1] += 1
        done = 0
        for n in range(200):
            futures = [executor.submit(change) for _ in range(20)]
            pid = os.fork()
            if pid == 0:
                fine = account[0] == account[1] and not lock.locked()
                fine = fine and executor.submit(change).result(10) is None
                os._exit(0 if fine else 3)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, n
            for future in futures:
                future.result(10)
            done += 20
            assert account == [done, done]
    """), timeout=60))  # fmt: skip


def test_nobody_pays_who_does_not_ask(tmp_path):
    succeeds(python("-c", "import forksafe, sys; forksafe.ThreadPoolExecutor(1).submit(pow, 2, 5).result();"
                    "from forksafe.atfork import hooks; assert not hooks._registrations"))  # fmt: skip
