"""register_at_fork: hooks at forks by C, among threads, within hooks, and at forks that fail."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.forks import HANDLERS_RUN
from support.programs import python, script, succeeds
from support.threads import threads


def test_child_hooks_run_once(register, fork, fork_name):
    """Child hooks run once whichever way it forks."""
    log = []
    register(before=lambda: log.append("before"), after_in_child=lambda: log.append("child"))

    def child():
        with forksafe.Lock():  # the first forksafe call, uncontended
            pass
        forksafe.generation()
        return log

    assert run_in_child(child, fork=fork) == (["before", "child"] if fork_name == "os.fork" else ["child"])


@pytest.mark.parametrize("call", [
    "forksafe.generation()", "lock.acquire()", "lock.__enter__()", "rlock.acquire()", "semaphore.acquire()",
    "bounded.acquire()", "semaphore.release()", "local.x", "condition.__enter__()",
])  # fmt: skip
def test_child_hooks_first_call(tmp_path, call):
    """The first call of forksafe after a fork by C runs the hooks."""
    program = script(
        tmp_path / "program.py",
        f"""
        import ctypes, os, forksafe
        log = []
        lock, rlock = forksafe.Lock(), forksafe.RLock()
        semaphore, bounded = forksafe.Semaphore(), forksafe.BoundedSemaphore()
        condition, local = forksafe.Condition(), forksafe.local()
        class Local(forksafe.local):
            def __init__(self): self.x = 1
        local = Local()
        forksafe.register_at_fork(after_in_child=lambda: log.append(1))
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            {call}
            os._exit(0 if log == [1] else 3)
        assert os.waitpid(pid, 0)[1] == 0
        assert log == []
    """,
    )
    succeeds(python(program))


def test_late_hooks_after_threading(tmp_path):
    """A server that calls only the child half (PyOS_AfterFork_Child): threading puts itself right, then ours run."""
    program = script(
        tmp_path / "program.py",
        """
        import ctypes, os, sys, threading, forksafe
        forksafe.install()
        seen = []
        def hook():
            thread = threading.Thread(target=lambda: seen.append(threading.current_thread().name), name="from the hook")
            thread.start()
            thread.join(5)
        forksafe.register_at_fork(after_in_child=hook)
        libc = ctypes.PyDLL(None)
        whole = sys.version_info >= (3, 13)  # whose interpreter dies of the child half alone
        if whole:
            libc.PyOS_BeforeFork()
        pid = libc.fork()
        if pid and whole:
            libc.PyOS_AfterFork_Parent()
        if pid == 0:
            libc.PyOS_AfterFork_Child()
            forksafe.generation()
            os._exit(0 if seen == ["from the hook"] else 3)
        assert os.waitpid(pid, 0)[1] == 0
    """,
    )
    succeeds(python(program))


def test_late_hooks_grandchild(register, fork):
    """Hooks run late in a grandchild too."""
    log = []
    register(after_in_child=lambda: log.append(forksafe.generation()))
    generation = forksafe.generation()

    def child():
        forksafe.generation()
        return run_in_child(lambda: (forksafe.generation(), log)[1], fork=fork)

    assert run_in_child(child, fork=fork) == [generation + 1, generation + 2]


def test_one_fork_at_a_time(register):
    """From its first before hook to its last after_in_parent, no other thread's fork gets in between."""
    log = []
    register(
        before=lambda: (log.append(threading.get_ident()), time.sleep(0.002)),
        after_in_parent=lambda: (time.sleep(0.002), log.append(threading.get_ident())),
    )
    with threads(lambda: [run_in_child(lambda: None, 30) for _ in range(5)], 4):
        pass
    assert len(log) == 40
    assert log[::2] == log[1::2]


def test_hook_never_returns(register, monkeypatch):
    """Other threads' forks wait for it no longer than GATE_TIMEOUT."""
    from forksafe.atfork import gate

    monkeypatch.setattr(gate, "GATE_TIMEOUT", 0.3)
    stuck, go = threading.Event(), threading.Event()

    def hang():
        if threading.current_thread().name == "stuck":
            stuck.set()
            go.wait(30)

    register(before=hang)
    thread = threading.Thread(target=lambda: run_in_child(lambda: None), name="stuck")
    thread.start()
    assert stuck.wait(5)
    start = time.monotonic()
    assert run_in_child(lambda: 1) == 1
    assert time.monotonic() - start < 5
    go.set()
    thread.join(10)


@pytest.mark.parametrize("when", ["before", "after_in_parent", "after_in_child"])
def test_fork_inside_a_hook(register, when):
    """It runs the other hooks, not the one it is in, and both sides go on."""
    log = []

    def forks():
        log.append(run_in_child(lambda: "inner"))

    register(before=lambda: log.append("other"))
    register(**{when: forks})
    result = run_in_child(lambda: list(log))
    if when == "before":
        assert result == ["other", "inner", "other"]  # the inner fork's, then this one's: last registered runs first
    elif when == "after_in_child":
        assert result == ["other", "other", "inner"]
    else:
        assert log == ["other", "other", "inner"]
    assert run_in_child(lambda: 1) == 1


def test_fork_in_unregistered_hook(tmp_path):
    """No hook is left then, but the outer fork is still under way."""
    program = script(
        tmp_path / "program.py",
        """
        import os, forksafe
        log = []
        def forks():
            registration.unregister()
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            log.append("before")
        registration = forksafe.register_at_fork(before=forks, after_in_parent=lambda: log.append("parent"))
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert log == ["before", "parent"], log
    """,
    )
    succeeds(python(program))


def test_register_during_forks(register):
    """Hooks can be registered in a hook, and while other threads fork."""
    made = []

    def add():
        made.append(forksafe.register_at_fork(before=lambda: None))

    register(before=add)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            forksafe.register_at_fork(after_in_child=lambda: None).unregister()

    with threads(churn, 2):
        assert [run_in_child(lambda: 1) for _ in range(20)] == [1] * 20
        stop.set()
    assert len(made) == 20
    for each in made:
        each.unregister()


def test_foreign_hook_takes_lock(tmp_path):
    """Registered before forksafe was imported, with os.register_at_fork, and taking a lock in the child."""
    program = script(
        tmp_path / "program.py",
        """
        import os, threading
        log = []
        os.register_at_fork(after_in_child=lambda: (lock.acquire(), log.append("library"), lock.release()))
        import forksafe
        forksafe.register_at_fork(after_in_child=lambda: log.append("hook"))
        lock = forksafe.Lock()
        inside = threading.Event()
        def hold():
            with lock:
                inside.set()
                go.wait(20)
        go = threading.Event()
        thread = threading.Thread(target=hold); thread.start(); inside.wait(5)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if log == ["library", "hook"] else 3)
        assert os.waitpid(pid, 0)[1] == 0
        go.set(); thread.join()
    """,
    )
    succeeds(python(program))


def test_veto_by_audit_hook(tmp_path):
    """A fork that an audit hook refuses runs no hook and takes no lock."""
    program = script(
        tmp_path / "program.py",
        """
        import os, sys, forksafe
        log = []
        lock = forksafe.Lock(hold=True)
        forksafe.register_at_fork(before=lambda: log.append("before"))
        veto = True
        def audit(event, args):
            if event == "os.fork" and veto:
                raise PermissionError("no")
        sys.addaudithook(audit)
        try:
            os.fork()
        except PermissionError:
            pass
        assert log == [] and not lock.locked()
        veto = False
        pid = os.fork()
        if pid == 0:
            os._exit(0 if lock.acquire(False) else 3)
        assert os.waitpid(pid, 0)[1] == 0 and log == ["before"]
    """,
    )
    succeeds(python(program))


def test_subprocess_without_hooks(register):
    """subprocess with user= forks in C and runs our handler in the child, until exec."""
    import subprocess

    log = []
    register(before=lambda: log.append(1))
    if os.getuid() == 0:
        subprocess.run([sys.executable, "-c", "pass"], user=os.getuid(), check=True, timeout=20)
    subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=20)
    assert log == []
    assert HANDLERS_RUN
