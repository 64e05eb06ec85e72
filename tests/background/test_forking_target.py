"""A BackgroundThread whose target forks: the child is in the middle of it, goes on, and ends as a program does."""

from __future__ import annotations

import multiprocessing
import threading

import pytest

from forksafe import BackgroundThread
from support.background import LIMIT, in_child, sleeps, wait_until
from support.programs import python, script, succeeds

FOR_EVER = 1000  # seconds: whoever waits so long hangs


def test_target_that_forks(make, no_hazards):
    """In the child it is the one that runs, and is not started a second time."""
    results = []

    def child():
        return thread.is_alive(), threading.active_count(), BackgroundThread.current() is thread

    def target():
        results.append(in_child(child))

    thread = make(target, interval=0.001)
    other = make(sleeps)
    thread.start()
    wait_until(lambda: len(results) > 2)
    assert thread.stop(LIMIT)
    assert set(results) == {(True, 1, True)}
    del results[:]
    other.start()
    thread.start()
    wait_until(lambda: len(results) > 2)
    assert thread.stop(LIMIT)
    assert set(results) == {(True, 2, True)}  # with the other's, restarted


def test_target_that_starts_a_process(make, no_hazards):
    codes = []
    context = multiprocessing.get_context("fork")

    def target():
        process = context.Process(target=pow, args=(2, 5))
        process.start()
        process.join(LIMIT)
        codes.append(process.exitcode)

    make(target, interval=0.001).start()
    wait_until(lambda: len(codes) > 2)
    assert set(codes) == {0}


def test_two_targets_fork_at_once(make, hazards):
    """Each in the middle of its target: neither can come to rest before its own fork is over. They are told apart from
    those that take long: with these limits the test would take an hour."""
    both, done = threading.Barrier(2), []

    def target(thread):
        both.wait(LIMIT)
        for _ in range(5):
            done.append(in_child(lambda: 1))
        sleeps(thread)

    one, two = make(target, park_timeout=FOR_EVER), make(target, park_timeout=FOR_EVER)
    one.start()
    two.start()
    wait_until(lambda: len(done) == 10)


# The child's end

PROGRAM = """
    import atexit, os, sys, threading, forksafe
    pids, forked, count = [], threading.Event(), 0
    @atexit.register
    def at_exit(): print("exit of", "child" if pids == [0] else "parent")
    {program}
    assert forked.wait(30)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == {status}
"""


def run(tmp_path, program, status):
    """A program whose thread forks and appends to `pids`; the parent then sets `forked`. The child has that status."""
    text = PROGRAM.format(program=program.strip(), status=status)
    result = python("-W", "ignore::DeprecationWarning", script(tmp_path / "program.py", text), timeout=2 * LIMIT)
    return succeeds(result), result.stderr


INTERVAL = """
    def target():
        if not pids:
            pids.append(os.fork())
            if pids == [0]:
                {ends}
            forked.set()
    thread = forksafe.BackgroundThread(target, interval=0.001, at_fork="{at_fork}")
    thread.start()
"""


@pytest.mark.parametrize(("at_fork", "ends", "status"), [
    ("stop", "return", 0), ("stop", "sys.exit(7)", 7), ("stop", "1 / 0", 1),
    ("restart", "sys.exit(7)", 7), ("restart", "thread.stop(); return", 0),
])  # fmt: skip
def test_interval_target_child_ends(tmp_path, at_fork, ends, status):
    """The child of an interval target ends with it."""
    output, errors = run(tmp_path, INTERVAL.format(ends=ends, at_fork=at_fork), status)
    assert output == "exit of child\nexit of parent\n"
    assert errors.count("ZeroDivisionError") == (ends == "1 / 0")


def test_standard_thread_child_ends(tmp_path):
    """Control: the child of a thread of threading loses its status and atexit functions."""
    control = INTERVAL.format(ends="sys.exit(7)", at_fork="stop")
    control = control.replace('forksafe.BackgroundThread(target, interval=0.001, at_fork="stop")',
                              "threading.Thread(target=target)")  # fmt: skip
    output, _ = run(tmp_path, control, 0)
    assert output == "exit of parent\n"


def test_interval_target_child_goes_on(tmp_path):
    """at_fork="restart": with the next intervals, as the child's only thread."""
    run(tmp_path, """
    def target():
        global count
        if not pids:
            pids.append(os.fork())
            forked.set()
        if pids == [0]:
            count += 1
            if count == 3:
                sys.exit(9 if threading.active_count() == 1 else 8)
    forksafe.BackgroundThread(target, interval=0.001).start()
    """, 9)  # fmt: skip


@pytest.mark.parametrize(("at_fork", "answer"), [("stop", 1), ("restart", 0)])
def test_the_child_of_a_loop_is_told(tmp_path, at_fork, answer):
    run(tmp_path, f"""
    def loop(thread):
        pids.append(os.fork())
        if pids == [0]:
            sys.exit(20 + thread.wait(0))
        forked.set()
        while not thread.wait():
            pass
    forksafe.BackgroundThread(loop, at_fork="{at_fork}").start()
    """, 20 + answer)  # fmt: skip
