"""BackgroundThread after a fork: it goes on in the parent, and anew in the child."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading

import pytest

import forksafe
from support.background import LIMIT, Runs, in_child, is_at_checkpoint, sleeps, wait_until
from support.forks import skip_without_the_gil
from support.programs import python, script, succeeds
from support.threads import threads


def test_it_is_restarted_in_the_child(make, calm_fork, no_hazards):
    """With a fork made by C as well, at the first call of anything of forksafe."""
    runs = Runs()
    thread = make(runs, interval=0.001)
    thread.start()
    wait_until(lambda: runs.pids)
    with forksafe.quiesce(LIMIT):
        native = thread.native_id

        def child():
            forksafe.generation()
            return runs.go_on_here(), thread.native_id != native, thread.stop(LIMIT), thread.is_alive()

        assert in_child(child, fork=calm_fork) == (True, True, True, False)
    assert runs.go_on_here()


def test_restart_standard_thread():
    """Control: a thread of threading is missing in the child."""
    runs, stop = Runs(), threading.Event()

    def loop():
        while not stop.wait(0.001):
            runs()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    wait_until(lambda: runs.pids)
    assert in_child(lambda: (thread.is_alive(), len(sys._current_frames()))) == (False, 1)
    stop.set()
    thread.join(LIMIT)


def test_restart_loop_begins_anew(make, no_hazards):
    """The loop begins anew in the child."""
    beginnings = []

    def loop(thread):
        beginnings.append(os.getpid())
        sleeps(thread)

    thread = make(loop)
    thread.start()
    wait_until(lambda: is_at_checkpoint(thread))

    def child():
        wait_until(lambda: len(beginnings) == 2)
        return beginnings[1] == os.getpid(), thread.stop(LIMIT)

    assert in_child(child) == (True, True)
    assert beginnings == [os.getpid()]


def test_stop_at_fork(make, calm_fork, no_hazards):
    """It is not there, and can be started."""
    thread = make(sleeps, at_fork="stop")
    thread.start()
    with forksafe.quiesce(LIMIT):

        def child():
            before = thread.is_alive(), thread.ident, thread.stop(LIMIT)
            thread.start()
            return before, thread.is_alive(), thread.stop(LIMIT)

        assert in_child(child, fork=calm_fork) == ((False, None, True), True, True)
    assert thread.is_alive()


def test_restart_not_running(make):
    """A thread that was stopped or never started is not restarted."""
    ended, never, told = make(sleeps), make(sleeps), make(sleeps)
    ended.start()
    assert ended.stop(LIMIT)
    told.start()
    registration = forksafe.register_at_fork(before=lambda: told.stop(wait=False))

    def child():
        return [each.is_alive() for each in (ended, never, told)], threading.active_count()

    assert in_child(child) == ([False, False, False], 1)
    registration.unregister()


def test_restart_fails_for_one(make, monkeypatch):
    """The other threads are restarted all the same."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(args.exc_type))
    refused, other = make(sleeps, name="refused"), make(sleeps)
    refused.start()
    other.start()
    start = threading.Thread.start

    def refuse(self):
        if self.name == "refused":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert in_child(lambda: (refused.is_alive(), other.is_alive(), reported)) == (False, True, [RuntimeError])
    monkeypatch.undo()


def test_grandchild(make, no_hazards):
    runs = Runs()
    make(runs, interval=0.001).start()
    assert in_child(lambda: (in_child(runs.go_on_here), runs.go_on_here())) == (True, True)


def test_fork_by_another_thread(make, no_hazards):
    runs, results = Runs(), []
    make(runs, interval=0.001).start()
    with threads(lambda: results.append(in_child(runs.go_on_here)), 1, 3 * LIMIT):
        pass
    assert results == [True]


def in_process(queue, thread, runs):
    queue.put((runs.go_on_here(), thread.is_alive()))


def test_multiprocessing(make, no_hazards):
    """Its child ends with threading's own end, which has to find the child's thread."""
    runs = Runs()
    thread = make(runs, interval=0.001)
    thread.start()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=in_process, args=(queue, thread, runs))
    process.start()
    process.join(2 * LIMIT)
    assert process.exitcode == 0
    assert queue.get() == (True, True)


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
@pytest.mark.parametrize("at_fork", ["restart", "stop"])
def test_restart_signal_during_join(tmp_path, fork, at_fork):
    """The child is in the middle of join() for a thread that vanished."""
    skip_without_the_gil(fork)
    succeeds(python(script(tmp_path / "program.py", f"""
        import ctypes, os, signal, sys, threading, time, forksafe
        sys.setswitchinterval(100)
        def loop(thread):
            while not thread.wait():
                pass
        thread = forksafe.BackgroundThread(loop, at_fork="{at_fork}")
        thread.start()
        pids = []
        def fork(*_):
            pids.append({fork}())
            forksafe.generation()  # hooks of a fork made by C run here
            if pids[0]:
                thread.stop(wait=False)
        signal.signal(signal.SIGUSR1, fork)
        main = threading.get_ident()
        def send():
            while len(thread._condition._waiters) < 2:  # the thread, and who joins it
                time.sleep(0.005)
            signal.pthread_kill(main, signal.SIGUSR1)
        threading.Thread(target=send, daemon=True).start()
        thread.join()
        if pids == [0]:
            sys.exit(5 if thread.is_alive() == ("{at_fork}" == "restart") else 6)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 5
    """)))  # fmt: skip


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="threading refuses to start threads made before the fork")
def test_restart_signal_during_start(tmp_path):
    """It is not waited for, and the child, which is in the middle of start(), goes on with that: it begins once."""
    succeeds(python("-W", "ignore::DeprecationWarning", script(tmp_path / "program.py", """
        import os, sys, threading
        from forksafe import BackgroundThread
        begun, ready, pids, start = [], threading.Event(), [], threading.Thread.start
        def loop(thread):
            begun.append(os.getpid())
            ready.set()
            while not thread.wait():
                pass
        def fork_and_start(self):
            threading.Thread.start = start
            pids.append(os.fork())
            start(self)
        threading.Thread.start = fork_and_start
        thread = BackgroundThread(loop, park_timeout=1000)
        thread.start()
        assert ready.wait(30) and threading.active_count() == 2
        assert thread.stop(30) and begun == [os.getpid()]
        if pids == [0]:
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 5
    """)))  # fmt: skip


def test_storm(tmp_path):
    """Forks of three threads while four threads work, and one that is started and stopped: nothing is ever torn."""
    result = python(script(tmp_path / "program.py", """
        import os, sys, threading, time, warnings
        from forksafe import BackgroundThread, after_in_child
        warnings.simplefilter("ignore", DeprecationWarning)
        accounts = [[0, 0] for _ in range(4)]
        torn = []
        @after_in_child  # the first hook: before the threads go on here
        def look():
            torn[:] = [account for account in accounts if account[0] != account[1]]
        def change(account):
            account[0] += 1
            sum(range(500))
            account[1] += 1
        def loop(thread, account):
            while not thread.wait(0.0005):
                change(account)
        workers = [BackgroundThread(change, interval=0.0005, args=(accounts[0],), park_timeout=60),
                   BackgroundThread(change, interval=0.0005, args=(accounts[1],), park_timeout=60),
                   BackgroundThread(loop, args=(accounts[2],), park_timeout=60)]
        fickle = BackgroundThread(change, interval=0.0002, args=(accounts[3],), park_timeout=60)
        for worker in workers:
            worker.start()
        stop = threading.Event()
        def churn():
            while not stop.is_set():
                fickle.start()
                time.sleep(0.001)
                assert fickle.stop(60)
        failures = []
        def all_change():
            counts = [account[0] for account in accounts[:3]]
            deadline = time.monotonic() + 30
            while any(account[1] <= count for account, count in zip(accounts, counts)):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.001)
            return True
        def child():
            if torn or not all(each.is_alive() for each in workers):
                return 3
            if not all_change():
                return 4
            if not all(each.stop(30) for each in workers) or any(one != two for one, two in accounts[:3]):
                return 5
            return 0
        def fork():
            for _ in range(100):
                pid = os.fork()
                if pid == 0:
                    status = 9
                    try:
                        status = child()
                    finally:
                        os._exit(status)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if status:
                    failures.append(status)
        forkers = [threading.Thread(target=fork) for _ in range(3)]
        churner = threading.Thread(target=churn)
        for each in (*forkers, churner):
            each.start()
        for each in forkers:
            each.join()
        stop.set()
        churner.join()
        assert not failures, failures
        assert all(each.is_alive() for each in workers)
        assert all_change()
    """), timeout=100)  # fmt: skip
    succeeds(result)
    assert result.stderr == ""
