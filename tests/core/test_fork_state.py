"""The generation, thread tokens and who survived, for each way to fork."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import threading

import pytest

import forksafe
from forksafe import testing
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.forks import FORKS, HANDLERS_RUN, skip_without_the_gil
from support.programs import python, script, succeeds
from support.threads import threads


def test_generation_counts_forks(fork):
    before = forksafe.generation()
    assert run_in_child(forksafe.generation, fork=fork) == before + 1
    assert forksafe.generation() == before


def test_grandchild(fork):
    before = forksafe.generation()

    def child():
        return forksafe.generation(), run_in_child(forksafe.generation, fork=fork)

    assert run_in_child(child, fork=fork) == (before + 1, before + 2)


def test_generation_unnoticed_forks():
    """Nothing is called in the child between two forks that run no handler: they are still found."""
    if "raw clone" not in FORKS:
        pytest.skip("no raw clone on this platform")
    fork = FORKS["raw clone"]
    assert run_in_child(lambda: run_in_child(forksafe.generation, fork=fork), fork=fork) > forksafe.generation()


def test_the_platform_wipes_pages():
    if os.uname().sysname != "Linux":
        pytest.skip("wiped pages are asked for on Linux only")
    assert atfork.state()["wipes"]


def test_late_forks_are_counted(fork, fork_name):
    before = atfork.state()["late_forks"]
    forksafe.generation()
    late = run_in_child(lambda: (forksafe.generation(), atfork.state())[1]["late_forks"], fork=fork) - before
    assert late == (0 if fork_name in HANDLERS_RUN else 1)


def test_token_of_survivor(fork, busy):
    """The survivor keeps its token, and the other threads are gone."""
    tokens = []
    busy(lambda: tokens.append(atfork.token()))
    mine = atfork.token()

    def child():
        return atfork.token(), atfork.gone(mine), atfork.gone(tokens[0]), atfork.state()["survivor"]

    assert run_in_child(child, fork=fork) == (mine, False, True, mine)
    assert not atfork.gone(tokens[0])


def test_gone_new_thread(fork, busy):
    """Thread idents are reused in a child; tokens are not."""
    tokens = []
    for _ in range(4):
        busy(lambda: tokens.append(atfork.token()))

    def child():
        new = []
        made = [
            threading.Thread(target=lambda: new.append((atfork.token(), atfork.gone(atfork.token())))) for _ in range(4)
        ]
        for thread in made:
            thread.start()
        for thread in made:
            thread.join(5)
        return new

    new = run_in_child(child, fork=fork)
    assert len(new) == 4
    assert not {token for token, _ in new} & {*tokens, atfork.token()}
    assert not any(gone for _, gone in new)


def test_fork_from_a_worker_thread(fork, busy):
    main = atfork.token()
    result = []

    def work():
        mine = atfork.token()
        result.append(run_in_child(lambda: (atfork.token() == mine, atfork.gone(main), atfork.gone(mine)), fork=fork))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert result == [(True, True, False)]


def test_fork_by_a_thread_without_a_token(fork):
    """It never used forksafe: nobody's token survives."""
    main = atfork.token()
    result = []
    thread = threading.Thread(
        target=lambda: result.append(run_in_child(lambda: (atfork.gone(main), atfork.state()["survivor"]), fork=fork))
    )
    if fork is os.fork:
        pytest.skip("forksafe's own hook gives the forking thread a token")
    thread.start()
    thread.join(20)
    assert result == [(True, 0)]


def test_gone_survivor_unknown(busy):
    """Another thread finds a late fork: no thread counts as gone until the survivor is known."""
    if "raw clone" not in FORKS:
        pytest.skip("no raw clone on this platform")
    lock = forksafe.Lock()
    tokens = []
    busy(lambda: (lock.acquire(), tokens.append(atfork.token())), lock.release)
    forksafe.generation()

    def child():
        seen = []

        def other():
            seen.append(atfork.state()["survivor"])
            seen.append(lock.acquire(timeout=0.1))
            seen.append(atfork.gone(tokens[0]))
            shown.wait(5)
            seen.append(lock.acquire(timeout=5))

        shown = threading.Event()
        thread = threading.Thread(target=other)  # standard primitives only: this thread must not be found first
        thread.start()
        while len(seen) < 3:
            pass
        forksafe.generation()  # the survivor shows itself
        shown.set()
        thread.join(5)
        return seen

    assert run_in_child(child, fork=FORKS["raw clone"]) == [None, False, False, True]


def test_multiprocessing():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(forksafe.generation()))
    process.start()
    process.join(10)
    assert process.exitcode == 0
    assert queue.get() == forksafe.generation() + 1


def test_generation_overlapping_forks(fork, fork_name):
    """Each child finds its own survivor, however the forks interleave.

    After a C fork among threads that compete for it, the child's interpreter may hang where it lets go the GIL (its
    condition variable is inherited in use), so that child only computes and leaves.
    """
    skip_without_the_gil(fork_name)
    before = forksafe.generation()
    start, all_forked = threading.Barrier(6), threading.Barrier(6)
    statuses = []
    interval = sys.getswitchinterval()

    def work():
        mine = atfork.token()
        start.wait(10)
        for _ in range(3):
            pid = fork()
            if pid == 0:
                right = forksafe.generation() == before + 1 and atfork.token() == mine and not atfork.gone(mine)
                os._exit(0 if right else 3)
            statuses.append(testing._reap(pid, 20))
            if statuses[-1] is None:
                testing._kill(pid)
        all_forked.wait(60)  # a thread's end takes locks, the interpreter's and malloc's, that a raw clone leaves held

    sys.setswitchinterval(interval if fork_name == "os.fork" else 1000)
    try:
        with threads(work, 6):
            pass
    finally:
        sys.setswitchinterval(interval)
    assert statuses == [0] * 18


def test_fork_that_fails_changes_nothing():
    """EAGAIN: no child, so nothing happened; the hooks' parent half ran, and locks work on."""

    def child():
        lock = forksafe.Lock(hold=True)
        seen = []
        forksafe.register_at_fork(before=lambda: seen.append("before"), after_in_parent=lambda: seen.append("parent"))
        before = forksafe.generation()
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            pid = os.fork()
        except BlockingIOError:
            pass
        else:
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            return "fork did not fail"
        with lock:
            return seen, forksafe.generation() - before

    assert run_in_child(child) == (["before", "parent"], 0)


def test_hooks_subprocess_preexec_fn(tmp_path):
    """subprocess with preexec_fn runs the hooks in the child."""
    program = script(
        tmp_path / "program.py",
        """
        import subprocess, sys, forksafe
        before = forksafe.generation()
        def check():
            assert forksafe.generation() == before + 1
        subprocess.run([sys.executable, "-c", "pass"], preexec_fn=check, check=True, timeout=20)
        assert forksafe.generation() == before
    """,
    )
    succeeds(python(program))
